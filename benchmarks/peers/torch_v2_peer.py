"""torch's DataLoader with torchvision v2: a random resized crop and a flip for each picture, a worker for each core."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness import Spec, main


class Crops:
    """A map-style dataset of all pictures: opened by Pillow as ImageFolder does, cropped and flipped at random."""

    def __init__(self, spec: Spec) -> None:
        from torchvision.transforms import v2

        self.paths = spec.files()
        self.transform = v2.Compose(
            [v2.RandomResizedCrop(spec.size, antialias=True), v2.RandomHorizontalFlip(0.5), v2.PILToTensor()]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        from PIL import Image

        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB"))


def crops(spec: Spec) -> Iterator[Any]:
    """Batches on the device."""
    from torch.utils.data import DataLoader

    loader = DataLoader(
        Crops(spec), spec.batch, shuffle=True, num_workers=spec.workers, pin_memory=spec.device != "cpu"
    )
    for images in loader:
        yield images.to(spec.device, non_blocking=True)


if __name__ == "__main__":
    main({"torch": "torch", "torchvision.transforms.v2": "torchvision", "PIL": "pillow"}, {"crops": crops})
