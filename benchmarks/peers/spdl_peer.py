"""SPDL: a pipeline of threads whose decoding, scaling (Lanczos) and cropping are FFmpeg's. It decodes in full."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness import Spec, main


def files(spec: Spec) -> Iterator[Any]:
    import spdl.io
    from spdl.pipeline import PipelineBuilder

    size = spec.size
    filters = (
        f"scale=w={size}:h={size}:force_original_aspect_ratio=increase:flags=lanczos,"
        f"crop={size}:{size},format=pix_fmts=rgb24"
    )

    def frame(path: str) -> Any:
        packets = spdl.io.demux_image(path)
        return spdl.io.decode_packets(packets, filter_desc=filters)

    def batch(frames: list[Any]) -> Any:
        return spdl.io.to_numpy(spdl.io.convert_frames(frames))

    builder = PipelineBuilder().add_source(spec.files())
    builder = builder.pipe(frame, concurrency=spec.workers, output_order="input")
    builder = builder.aggregate(spec.batch).pipe(batch).add_sink(4)
    with (pipeline := builder.build(num_threads=spec.workers + 1)).auto_stop():
        yield from pipeline


def ready() -> None:
    """Raises ImportError where no FFmpeg that it knows is installed."""
    from spdl.io import utils

    utils.get_ffmpeg_versions()


if __name__ == "__main__":
    main(
        {"numpy": "numpy", "spdl.io": "spdl-io", "spdl.pipeline": "spdl-core"},
        {"files": files, "million": files},
        ready,
    )
