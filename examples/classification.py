"""Trains a classifier on a folder with a subfolder for each class, as ImageNet has it.

    pip install torch                                                 # on a GPU also 'datago_gpu[cuda12]'
    python examples/classification.py                                 # on the photographs that ship
    python examples/classification.py --resume --steps 200            # goes on from the checkpoint
    torchrun --nproc-per-node 2 examples/classification.py
    python examples/classification.py --data /data/imagenet/train --size 224 --batch-size 256

Each image is shown through a random region of it, mirrored or not, as torchvision's RandomResizedCrop and
RandomHorizontalFlip would show it. A resumed run shows the regions that it would have shown without the stop.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import training
from photographs import folder_of_pictures
from torch import nn
from torch.nn import functional

from datago_gpu.torch import LoaderDataset


def settings(root: Path | str, size: int, batch_size: int) -> dict[str, Any]:
    return {
        "source_type": "file",
        "source_config": {"root_path": str(root), "labels": "folder", "random_sampling": True},
        "image_config": {
            "crop_and_resize": True,
            "default_image_size": size,
            "min_aspect_ratio": 1,  # one bucket: a square
            "max_aspect_ratio": 1,
            "crop": "random_resized",
            "crop_scale": [0.25, 1],
            "flip": 0.5,
            "layout": "CHW",
            "dtype": "float32",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        },
        "batch_size": batch_size,
        "drop_last": True,
    }


def network(classes: int) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in [(3, 24), (24, 48), (48, 96)]:
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, classes))


def main() -> None:
    args = training.arguments(__doc__, steps=120, batch_size=32)
    device = training.begin()
    root = args.data or folder_of_pictures(args.folder / "pictures", args.pictures)
    dataset = LoaderDataset(settings(root, args.size, args.batch_size), device=device)
    classes = dataset.classes or []
    plain = network(len(classes)).to(device)
    model = training.shared(plain)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    parts = {"model": plain, "optimizer": optimizer}
    checkpoint = args.folder / "classification.pt"
    begun = training.resume(checkpoint, dataset, device, **parts) if args.resume else 0

    for step, batch in enumerate(training.endless(dataset), begun + 1):
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = functional.cross_entropy(model(batch["image"]), batch["labels"])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        training.report(step, args.steps, loss)
        if step >= args.steps:
            break
    training.save(checkpoint, dataset, step, **parts)


if __name__ == "__main__":
    main()
    training.end()
