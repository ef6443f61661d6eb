"""torchcodec's JPEG decoder, which decodes whole pictures: from memory, or in torch's DataLoader on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness import Spec, from_memory, main


def decode(spec: Spec) -> Iterator[Any]:
    """Decodes alone: none is cut or scaled. On a GPU it is nvJPEG."""
    import torch
    from torchcodec.decoders import decode_jpeg

    def decoded(payloads: list[bytearray]) -> None:
        for payload in payloads:
            decode_jpeg(torch.frombuffer(payload, dtype=torch.uint8), device=spec.device)
        if spec.device != "cpu":
            torch.cuda.current_stream().synchronize()

    return from_memory(spec, decoded)


class Folder:
    """A map-style dataset: torchcodec decodes, torch scales (bicubic, antialiased) and crops."""

    def __init__(self, spec: Spec) -> None:
        self.paths, self.size = spec.files(), spec.size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        import torch
        from torchcodec.decoders import decode_jpeg

        with open(self.paths[index], "rb") as file:
            image = decode_jpeg(torch.frombuffer(bytearray(file.read()), dtype=torch.uint8))
        high, wide = image.shape[-2:]
        scaled = [max(self.size, round(side * self.size / min(high, wide))) for side in (high, wide)]
        image = torch.nn.functional.interpolate(image[None], scaled, mode="bicubic", antialias=True)[0]
        top, left = ((side - self.size) // 2 for side in scaled)
        return image[:, top : top + self.size, left : left + self.size]


def files(spec: Spec) -> Iterator[Any]:
    from torch.utils.data import DataLoader

    return iter(DataLoader(Folder(spec), spec.batch, num_workers=spec.workers))


if __name__ == "__main__":
    main({"torchcodec": "torchcodec", "torch": "torch"}, {"decode": decode, "files": files})
