"""Does a loader stall, or is it slow? Starts one many times, and counts the runs in which it stopped delivering.

    python -m benchmarks.stalls --peer datago --starts 40 [--limit 20] [--count 500] [--python PYTHON]

Each start streams the same pictures (500 px to 224) from a Dataroom server of this package on loopback, one sample
after the other. A run that waits longer than the limit for a sample has stalled: it is ended there, and does not enter
the median of the others. --peer names a program of benchmarks/peers ("ours", "datago"), or any NAME_peer.py by its path
without "_peer.py".
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.common import machine, material_folder, number, parser
from benchmarks.suite.peers import STALL_S, Peer, Stalled, find, run
from benchmarks.suite.servers import dataroom
from benchmarks.suite.workloads import lay_out_workload, warm


def main() -> None:
    options = parser(__doc__ or "", runs=0)
    options.add_argument("--peer", default="datago", help="the program to start")
    options.add_argument("--starts", type=int, default=40)
    options.add_argument("--limit", type=float, default=STALL_S, help="seconds without a sample that are a stall")
    options.add_argument("--count", type=int, default=500, help="samples of each run")
    options.add_argument("--python", default="", help="an interpreter that has the peer")
    args = options.parse_args()
    print(machine())
    peer = find(Peer(args.peer, args.peer, ("dataroom",), stall_s=args.limit), {"": args.python})
    if peer.missing:
        raise SystemExit(f"{args.peer} cannot be started: {peer.missing}")
    print(", ".join(f"{name} {version}" for name, version in peer.versions.items()))
    root = lay_out_workload(material_folder(args.material), "500px", args.count)
    warm(root)
    with dataroom(root) as source:
        spec = {"kind": "dataroom", "count": args.count, "size": 224, "batch": 1, "root": str(root), **source}
        waits = [start(peer, spec, which) for which in range(1, args.starts + 1)]
    print(f"\n{verdict(args.peer, waits, args.limit)}")
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(), "peer": args.peer, "longest_wait_s": waits}))


def start(peer: Peer, spec: dict[str, Any], which: int) -> float | None:
    """Runs the peer once. Returns its longest wait for a sample in seconds, and None if it stalled."""
    clock = time.perf_counter()
    try:
        made = run(peer, spec)
    except Stalled:
        print(f"  {which:4}  stalled, after {time.perf_counter() - clock:.1f} s in all", flush=True)
        return None
    wait: float = made["longest_wait_s"]
    print(f"  {which:4}  longest wait {wait:.3f} s, {number(made['images'] / made['seconds'])} images/s", flush=True)
    return wait


def verdict(name: str, waits: list[float | None], limit_s: float) -> str:
    """Says how many runs stalled, and how long the others waited at most."""
    others = sorted(wait for wait in waits if wait is not None)
    said = (
        f"{Path(name).name}: {len(waits) - len(others)} of {len(waits)} starts stalled (no sample for {limit_s:g} s)."
    )
    if others:
        spread = f"{others[0]:.3f} to {others[-1]:.3f}"
        said += f" Longest wait of the others: {statistics.median(others):.3f} s (median; {spread})."
    return said


if __name__ == "__main__":
    main()
