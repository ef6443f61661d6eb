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

import compileall
import os
import shutil
import statistics
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import datago_gpu
from benchmarks.common import NotHere, machine, material_folder, parser
from benchmarks.suite import cached, idle, plots, workloads
from benchmarks.suite.distance import HERE, Route, own_core, route
from benchmarks.suite.figures import Figures, Table
from benchmarks.suite.peers import LIMITS, OURS, PEERS, VARIANTS, Peer, find, run
from benchmarks.suite.programs import PROGRAMS, output
from benchmarks.suite.report import into_docs, markdown
from benchmarks.suite.servers import dataroom, nginx
from benchmarks.suite.workloads import Workload

PACKAGE = Path(datago_gpu.__file__).parent


class Suite:
    """One call of this script."""

    def __init__(self, args: Namespace) -> None:
        self.args, self.material = args, material_folder(args.material)
        self.figures = figures = Figures.read(args.out / "figures.json")
        figures.machine, figures.date = machine(), time.strftime("%Y-%m-%d", time.gmtime())
        named = [text.rpartition("=") for text in args.python]
        self.pythons = pythons = {name: path for name, _, path in named}
        invited = [peer for peer in (OURS, *VARIANTS, *PEERS, *LIMITS) if not args.who or peer.program in args.who]
        self.everybody = [find(peer, pythons) for peer in invited]
        versions: dict[str, set[str]] = {}
        for peer in self.everybody:
            for name, version in peer.versions.items():
                versions.setdefault(name, set()).add(version)
            figures.missing.pop(peer.name, None)
            if peer.missing:
                figures.missing[peer.name] = peer.missing
            print(f"  {peer.name:28} {peer.missing or peer.python}")
        figures.versions |= {name: " and ".join(sorted(found)) for name, found in versions.items()}

    def measure(self, part: str) -> bool:
        """Measures a part and writes the report so far. False: it failed, which the report says, and others go on."""
        clock, figures, whole = time.perf_counter(), self.figures, True
        figures.notes = [note for note in figures.notes if f": {part}, as " not in note]
        try:
            if part in PROGRAMS:
                self.program(part)
            else:
                getattr(self, part)()
        except NotHere as reason:
            figures.notes.append(f"Skipped: {part}, as {reason}.")
        except (RuntimeError, OSError) as problem:
            words = str(problem).replace("\n", "; ")[-300:]
            figures.notes.append(f"Failed: {part}, as {words}.")
            whole = False
        else:
            figures.took_s[part] = time.perf_counter() - clock
        figures.write()
        (self.args.out / "report.md").write_text(markdown(figures))
        print("\n".join(note for note in figures.notes if f": {part}, as " in note), flush=True)
        return whole

    def contest(self, key: str, title: str, spec: dict[str, Any], unit: str = "images/s", way: Route = HERE) -> None:
        """Has everybody who can do it run one workload, whose server is at the end of a way."""
        key, title = key + ("-apart" if way.apart else ""), f"{title}: {spec['count']:,}{way.note}"
        known = self.figures.tables.get(key) if self.args.who else None  # then the others' runs are kept
        table = replace(known, title=title) if known else Table(title, unit, apart=way.apart)
        able = {peer.name: partial(run, peer, spec, way.client) for peer in self._able(spec["kind"], key, table)}
        table.measure(able, self.args.runs)
        table.show()
        self.keep(key, table)

    def keep(self, key: str, table: Table) -> None:
        """Writes down a table as soon as it is there, with the load of the machine while it was measured."""
        table.load = os.getloadavg()[0]
        self.figures.tables[key] = table
        self.figures.write()

    def _able(self, kind: str, key: str, table: Table) -> Iterator[Peer]:
        for peer in self.everybody:
            if peer.only not in ("", key):
                continue
            table.runs.pop(peer.name, None)
            table.absent.pop(peer.name, None)
            table.stalled.pop(peer.name, None)
            if kind in peer.kinds and not peer.missing:
                yield peer
            elif kind in peer.kinds:
                table.absent[peer.name] = "not installed"
            elif peer.cannot and kind != "payloads":
                table.absent[peer.name] = f"cannot: {peer.cannot}"

    def local(self) -> None:
        """Files of a folder."""
        for workload in workloads.LOCAL:
            self.contest(workload.name, workload.title, self._spec(workload))

    def _spec(self, workload: Workload) -> dict[str, Any]:
        count = workload.scaled(self.args.scale)
        root = workloads.lay_out_workload(self.material, workload.pixels, count)
        workloads.warm(root)
        return {"kind": workload.kind, "count": count, "size": workload.size, "root": str(root)}

    def _shards(self) -> tuple[dict[str, Any], Path, list[str]]:
        """The run, the folder of its shards and their names."""
        spec = self._spec(workloads.SHARDS)
        root, names = workloads.lay_out_shards(self.material, workloads.SHARDS.pixels, spec["count"])
        workloads.warm(root)
        return spec, root, names

    def _over_http(self, key: str, title: str, way: Route, **more: Any) -> None:
        spec, root, names = self._shards()
        with nginx(root, way) as url:
            self.contest(key, title, {**spec, "urls": [f"{url}/{name}" for name in names], **more}, way=way)

    def shards(self) -> None:
        """Shards from nginx, near and far."""
        self._over_http("shards-near", f"{workloads.SHARDS.title}, loopback", HERE)
        for place in (each for each in workloads.DISTANCES if each.name in self.args.distances):
            key, title = f"shards-{place.name}", f"{workloads.SHARDS.title}, {place}"
            try:
                with route(place.delay_ms, place.loss) as way:
                    self._over_http(key, title, way)
            except NotHere as reason:
                print(f"\n{title}: skipped, {reason}")
                self.keep(key, Table(title, "images/s", absent={"skipped": str(reason)}))

    def buffer(self) -> None:
        """Shards that are larger than what may be read ahead of them."""
        _, root, names = self._shards()
        megabytes = sum((root / name).stat().st_size for name in names) // 1_000_000
        title = f"{workloads.SHARDS.title}, buffer_mb {workloads.SMALL_BUFFER_MB} for {megabytes} MB"
        self._over_http("shards-buffer", title, HERE, options={"source": {"buffer_mb": workloads.SMALL_BUFFER_MB}})

    def dataroom(self) -> None:
        """A list of the embedded server, payloads from a port of their own."""
        self._dataroom(HERE)

    def apart(self) -> None:
        """Shards and a Dataroom from a server that has a core of its own, as one on another machine has."""
        way = own_core()
        self._over_http(workloads.SHARDS.name, workloads.SHARDS.title, way)
        self._dataroom(way)

    def _dataroom(self, way: Route) -> None:
        for workload in workloads.DATAROOM:
            masks = workload.name.endswith("masks")
            spec = self._spec(workload)
            root = workloads.lay_out_dataroom(self.material, workload.pixels, spec["count"], masks=masks)
            workloads.warm(root)
            with dataroom(root, way) as source:
                spec |= source | {"root": str(root), "mask": workloads.MASK if masks else ""}
                self.contest(workload.name, workload.title, spec, way=way)

    def payloads(self) -> None:
        """The network side alone: nothing is decoded."""
        for kilobytes, full in workloads.PAYLOADS.items():
            count, root = max(round(full * self.args.scale), 500), self.material / f"nginx-{kilobytes}"
            with nginx(root) as url:
                urls = workloads.lay_out_payloads(root, kilobytes * 1000, count, url)
                spec = {"kind": "payloads", "count": count, "urls": urls, "api_url": f"{url}/api/"}
                self.contest(f"payloads-{kilobytes}", f"payloads of {kilobytes} KB, not decoded", spec, "GB/s")

    def cache(self) -> None:
        """Without a cache, while it fills, and from it: a Dataroom here, shards 20 ms away."""
        spec = self._spec(workloads.DATAROOM[0])
        with dataroom(Path(spec["root"])) as source:
            self._cache("cache-dataroom", workloads.DATAROOM[0].title, {**spec, **source, "kind": "dataroom"}, HERE)
        spec, root, names = self._shards()
        place = workloads.DISTANCES[0]
        with route(place.delay_ms, place.loss) as way, nginx(root, way) as url:
            spec["urls"] = [f"{url}/{name}" for name in names]
            self._cache("cache-shards", f"{workloads.SHARDS.title}, {place}", spec, way)

    def _cache(self, key: str, title: str, spec: dict[str, Any], way: Route) -> None:
        table = Table(f"{title}, and a cache: {spec['count']:,}{way.note}", "images/s")
        with cached.contestants(find(OURS, {}), spec, way.client, self.material) as runs:
            table.measure(runs, self.args.runs)
        table.show()
        self.keep(key, table)

    def program(self, part: str) -> None:
        """A benchmark that is a program of its own."""
        program, python = PROGRAMS[part], self.pythons.get("torch", self.pythons.get("", ""))
        text = output(program, self.args.runs, self.args.scale, self.material, python)
        print(f"\n{program.title}\n\n{text}", flush=True)
        self.figures.programs[part] = {"title": program.title, "text": text, "load": f"{os.getloadavg()[0]:.1f}"}
        self.figures.write()

    def million(self) -> None:
        """Time to the first batch of a large tree, and memory then."""
        count = self.args.tree
        clock = time.perf_counter()
        root = workloads.lay_out_tree(self.material, count)
        print(f"\na tree of {count:,} files: {time.perf_counter() - clock:.0f} s to make or find")
        spec = {"kind": "million", "count": count, "size": 64, "root": str(root)}
        self.contest("million", "time to the first batch, files in order", spec, unit="s")
        self.everybody, everybody = [peer for peer in self.everybody if peer.name == OURS.name], self.everybody
        shuffled = {**spec, "options": {"source": {"random_sampling": True}}}
        self.contest("million-shuffled", "time to the first batch, files shuffled", shuffled, unit="s")
        self.everybody = everybody

    def idle(self) -> None:
        """What the feeder takes while the trainer is the slow one."""
        files = Path(self._spec(workloads.LOCAL[0])["root"])
        _, root, names = self._shards()
        with ExitStack() as stack:
            sources = idle.sources(files, stack.enter_context(dataroom(files)))
            sources |= idle.shards("local shards", str(root))
            try:
                url = stack.enter_context(nginx(root))
                sources |= idle.shards("shards over HTTP", "::".join(f"{url}/{name}" for name in names))
            except NotHere as reason:
                print(f"\nno shards over HTTP: {reason}")
            for title, config in sources.items():
                self.figures.idle[title] = made = idle.measure(config, self.args.idle_s)
                print(f"  {title:48} {made['still_cores']:.2%} of a core, then {made['slow_cores']:.2%}", flush=True)
                self.figures.write()

    def costs(self) -> None:
        """What one more sample costs each part of ours: the difference between runs of two lengths."""
        files = self._spec(workloads.LOCAL[0])
        _, shards, names = self._shards()
        with dataroom(Path(files["root"])) as source, nginx(shards) as url:
            self._cost("files of 500 px", files)
            dali = {**files, "options": {"backend": "dali"}}
            self._cost("files of 500 px, DALI on the CPU", dali)
            self._cost("files of 500 px, DALI on the CPU, batches of 128", {**dali, "batch": 128})
            self._cost("files of 2.5 MP to 512", self._spec(workloads.LOCAL[1]))
            self._cost("shards over HTTP, 500 px", {**files, "kind": "shards", "urls": [f"{url}/{n}" for n in names]})
            self._cost("a Dataroom, 500 px", {**files, "kind": "dataroom", **source})

    def _cost(self, title: str, spec: dict[str, Any]) -> None:
        ours = find(OURS, {})
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
        spec, most = self._spec(workloads.LOCAL[0]), len(os.sched_getaffinity(0))
        workers = sorted({1, 2, most, 2 * most})
        counts = dict.fromkeys((OURS.name, "datago", "torch DataLoader + Pillow", "DALI, CPU"), workers)
        counts["datago"] = [1, 2, 8, 32]
        threads = {name: [(n, {"threads": n}, ()) for n in values] for name, values in counts.items()}
        cores = [2**n for n in range(most.bit_length()) if 2**n <= most]
        of_cores: list[Any] = [(n, {}, ("taskset", "-c", _first_cores(n))) for n in cores if shutil.which("taskset")]
        self._vary("threads, tasks or workers", threads, able, spec)
        self._vary("cores", dict.fromkeys((OURS.name, "datago", "torch DataLoader + Pillow"), of_cores), able, spec)
        spec, root, names = self._shards()
        with route(workloads.DISTANCES[0].delay_ms, 0.0) as way, nginx(root, way) as url:
            spec["urls"] = [f"{url}/{name}" for name in names]
            points = [(n, {"options": {"source": {"concurrent_downloads": n}}}, way.client) for n in (1, 2, 4, 8, 16)]
            self._vary(f"shards open at once, {workloads.DISTANCES[0]}{way.note}", {OURS.name: points}, able, spec)

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


COMPARED = (
    "local",
    "shards",
    "buffer",
    "dataroom",
    "apart",
    "payloads",
    "million",
    "cache",
    "idle",
    "costs",
    "scaling",
)
PARTS = (*COMPARED, *PROGRAMS)
EVERYTHING = {"scale": 0.6, "distances": ("20ms", "100ms-loss")}
"""Defaults of a run of all parts, which make it shorter."""

DISTANCES = tuple(each.name for each in workloads.DISTANCES)


def _first_cores(count: int) -> str:
    return ",".join(map(str, sorted(os.sched_getaffinity(0))[:count]))


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--only", nargs="+", choices=PARTS, default=COMPARED, help="parts to measure")
    options.add_argument("--everything", action="store_true", help="all parts, each a bit shorter")
    options.add_argument("--scale", type=float, default=1.0, help="share of the pictures, for a quick look")
    options.add_argument("--distances", nargs="*", default=DISTANCES, choices=DISTANCES, help="of shards, beside none")
    options.add_argument("--who", nargs="+", help="contestants to measure (ours, datago, ...); others keep theirs")
    options.add_argument("--tree", type=int, default=1_000_000, help="files of the large folder tree")
    options.add_argument("--idle-s", type=float, default=5.0, help="seconds for which the trainer stands still")
    options.add_argument("--out", type=Path, default=Path("results/bench"), help="where the report goes")
    options.add_argument("--python", action="append", default=[], metavar="[PEER=]PATH",
                         help="an interpreter for a peer (torch, spdl, ...) or for all; may be repeated")  # fmt: skip
    options.add_argument("--docs", action="store_true", help="renew docs/performance.md and what lies beside it")
    options.add_argument("--clean", action="store_true", help="remove the pictures when done")
    if options.parse_args().everything:
        options.set_defaults(**EVERYTHING)
    args = options.parse_args()
    print(machine())
    compileall.compile_dir(PACKAGE, quiet=1)  # as pip does for the peers
    suite = Suite(args)
    failed = [part for part in (PARTS if args.everything else args.only) if not suite.measure(part)]
    drawn: list[Path] = []
    try:
        drawn = plots.draw(suite.figures, args.out)
    except ImportError:
        print("\nno plots: matplotlib is not installed")
    if args.docs:
        into_docs(suite.figures, drawn)
    print(f"\n{args.out / 'report.md'}, figures.json and plots are written")
    if args.clean:
        shutil.rmtree(suite.material)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}; the report says why")


if __name__ == "__main__":
    main()
