"""torchvision's JPEG decoder: whole pictures from memory, none is cut or scaled. On a GPU it is nvJPEG."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness import Spec, from_memory, main


def decode(spec: Spec) -> Iterator[Any]:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    def decoded(payloads: list[bytearray]) -> None:
        tensors = [torch.frombuffer(payload, dtype=torch.uint8) for payload in payloads]
        decode_jpeg(tensors, mode=ImageReadMode.RGB, device=spec.device)
        if spec.device != "cpu":
            torch.cuda.current_stream().synchronize()

    return from_memory(spec, decoded)


if __name__ == "__main__":
    main({"torch": "torch", "torchvision": "torchvision"}, {"decode": decode})
