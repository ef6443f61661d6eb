"""Is it faster than what you use today? datago_gpu beside its peers, on this machine, the same work for everybody.

    make bench                                                      all of it, about half an hour on 2 cores
    python -m benchmarks.run --only local shards --runs 5           a part; the report keeps what was measured before
    python -m benchmarks.run --python ~/env/bin/python              an interpreter that has further peers (torch, ...)

The same files, page cache warm, square pictures of the same size, dense batches of 32 in memory; runs in alternating
order, median and range. The clock runs from making the loader to the last pixel, with imports done. Contestants are in
peers/; those that are not installed, or cannot do a workload, are named with the reason. Writes figures.json, report.md
and plots to --out. Pictures stay in --material for the next time; --clean removes them.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import Contest, contestant, machine, material_folder, parser
from benchmarks.feeder import BARE, PROCESSES, lay_out
from benchmarks.feeder import OURS as FEEDER
from benchmarks.suite import idle, plots
from benchmarks.suite.distance import HERE, NotHere, Route, own_core, relay, route
from benchmarks.suite.figures import Figures, Table
from benchmarks.suite.peers import LIMITS, OURS, PEERS, VARIANTS, Peer, find, run
from benchmarks.suite.report import into_docs, markdown
from benchmarks.suite.servers import dataroom, free_port, nginx
from benchmarks.suite.workloads import (
    DATAROOM,
    DISTANCES,
    LOCAL,
    MASK,
    SHARDS,
    SMALL_BUFFER_MB,
    Distance,
    Workload,
    lay_out_dataroom,
    lay_out_shards,
    lay_out_tree,
    lay_out_workload,
    warm,
)


class Suite:
    """One call of this script."""

    def __init__(self, args: Namespace) -> None:
        self.args, self.material = args, material_folder(args.material)
        self.figures = figures = Figures.read(args.out / "figures.json")
        figures.machine = machine()
        named = [text.rpartition("=") for text in args.python]
        pythons = {name: path for name, _, path in named}
        self.everybody = [find(peer, pythons) for peer in (OURS, *VARIANTS, *PEERS, *LIMITS)]
        figures.missing = {peer.name: peer.missing for peer in self.everybody if peer.missing}
        for peer in self.everybody:
            figures.versions |= peer.versions
            print(f"  {peer.name:28} {peer.missing or peer.python}")

    def contest(self, key: str, title: str, spec: dict[str, Any], unit: str = "images/s", way: Route = HERE) -> None:
        """Have everybody who can do it run one workload, whose server is at the end of a way."""
        key, title = key + ("-apart" if way.apart else ""), title + way.note
        known = self.figures.tables.get(key) if self.args.who else None  # then the others' runs are kept
        table = replace(known, title=title) if known else Table(title, unit, apart=way.apart)
        able = self._able(spec["kind"], key, table)
        runs = {peer.name: partial(self._run, table, peer, spec, way.client) for peer in able}
        contest = Contest(title, unit, self.args.runs)
        contest.hold(runs, warm_up=False)  # imports were done by `find`, files read by `warm`
        for name in table.absent:
            contest.figures.pop(name, None)
        contest.show()
        self.keep(key, table)

    def keep(self, key: str, table: Table) -> None:
        """Write down a table as soon as it is there, with the load of the machine while it was measured."""
        table.load = os.getloadavg()[0]
        for name, reason in table.absent.items():
            print(f"  {name:34} {reason}")
        self.figures.tables[key] = table
        self.figures.write()

    def _able(self, kind: str, key: str, table: Table) -> Iterator[Peer]:
        for peer in self.everybody:
            if peer.only not in ("", key) or (self.args.who and peer.program not in self.args.who):
                continue
            table.runs.pop(peer.name, None)
            table.absent.pop(peer.name, None)
            if kind in peer.kinds and not peer.missing:
                yield peer
            elif kind in peer.kinds:
                table.absent[peer.name] = "not installed"
            elif peer.cannot:
                table.absent[peer.name] = f"cannot: {peer.cannot}"

    def _run(self, table: Table, peer: Peer, spec: dict[str, Any], within: tuple[str, ...]) -> float:
        if peer.name in table.absent:
            return 0.0
        try:
            made = run(peer, spec, within)
        except RuntimeError as problem:
            table.runs.pop(peer.name, None)
            table.absent[peer.name] = "failed: " + str(problem).replace("\n", "; ")[-300:]
            return 0.0
        table.runs.setdefault(peer.name, []).append(made)
        return table.values(peer.name)[-1]

    def local(self) -> None:
        """Files of a folder."""
        for workload in LOCAL:
            spec = self._spec(workload)
            self.contest(workload.name, f"{workload.title}: {spec['count']:,}", spec)

    def _spec(self, workload: Workload) -> dict[str, Any]:
        count = workload.scaled(self.args.scale)
        root = lay_out_workload(self.material, workload.pixels, count)
        warm(root)
        return {"kind": workload.kind, "count": count, "size": workload.size, "root": str(root)}

    def _shards(self) -> tuple[dict[str, Any], Path, list[str]]:
        """The run, the folder of its shards and their names."""
        spec = self._spec(SHARDS)
        root, names = lay_out_shards(self.material, SHARDS.pixels, spec["count"])
        warm(root)
        return spec, root, names

    def shards(self) -> None:
        """Shards from nginx, near and far."""
        spec, root, names = self._shards()
        for place in DISTANCES:
            key, title = f"shards-{place.name}", f"{SHARDS.title}, {place}: {spec['count']:,}"
            try:
                with self._served(root, place) as (url, way):
                    urls = [f"{url}/{name}" for name in names]
                    self.contest(key, title, {**spec, "urls": urls}, way=way)
            except NotHere as reason:
                print(f"\n{title}: skipped, {reason}")
                self.keep(key, Table(title, "images/s", absent={"skipped": str(reason)}))

    def buffer(self) -> None:
        """Shards that are larger than what may be read ahead of them."""
        spec, root, names = self._shards()
        megabytes = sum((root / name).stat().st_size for name in names) // 1_000_000
        title = f"{SHARDS.title}, buffer_mb {SMALL_BUFFER_MB} for {megabytes} MB: {spec['count']:,}"
        with nginx(root, free_port()) as url:
            spec |= {"urls": [f"{url}/{name}" for name in names], "options": {"source": {"buffer_mb": SMALL_BUFFER_MB}}}
            self.contest("shards-buffer", title, spec)

    @contextmanager
    def _served(self, root: Path, place: Distance) -> Iterator[tuple[str, Route]]:
        """A folder behind nginx: its address, and how to get there."""
        with ExitStack() as stack:
            port, way = free_port(), HERE
            if place.delay_ms:
                try:
                    way = stack.enter_context(route(place.delay_ms, place.loss))
                except NotHere as reason:
                    if place.loss:
                        raise
                    print(f"\nno netem ({reason}): a relay delays instead")
            url = stack.enter_context(nginx(root, port, way))
            if place.delay_ms and way is HERE:
                url = f"http://{HERE.host}:{stack.enter_context(relay(port, place.delay_ms))}"
                way = replace(HERE, note=" (by a relay)")
            yield url, way

    def dataroom(self) -> None:
        """A list of the embedded server, payloads from a port of their own."""
        self._dataroom(HERE)

    def apart(self) -> None:
        """Shards and a Dataroom from a server that has a core of its own, as one on another machine has."""
        way = own_core()
        spec, root, names = self._shards()
        with nginx(root, free_port(), way) as url:
            spec["urls"] = [f"{url}/{name}" for name in names]
            self.contest(SHARDS.name, f"{SHARDS.title}: {spec['count']:,}", spec, way=way)
        self._dataroom(way)

    def _dataroom(self, way: Route) -> None:
        for workload in DATAROOM:
            masks = workload.name.endswith("masks")
            spec = self._spec(workload)
            root = lay_out_dataroom(self.material, workload.pixels, spec["count"], masks=masks)
            warm(root)
            with dataroom(root, way) as source:
                spec |= source | {"root": str(root), "mask": MASK if masks else ""}
                self.contest(workload.name, f"{workload.title}: {spec['count']:,}", spec, way=way)

    def payloads(self) -> None:
        """The network side alone: nothing is decoded."""
        for kilobytes, full in ((40, 60_000), (400, 12_000)):
            count, port = max(round(full * self.args.scale), 500), free_port()
            root = self.material / f"nginx-{kilobytes}"
            lay_out(root, kilobytes * 1000, count, f"http://127.0.0.1:{port}")
            title = f"payloads of {kilobytes} KB, not decoded: {count:,}"
            table, contest = Table(title, "GB/s"), Contest(title, "requests/s", self.args.runs)
            with nginx(root, port) as url:
                given = (url, str(count), "64", "128", "0.05")
                ours = {OURS.name + name: partial(contestant, FEEDER, *given, str(n)) for name, n in PROCESSES.items()}
                contest.hold({**ours, "limit: aiohttp alone": partial(contestant, BARE, *given)})
            contest.show()
            for name, rates in contest.figures.items():
                table.runs[name] = [{"images": count, "seconds": count / rate, "bytes": count * kilobytes * 1000}
                                    for rate in rates]  # fmt: skip
            self.keep(f"payloads-{kilobytes}", table)

    def million(self) -> None:
        """Time to the first batch of a large tree, and memory then."""
        count = self.args.tree
        clock = time.perf_counter()
        root = lay_out_tree(self.material, count)
        print(f"\na tree of {count:,} files: {time.perf_counter() - clock:.0f} s to make or find")
        spec = {"kind": "million", "count": count, "size": 64, "root": str(root)}
        self.contest("million", f"first batch of {count:,} files, in order", spec, unit="s")
        self.everybody, everybody = [peer for peer in self.everybody if peer.name == OURS.name], self.everybody
        shuffled = {**spec, "options": {"source": {"random_sampling": True}}}
        self.contest("million-shuffled", f"first batch of {count:,} files, shuffled", shuffled, unit="s")
        self.everybody = everybody

    def idle(self) -> None:
        """What the feeder takes while the trainer is the slow one."""
        files = Path(self._spec(LOCAL[0])["root"])
        _, root, names = self._shards()
        with ExitStack() as stack:
            sources = idle.sources(files, stack.enter_context(dataroom(files)))
            sources |= idle.shards("local shards", str(root))
            try:
                url = stack.enter_context(nginx(root, free_port()))
                sources |= idle.shards("shards over HTTP", "::".join(f"{url}/{name}" for name in names))
            except NotHere as reason:
                print(f"\nno shards over HTTP: {reason}")
            for title, config in sources.items():
                self.figures.idle[title] = made = idle.measure(config, self.args.idle_s)
                print(f"  {title:48} {made['still_cores']:.2%} of a core, then {made['slow_cores']:.2%}", flush=True)
                self.figures.write()

    def costs(self) -> None:
        """What one more sample costs each part of ours: the difference between runs of two lengths."""
        files = self._spec(LOCAL[0])
        _, shards, names = self._shards()
        with dataroom(Path(files["root"])) as source, nginx(shards, free_port()) as url:
            self._cost("files of 500 px", files)
            dali = {**files, "options": {"backend": "dali"}}
            self._cost("files of 500 px, DALI on the CPU", dali)
            self._cost("files of 500 px, DALI on the CPU, batches of 128", {**dali, "batch": 128})
            self._cost("files of 2.5 MP to 512", self._spec(LOCAL[1]))
            self._cost("shards over HTTP, 500 px", {**files, "kind": "shards", "urls": [f"{url}/{n}" for n in names]})
            self._cost("a Dataroom, 500 px", {**files, "kind": "dataroom", **source})

    def _cost(self, title: str, spec: dict[str, Any]) -> None:
        (ours,) = (peer for peer in self.everybody if peer.name == OURS.name)
        counts = spec["count"] // 4, spec["count"]
        spent = [[run(ours, {**spec, "count": count})["cpu_s"] for count in counts] for _ in range(self.args.runs)]
        self.figures.costs_us[title] = costs = {
            part: statistics.median(more[part] - less[part] for less, more in spent) / (counts[1] - counts[0]) * 1e6
            for part in spent[0][0]
        }
        print(f"  {title:48} " + ", ".join(f"{part} {value:,.0f} us" for part, value in costs.items()), flush=True)
        self.figures.write()

    def scaling(self) -> None:
        """With threads, with cores, with downloads in flight. One run each."""
        able = {peer.name: peer for peer in self.everybody if not peer.missing}
        spec, most = self._spec(LOCAL[0]), len(os.sched_getaffinity(0))
        workers = sorted({1, 2, most, 2 * most})
        threads = {
            name: [(n, {"threads": n}, ()) for n in values]
            for name, values in (
                (OURS.name, workers), ("datago", [1, 2, 8, 32]), ("torch DataLoader + Pillow", workers),
                ("DALI, CPU", workers),
            )
        }  # fmt: skip
        cores = [2**n for n in range(most.bit_length()) if 2**n <= most]
        of_cores = [(n, {}, ("taskset", "-c", _first_cores(n))) for n in cores] if shutil.which("taskset") else []
        self._vary("threads, tasks or workers", threads, able, spec)
        self._vary("cores", dict.fromkeys((OURS.name, "datago", "torch DataLoader + Pillow"), of_cores), able, spec)
        spec, root, names = self._shards()
        with self._served(root, DISTANCES[1]) as (url, way):
            spec["urls"] = [f"{url}/{name}" for name in names]
            points = [(n, {"options": {"source": {"concurrent_downloads": n}}}, way.client) for n in (1, 2, 4, 8, 16)]
            self._vary(f"shards open at once, 20 ms away{way.note}", {OURS.name: points}, able, spec)

    def _vary(self, varied: str, lines: dict[str, list[Any]], able: dict[str, Peer], spec: dict[str, Any]) -> None:
        print(f"\nscaling with {varied}")
        measured: dict[str, list[tuple[float, float]]] = {}
        for name, points in lines.items():
            for value, changes, within in points if name in able else []:
                try:
                    made = run(able[name], {**spec, **changes}, within)
                except RuntimeError as problem:
                    print(f"  {name:28} {value:4}  failed: {problem}")
                    continue
                measured.setdefault(name, []).append((value, made["images"] / made["seconds"]))
                print(f"  {name:28} {value:4} {measured[name][-1][1]:10,.0f} images/s", flush=True)
        self.figures.scaling[varied] = measured
        self.figures.write()


PARTS = ("local", "shards", "buffer", "dataroom", "apart", "payloads", "million", "idle", "costs", "scaling")


def _first_cores(count: int) -> str:
    return ",".join(map(str, sorted(os.sched_getaffinity(0))[:count]))


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure")
    options.add_argument("--scale", type=float, default=1.0, help="share of the pictures, for a quick look")
    options.add_argument(
        "--who", nargs="+", help="contestants to measure (ours, datago, torch, ...); others keep theirs"
    )
    options.add_argument("--tree", type=int, default=1_000_000, help="files of the large folder tree")
    options.add_argument("--idle-s", type=float, default=5.0, help="seconds for which the trainer stands still")
    options.add_argument("--out", type=Path, default=Path("results/bench"), help="where the report goes")
    options.add_argument("--python", action="append", default=[], metavar="[PEER=]PATH",
                         help="an interpreter for a peer (torch, spdl, ...) or for all; may be repeated")  # fmt: skip
    options.add_argument("--docs", action="store_true", help="renew the figures and plots of docs/performance.md")
    options.add_argument("--clean", action="store_true", help="remove the pictures when done")
    args = options.parse_args()
    print(machine())
    suite = Suite(args)
    for part in args.only:
        try:
            getattr(suite, part)()
        except NotHere as reason:
            print(f"\n{part}: skipped, {reason}")
            suite.figures.notes = [*suite.figures.notes, f"Skipped: {part}, as {reason}."]
    suite.figures.write()
    (args.out / "report.md").write_text(markdown(suite.figures))
    drawn: list[Path] = []
    try:
        drawn = plots.draw(suite.figures, args.out)
    except ImportError:
        print("\nno plots: matplotlib is not installed")
    if args.docs:
        into_docs(markdown(suite.figures), drawn)
    print(f"\n{args.out / 'report.md'}, figures.json and plots are written")
    if args.clean:
        shutil.rmtree(suite.material)


if __name__ == "__main__":
    main()
