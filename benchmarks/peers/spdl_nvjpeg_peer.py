"""SPDL's nvJPEG decoder: pictures from memory, scaled to the size wanted, on a GPU only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness import Spec, from_memory, main


def decode(spec: Spec) -> Iterator[Any]:
    import spdl.io

    if spec.device == "cpu":
        raise SystemExit("not on this device: nvJPEG only")
    device = spdl.io.cuda_config(device_index=int(spec.device.partition(":")[2] or 0))

    def decoded(payloads: list[bytearray]) -> None:
        whole = [bytes(payload) for payload in payloads]
        spdl.io.load_image_batch_nvjpeg(whole, device_config=device, width=spec.size, height=spec.size)

    return from_memory(spec, decoded)


if __name__ == "__main__":
    main({"spdl.io": "spdl-io"}, {"decode": decode})
