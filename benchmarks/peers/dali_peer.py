"""DALI on the CPU with its own file reader: it decodes in full, as it has no decoding at a smaller scale."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness import Spec, main


def files(spec: Spec) -> Iterator[Any]:
    from nvidia.dali import fn, pipeline_def, types

    paths = spec.files()

    @pipeline_def(batch_size=spec.batch, num_threads=spec.workers, device_id=None, prefetch_queue_depth=2)
    def pictures() -> Any:
        encoded, _ = fn.readers.file(files=paths, name="files", pad_last_batch=True)
        image = fn.decoders.image(encoded, device="cpu", output_type=types.RGB)
        image = fn.resize(image, size=[spec.size, spec.size], mode="not_smaller", interp_type=types.INTERP_LANCZOS3)
        return fn.crop(image, crop=(spec.size, spec.size))

    pipeline = pictures()
    pipeline.build()
    left = len(paths)
    while left > 0:
        (batch,) = pipeline.run()
        yield batch.as_array()[:left]
        left -= spec.batch


if __name__ == "__main__":
    main({"numpy": "numpy", "nvidia.dali": "nvidia-dali-cuda120"}, {"files": files, "million": files})
