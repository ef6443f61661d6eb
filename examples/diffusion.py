"""Trains a diffusion model on a folder of images with captions beside them, in batches of several shapes.

    pip install torch 'datago_gpu[table]'                             # on a GPU 'datago_gpu[table,cuda12]'
    python examples/diffusion.py                                      # on the photographs that ship
    python examples/diffusion.py --resume --steps 300                 # goes on from the checkpoint
    torchrun --nproc-per-node 2 examples/diffusion.py
    python examples/diffusion.py --data /data/photos --size 512       # NAME.txt beside NAME.jpg

Images keep about their aspect ratio: each goes to the nearest bucket, and is cut at a random place. An index of the
folder has the sizes of the images. With it, all ranks have the same shape at each step (lockstep).
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import torch
import training
from photographs import folder_of_pictures
from torch import nn
from torch.nn import functional

from datago_gpu.torch import LoaderDataset

WORDS = 1 << 12


def settings(index: Path, size: int, batch_size: int) -> dict[str, Any]:
    return {
        "source_type": "table",
        "source_config": {"path": str(index), "random_sampling": True},
        "image_config": {
            "crop_and_resize": True,
            "default_image_size": size,
            "downsampling_ratio": 16,
            "crop": "random",
            "flip": 0.5,
            "layout": "CHW",
            "dtype": "float32",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        },
        "batch_size": batch_size,
        "lockstep": True,
    }


class Denoiser(nn.Module):
    """Says which noise was added to an image of any size. Yours is a large pretrained model."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.caption, self.time = nn.EmbeddingBag(WORDS, width), nn.Linear(1, width)
        self.before = nn.Conv2d(3, width, 3, padding=1)
        self.down, self.up = nn.Conv2d(width, width, 4, 4), nn.ConvTranspose2d(width, width, 4, 4)
        self.middle = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))
        self.after = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, noisy: torch.Tensor, time: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        told = (self.caption(words) + self.time(time.flatten(1)))[:, :, None, None]
        fine = self.before(noisy)
        coarse = self.down(fine) + told
        return self.after(fine + self.up(coarse + self.middle(coarse)))


def tokenized(captions: list[str]) -> torch.Tensor:
    """Returns the numbers of the first 16 words, (N, 16). Yours come from a real tokenizer."""
    words = [[zlib.crc32(word.encode()) % WORDS for word in caption.split()] for caption in captions]
    return torch.tensor([(numbers + [0] * 16)[:16] for numbers in words])


def diffusion_loss(model: nn.Module, image: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """The mean square error of the noise, (N,), at a random time for each image."""
    time = torch.rand(len(image), 1, 1, 1, device=image.device)
    noise = torch.randn_like(image)
    noisy = (time * torch.pi / 2).cos() * image + (time * torch.pi / 2).sin() * noise
    return functional.mse_loss(model(noisy, time, words).float(), noise, reduction="none").mean((1, 2, 3))


def main() -> None:
    args = training.arguments(__doc__, steps=120, batch_size=16)
    device = training.begin()
    root = args.data or folder_of_pictures(args.folder / "pictures", args.pictures)
    index = training.make_index(root, args.folder)
    dataset = LoaderDataset(settings(index, args.size, args.batch_size), device=device)
    plain = Denoiser().to(device)
    model = training.shared(plain)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    parts = {"model": plain, "optimizer": optimizer}
    checkpoint = args.folder / "diffusion.pt"
    begun = training.resume(checkpoint, dataset, device, **parts) if args.resume else 0

    for step, batch in enumerate(training.endless(dataset), begun + 1):
        words = tokenized([attributes.get("txt", "") for attributes in batch["attributes"]])
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            losses = diffusion_loss(model, batch["image"], words.to(device))
        real = batch["real"].to(device)  # false for a repeat in the place of a bad image
        loss = (losses * real).sum() / real.sum().clamp(min=1)
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
