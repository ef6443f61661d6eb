"""Trains an encoder without labels, as DINO does: a student has to say of each view what a teacher says of others.

    pip install torch                                                 # on a GPU also 'datago_gpu[cuda12]'
    python examples/self_supervised.py                                # on the photographs that ship
    python examples/self_supervised.py --resume --steps 150           # goes on from the checkpoint
    torchrun --nproc-per-node 2 examples/self_supervised.py
    python examples/self_supervised.py --data /data/photos --size 224

Each image is read and decoded once, and shown eight times: two large views and six small ones.
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

LARGE, SMALL = 2, 6
PROTOTYPES = 64


def settings(root: Path | str, size: int, batch_size: int) -> dict[str, Any]:
    view = {"crop": "random_resized", "flip": 0.5}
    large = {**view, "default_image_size": size, "crop_scale": [0.4, 1]}
    small = {**view, "default_image_size": max(32, size * 3 // 7 // 32 * 32), "crop_scale": [0.05, 0.4]}
    return {
        "source_type": "file",
        "source_config": {"root_path": str(root), "random_sampling": True},
        "image_config": {
            "crop_and_resize": True,
            "min_aspect_ratio": 1,  # one bucket: a square
            "max_aspect_ratio": 1,
            "views": [large] * LARGE + [small] * SMALL,
            "layout": "CHW",
            "dtype": "float32",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        },
        "batch_size": batch_size,
        "drop_last": True,
    }


class Encoder(nn.Module):
    """Takes views of any sizes, and returns the answers to all of them in one tensor."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in [(3, 24), (24, 48), (48, 96)]:
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 64))
        self.prototypes = nn.Linear(64, PROTOTYPES, bias=False)

    def forward(self, *views: torch.Tensor) -> torch.Tensor:
        seen = torch.cat([self.layers(each) for each in views])
        return self.prototypes(functional.normalize(seen)).float()


class Teacher(nn.Module):
    """A slowly moving average of the student, and of what the teacher says."""

    center: torch.Tensor

    def __init__(self, student: Encoder) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.encoder.load_state_dict(student.state_dict())
        self.register_buffer("center", torch.zeros(PROTOTYPES))

    @torch.no_grad()
    def forward(self, views: torch.Tensor) -> Any:
        return self.encoder(views)

    @torch.no_grad()
    def follow(self, student: Encoder, said: torch.Tensor) -> None:
        self.center.lerp_(said.mean(0), 0.1)
        for old, new in zip(self.encoder.parameters(), student.parameters(), strict=True):
            old.lerp_(new, 0.01)


def dino_loss(student: torch.Tensor, teacher: torch.Tensor, center: torch.Tensor) -> torch.Tensor:
    """The cross entropy between what the teacher says of each large view and what the student says of all others."""
    wanted = functional.softmax((teacher - center) / 0.04, dim=-1).chunk(LARGE)
    said = functional.log_softmax(student / 0.1, dim=-1).chunk(LARGE + SMALL)
    pairs = [(one, other) for one in range(LARGE) for other in range(LARGE + SMALL) if one != other]
    return torch.stack([-(wanted[one] * said[other]).sum(-1).mean() for one, other in pairs]).mean()


def main() -> None:
    args = training.arguments(__doc__, steps=100, batch_size=16)
    device = training.begin()
    root = args.data or folder_of_pictures(args.folder / "pictures", args.pictures)
    dataset = LoaderDataset(settings(root, args.size, args.batch_size), device=device)
    plain = Encoder().to(device)
    model, teacher = training.shared(plain), Teacher(plain).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    parts = {"model": plain, "teacher": teacher, "optimizer": optimizer}
    checkpoint = args.folder / "self_supervised.pt"
    begun = training.resume(checkpoint, dataset, device, **parts) if args.resume else 0

    for step, batch in enumerate(training.endless(dataset), begun + 1):
        large, small = torch.cat(batch["views"][:LARGE]), torch.cat(batch["views"][LARGE:])
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            taught, said = teacher(large), model(large, small)
        loss = dino_loss(said, taught, teacher.center)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        teacher.follow(plain, taught)
        training.report(step, args.steps, loss)
        if step >= args.steps:
            break
    training.save(checkpoint, dataset, step, **parts)


if __name__ == "__main__":
    main()
    training.end()
