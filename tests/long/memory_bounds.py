"""Does memory keep to the settings, whatever comes? Hostile inputs, one run each, held to docs/operations/memory.md.

    python -m tests.long.memory_bounds [--only WORD ...] [--out FILE]

Prints for each case, in MiB, what was measured of what the settings promise: for the trainer's process, for the feeder,
for the largest process that downloads and for all that decode, each without what they share; and for that. Exits with 1
where one is over. All of it takes some ten minutes, and 2 GB of disk for the pictures. --only: cases whose name has one
of these words.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.common import machine, material_folder, parser, table
from datago_gpu import LoaderConfig
from datago_gpu.doctor.memory import MemorySum
from tests.long.memory_cases import CASES, Case
from tests.support.servers import MisbehavingServer

MiB = 1024 * 1024
LOOK_S = 0.004
PARTS = ("trainer", "feeder", "downloading", "decoding", "shared")
TRAINER = """
import json, sys, time
from contextlib import suppress
from pathlib import Path
from datago_gpu import Loader

config, backend = json.loads(sys.argv[1]), sys.argv[2]


def memory(pid):
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1])
    return 0


def wait_until_full(pid):
    # All that may be fetched and decoded ahead is there once nothing grows any more.
    began = since = time.monotonic()
    before = 0
    while time.monotonic() - since < 1.0 and time.monotonic() - began < 20:
        time.sleep(0.05)
        now = memory(pid)
        if abs(now - before) > 1024:
            before, since = now, time.monotonic()


count = 0
with Loader(config, device="cpu", backend=backend) as loader:
    for number, batch in enumerate(loader):
        count += len(batch)
        if number in (0, 2, 5, 9, 14):
            wait_until_full(loader.feeder_pid)
    print(json.dumps([count, dict(loader.stats().skipped)]))
"""


def measure(case: Case, root: Path) -> tuple[dict[str, float], dict[str, float], str]:
    """MiB that were promised and measured, by what takes them; and what came of the samples."""
    with MisbehavingServer() as server:
        settings = {**case.source(root, server), **case.settings}
        command = [sys.executable, "-c", TRAINER, json.dumps(settings), case.backend]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            measured = dict.fromkeys(PARTS, 0.0)
            while process.poll() is None:
                look(process.pid, measured)
                time.sleep(LOOK_S)
            said, problem = process.communicate()
    outcome = said.strip() or next((line for line in problem.splitlines() if "Error" in line), problem)[:120]
    return promised(case, settings), measured, outcome


def promised(case: Case, settings: dict[str, Any]) -> dict[str, float]:
    found = MemorySum.of(LoaderConfig.load(settings), case.backend)
    more = {"trainer": case.trainer_mb, "feeder": case.feeder_mb}
    parts = {name: sum(getattr(found, name).values()) / MiB + more.get(name, 0) for name in PARTS}
    return {**parts, "downloading": parts["downloading"] if found.processes else 0}


def look(trainer: int, peaks: dict[str, float]) -> None:
    """Raise the peaks to what is there now."""
    now = dict.fromkeys(PARTS, 0.0)
    now["trainer"], _ = resident(trainer)
    for pid, name in children(trainer):
        own, shared = resident(pid)
        now[name] = max(now[name], own)
        now["shared"] = max(now["shared"], shared)
        if name == "feeder":
            now["decoding"] = max(now["decoding"], sum(map(of_its_own, descendants(pid))))
            now["shared"] = max([now["shared"], *(resident(each)[1] for each in descendants(pid))])
    for name in PARTS:
        peaks[name] = max(peaks[name], now[name])


def children(pid: int) -> list[tuple[int, str]]:
    """The feeders of a trainer, and the processes that download for them."""
    found = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
                for module, name in ((b"datago_gpu.feeder", "feeder"), (b"datago_gpu.feeder.download", "downloading")):
                    if module in command:
                        found.append((child, name))
    return found


def descendants(pid: int) -> list[int]:
    """The fork server of a feeder, and the decode processes."""
    found = []
    with suppress(OSError):
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            found += [child, *descendants(child)]
    return found


def of_its_own(pid: int) -> float:
    """MiB of a process, with its share of the pages that forks have in common, but not of the shared memory."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon", "Pss_File"))) / 1024
    return 0.0


def resident(pid: int) -> tuple[float, float]:
    """MiB of a process: its own, with the files that it has mapped; and those that it shares."""
    found = {"RssAnon": 0.0, "RssFile": 0.0, "RssShmem": 0.0}
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in found:
                found[name] = int(rest.split()[0]) / 1024
    return found["RssAnon"] + found["RssFile"], found["RssShmem"]


def compare(root: Path, words: list[str], over: list[str]) -> Iterator[list[str]]:
    """Yields a row for each case whose name has one of the words; adds the names of those that take too much."""
    for name, case in CASES.items():
        if not any(word in name for word in words):
            continue
        bounds, peaks, outcome = measure(case, root)
        verdict = "ok" if all(peaks[part] <= bounds[part] for part in PARTS) else "OVER"
        over += [name] if verdict != "ok" else []
        print(f"  {name}: {outcome}", flush=True)
        cells = [f"{peaks[part]:,.0f} of {bounds[part]:,.0f}" if bounds[part] else "" for part in PARTS]
        yield [name.strip(), *cells, "; ".join(filter(None, (verdict, case.why)))]


def main() -> int:
    options = parser(__doc__ or "", runs=1)
    options.add_argument("--only", nargs="+", default=[""], help="cases whose name has one of these words")
    options.add_argument("--out", type=Path, help="write the table to this file")
    args = options.parse_args()
    over: list[str] = []
    rows = compare(material_folder(args.material) / "memory", args.only, over)
    lines = [machine(), ""]
    for line in table(["MiB, measured of promised", *PARTS, ""], rows):
        lines.append(line)
        print(line, flush=True)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")
    print(f"over: {', '.join(over)}" if over else "all within what the settings promise")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
