"""Trains an image encoder and a text encoder together, as CLIP does, on tar shards of images and captions.

    pip install torch                                                 # on a GPU also 'datago_gpu[cuda12]'
    python examples/contrastive.py                                    # on the photographs that ship
    python examples/contrastive.py --resume --steps 300               # goes on from the checkpoint
    torchrun --nproc-per-node 2 examples/contrastive.py
    python examples/contrastive.py --data 'hf://datasets/OWNER/NAME/train-{0000..0099}.tar' --size 224

Shards are read whole, one after the other, from disks, web servers or object storage. Each rank reads its own.
"""

from __future__ import annotations

import zlib
from itertools import accumulate
from typing import Any

import torch
import training
from photographs import shards_of_pictures
from torch import nn
from torch.nn import functional

from datago_gpu.torch import LoaderDataset

WORDS = 1 << 12


def settings(shards: str, size: int, batch_size: int) -> dict[str, Any]:
    return {
        "source_type": "webdataset",
        "source_config": {"url": shards, "random_sampling": True},
        "image_config": {
            "crop_and_resize": True,
            "default_image_size": size,
            "min_aspect_ratio": 1,  # one bucket: a square
            "max_aspect_ratio": 1,
            "crop": "random_resized",
            "crop_scale": [0.5, 1],
            "layout": "CHW",
            "dtype": "float32",
            "mean": [0.481, 0.458, 0.408],
            "std": [0.269, 0.261, 0.276],
        },
        "batch_size": batch_size,
        "drop_last": True,
    }


class TwoTowers(nn.Module):
    """A convolutional network for images, and a bag of words for captions."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in [(3, 24), (24, 48), (48, 96)]:
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
        self.image = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 64))
        self.text = nn.EmbeddingBag(WORDS, 64)
        self.log_scale = nn.Parameter(torch.tensor(2.3))

    def forward(self, images: torch.Tensor, words: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        """Returns how similar each image is to each caption, (N, N)."""
        seen, read = self.image(images), self.text(words, starts)
        return self.log_scale.exp() * functional.normalize(seen) @ functional.normalize(read).T


def tokenized(captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the numbers of all words, and where each caption begins. Yours come from a real tokenizer."""
    words = [[zlib.crc32(word.encode()) % WORDS for word in caption.lower().split()] for caption in captions]
    starts = [0, *accumulate(map(len, words[:-1]))]
    return torch.tensor([number for numbers in words for number in numbers]), torch.tensor(starts)


def contrastive_loss(similar: torch.Tensor) -> torch.Tensor:
    """The loss of one rank's batch. CLIP also gathers the batches of all ranks."""
    own = torch.arange(len(similar), device=similar.device)
    return (functional.cross_entropy(similar, own) + functional.cross_entropy(similar.T, own)) / 2


def main() -> None:
    args = training.arguments(__doc__, steps=120, batch_size=16)
    device = training.begin()
    shards = args.data or shards_of_pictures(args.folder, args.pictures)
    dataset = LoaderDataset(settings(shards, args.size, args.batch_size), device=device)
    plain = TwoTowers().to(device)
    model = training.shared(plain)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    parts = {"model": plain, "optimizer": optimizer}
    checkpoint = args.folder / "contrastive.pt"
    begun = training.resume(checkpoint, dataset, device, **parts) if args.resume else 0

    for step, batch in enumerate(training.endless(dataset), begun + 1):
        words, starts = tokenized([attributes["txt"] for attributes in batch["attributes"]])
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = contrastive_loss(model(batch["image"], words.to(device), starts.to(device)).float())
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
