"""What the trainer's process pays in Python for a sample: the thread that hands batches over, and the taking of them.

    python -m benchmarks.handover [--batch-size 64] [--backend dali] [--runs 5]

The feeder's messages lie ready in memory, so that nothing is waited for. A batch decodes its lists (ids, attributes,
tags, ...) when they are read: that is a line of its own. The pictures are small. The figures are CPU
time of the one thread that receives, submits, collects and hands over, for each sample and by kind; decoders are on
other threads and are not counted. Part of the time is spent without the GIL. Run it on an idle machine: a decoder on
every core, or another program, puts the thread's memory out of the caches, which costs up to twice the time. A run
gives the median of its batches.
"""

from __future__ import annotations

import io
import json
import mmap
import statistics
import time
from collections.abc import Callable
from typing import Any

from msgspec import msgpack
from PIL import Image

from benchmarks.common import machine, parser, spread, table
from datago_gpu.batch import COLUMNS
from datago_gpu.config import LoaderConfig
from datago_gpu.decoders.select import choose
from datago_gpu.feeder import wire
from datago_gpu.feeder.admit import Admission
from datago_gpu.feeder.admitted import Admitted
from datago_gpu.feeder.message import Layout
from datago_gpu.loader.assembly import Assembled, Assembly
from datago_gpu.loader.assembly_maker import assembly_maker
from datago_gpu.sources.reference import Position, SampleRef
from datago_gpu.sources.sample_info import SampleInfo

BATCHES = 200
"""Of each run; the first ones warm up and do not count."""
WARM_UP = 20
ATTRIBUTES = {"width": 64, "height": 48, "caption": "a photograph of a lighthouse at dusk", "score": 0.87}


class Clock:
    """Seconds of this thread's CPU time, by kind. A kind within another one is taken off that one."""

    def __init__(self) -> None:
        self.kinds: dict[str, float] = {}
        self._inner = [0.0]

    def timed(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns the function, counted under `kind`."""

        def call(*arguments: Any, **named: Any) -> Any:
            self._inner.append(0.0)
            began = time.thread_time()
            try:
                return function(*arguments, **named)
            finally:
                spent = time.thread_time() - began
                self.kinds[kind] = self.kinds.get(kind, 0.0) + spent - self._inner.pop()
                self._inner[-1] += spent

        return call


def messages(config: LoaderConfig, memory: mmap.mmap) -> list[bytes]:
    """Some batches as the feeder sends them, each with its payloads in the arena."""
    file = io.BytesIO()
    Image.radial_gradient("L").resize((64, 48)).convert("RGB").save(file, "JPEG", quality=85)
    jpeg, admission, encoder = file.getvalue(), Admission(config), msgpack.Encoder()
    made, offset = [], 0
    for number in range(config.decode_config.prefetch + 1):
        batch = []
        for index in range(config.batch_size):
            attributes = json.dumps(ATTRIBUTES).encode()
            info = SampleInfo(f"{index:020d}", "synthetic", attributes=attributes, tags=["outdoor", "photo"])
            ref = SampleRef(index, info, path=f"/data/pictures/{index:09d}.jpg")
            admitted = admission.quick(ref, jpeg)
            assert isinstance(admitted, Admitted)
            batch.append(admitted)
        layout = Layout(batch)
        for place, payload in zip(layout.places, layout.payloads, strict=True):
            memory[offset + place : offset + place + len(payload)] = payload
        made.append(encoder.encode(layout.message(number, 0, offset, wire.Mark(Position()), [], wire.Counts())))
        offset += layout.size
    return made


def run(config: LoaderConfig, backend: str, *, by_kind: bool) -> dict[str, float]:
    """Microseconds a sample, by kind or in all. To look at the kinds takes time itself."""
    clock, chosen = Clock(), choose("cpu", backend)
    memory = mmap.mmap(-1, config.arena_mb << 20)
    encoded, decoder = messages(config, memory), msgpack.Decoder(wire.FromFeeder)
    assembly = assembly_maker(chosen, config, None)()
    receive, submit, collect = decoder.decode, assembly.submit, assembly.collect
    if by_kind:
        watch(clock, assembly)
        receive = clock.timed("message", receive)
        submit, collect = clock.timed("submit, rest", submit), clock.timed("collect, rest", collect)
    found: list[dict[str, float]] = []
    read = clock.timed("reading all lists", read_lists)

    def batch(number: int) -> None:
        while len(assembly) < assembly.depth:
            submit(receive(encoded[number % len(encoded)]), memory)
        assembled = collect()
        if by_kind:
            read(assembled)

    whole = batch if by_kind else clock.timed("in all", batch)
    for number in range(BATCHES):
        clock.kinds.clear()
        whole(number)
        found.append({kind: seconds / config.batch_size * 1e6 for kind, seconds in clock.kinds.items()})
    assembly.close()
    return {kind: statistics.median(each[kind] for each in found[WARM_UP:]) for kind in found[-1]}


def read_lists(assembled: Assembled) -> list[object]:
    """What the trainer pays for the lists of a batch, if it reads all: not a part of "in all"."""
    return [getattr(assembled.batch, column) for column in (*COLUMNS.values(), "original_sizes", "crops")]


def watch(clock: Clock, assembly: Assembly) -> None:
    """Count what the decoder does apart, where it is DALI's."""
    import datago_gpu.loader.assembly as module

    original = module._images  # noqa: SLF001
    module._images = clock.timed("views of payloads", getattr(original, "untimed", original))  # noqa: SLF001
    module._images.untimed = getattr(original, "untimed", original)  # noqa: SLF001
    images = assembly._images  # noqa: SLF001
    images = getattr(images, "_inner", images)  # what decodes the portions of a batch
    outer = getattr(images, "_pipeline", None)
    if outer is None:
        return
    for kind, name in (("looking at payloads", "_start_job"), ("handing over", "_hand_over")):
        setattr(images, name, clock.timed(kind, getattr(images, name)))
    pipeline = outer._pipeline  # noqa: SLF001
    for kind in ("feed_input", "schedule_run", "outputs"):
        setattr(pipeline, kind, clock.timed(f"DALI: {kind}", getattr(pipeline, kind)))


def main() -> None:
    options = parser(__doc__ or "", runs=5)
    options.add_argument("--backend", default="dali", choices=("dali", "pillow"))
    options.add_argument("--batch-size", type=int, default=64)
    args = options.parse_args()
    print(machine())
    config = LoaderConfig.load({
        "source_type": "file",
        "source_config": {"root_path": "/", "rank": 0, "world_size": 1},
        "image_config": {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 16},
        "decode_config": {"threads": 1},
        "batch_size": args.batch_size,
    })  # fmt: skip
    runs = [
        run(config, args.backend, by_kind=True) | run(config, args.backend, by_kind=False) for _ in range(args.runs)
    ]
    header = [f"CPU time of the hand-over thread, batches of {args.batch_size}, {args.backend}", "us a sample"]
    print("\n".join(table(header, ((kind, spread(each[kind] for each in runs)) for kind in runs[0]))))
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(), "us": runs}, indent=1))


if __name__ == "__main__":
    main()
