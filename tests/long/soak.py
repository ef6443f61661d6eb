"""Faults of every kind at once, for as long as wanted: is anything lost, doubled, leaked, or does anything hang?

    python -m tests.long.soak [--seconds 1200] [--backend pillow] [--seed 0]

A listing and its files, on two ports of a process of their own, answer with 500, 502, 503, 504 and 429, drop,
reset and stall connections, cut bodies short, lie about lengths, answer late, and give short, empty and broken pages.
6% of the samples are bad for good, in a known way. One loader streams masks, latents and embeddings epoch after epoch
for the whole time; beside it others come and go: listed or shuffled, with processes that download for the feeder or
without, stopped and continued (SIGSTOP), one of their processes killed, closed in the middle and resumed from their
state. Each must deliver the very batches, to the pixel, that came without any fault, and skip the very samples that are
bad, for the known reasons.

Gates: all of that, no wait above --hang seconds, `close` within --close, memory within --growth of what it was, and
descriptors and threads as they were. One that fails is named, and the exit status is 1 (3 for a hang). libpng, within
DALI, writes to stderr what it thinks of each damaged PNG.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.common import machine, parser
from tests.long.child import child
from tests.long.soak_catalog import catalog
from tests.long.soak_runs import DOWNLOADS, VARIANTS, Soak
from tests.long.soak_watch import Watch


def verdict(soak: Soak, watch: Watch, hang_s: float, close_s: float, leeway: float) -> list[tuple[str, str, bool]]:
    """Gate, figure, whether it holds. leeway: by which memory may have grown from the first quarter to the last."""
    longest, samples = max(watch.longest_s.values(), default=0.0), samples_of(soak)
    close = max(soak.closes_s, default=0.0)  # none where the soak stopped at its first fault
    rows = [
        ("samples as without faults", f"{samples:,}, {len(soak.problems)} wrong", not soak.problems),
        ("longest wait for a batch", f"{longest:.1f} s", longest < hang_s),
        ("longest close", f"{close:.2f} s", close < close_s),
    ]
    return [*rows, *watch.verdict(leeway, 3 * DOWNLOADS)]


def main() -> int:
    options = parser(__doc__ or "", runs=1)
    options.add_argument("--seconds", type=float, default=1200)
    options.add_argument("--backend", default="pillow", choices=("dali", "pillow"))
    options.add_argument("--download-processes", type=int, default=1, help="of the long run; others have up to 2")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--count", type=int, default=1500, help="samples of an epoch")
    options.add_argument("--hang", type=float, default=60, help="seconds without a batch that count as a hang")
    options.add_argument("--close", type=float, default=1.5, help="seconds that `close` may take; the cores are shared")
    options.add_argument("--growth", type=float, default=0.1, help="of memory, first to last quarter of the time")
    args = options.parse_args()
    logging.getLogger("datago_gpu").setLevel(logging.ERROR)
    print(machine())
    watch = Watch(args.hang)
    servers = child("tests.long.soak_server", args.count, args.seed)
    with tempfile.TemporaryDirectory() as folder, servers as (url, faults):
        items = catalog(args.count, args.seed)
        soak = Soak(url, items, args.backend, args.download_processes, args.seed, Path(folder), watch)
        for variant in VARIANTS:
            soak.undisturbed(variant)
        soak.counts.clear()
        watch.start()
        before, clock = Counter(json.loads(faults("on"))), time.monotonic()
        soak.run(args.seconds)
        seconds = time.monotonic() - clock
        served = Counter(json.loads(faults("off"))) - before
        watch.stop()
    rows = verdict(soak, watch, args.hang, args.close, args.growth)
    requests = served.pop("requests")
    print(f"\nsoak, {args.backend}, {seconds:.0f} s, {samples_of(soak) / seconds:,.0f} samples/s")
    for name, count in soak.counts.items():
        print(f"  {name:34} {count:10,}")
    print(f"  {'requests':34} {requests:10,}\n  {'faults':34} {served.total():10,}   ({told(served)})")
    for gate, figure, holds in rows:
        print(f"  {gate:34} {figure}{'' if holds else '   FAILED'}")
    if args.json:
        figures = {"machine": machine(), "seconds": seconds, "counts": soak.counts, "requests": requests,
                   "faults": served, "gates": rows, "problems": soak.problems,
                   "memory_mb": watch.memory}  # fmt: skip
        args.json.write_text(json.dumps(figures, indent=1))
    return 0 if all(holds for *_, holds in rows) else 1


def samples_of(soak: Soak) -> int:
    return sum(count for name, count in soak.counts.items() if name.startswith("samples"))


def told(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.most_common())


if __name__ == "__main__":
    sys.exit(main())
