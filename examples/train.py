"""Trains a small network to tell which photograph a picture was cut from, on the photographs that ship.

    pip install torch
    python examples/train.py                          # about 15 s on 2 CPU cores; on a GPU if there is one
    python examples/train.py --steps 600 --resume     # goes on where that one stopped, with the rest of its pass

It is a whole training loop: pictures of several shapes in batches of one bucket each, bf16 on a GPU, a checkpoint that
knows which pictures were seen, and how much of the time the loop waited for data.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import nn
from torch.nn import functional

import datago_gpu
from datago_gpu.torch import LoaderDataset, TensorBatch

PHOTOS = sorted(Path(datago_gpu.__file__).parent.joinpath("photos").glob("*.[jp][pn]g"))
SHAPES = [(96, 96), (96, 128), (128, 96)]
REPORT_EVERY = 20


def main() -> None:
    args = parse_arguments()
    torch.manual_seed(0)
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    checkpoint = args.folder / "checkpoint.pt"
    dataset = LoaderDataset(settings(cut_pictures(args.folder / "pictures", args.pictures), args.batch_size))
    model = network(len(dataset.classes or [])).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    step = 0
    if args.resume:
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        dataset.load_state_dict(saved["data"])
        step = saved["step"]
        print(f"going on after step {step}")

    waited, images, losses, clock = 0.0, 0, [], time.perf_counter()
    batches = endless(dataset)
    while step < args.steps:
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        step += 1
        losses.append(train_step(model, optimizer, batch, device))
        images += len(batch["ids"])
        if step % REPORT_EVERY == 0 or step == args.steps:
            loss = torch.stack(losses[-REPORT_EVERY:]).mean().item()  # the only place that waits for a GPU
            seconds = time.perf_counter() - clock
            print(f"pass {batch['epoch']}  step {step:4}  loss {loss:.3f}  {images / seconds:5.0f} images/s  "
                  f"waited for data {waited / seconds:4.0%}")  # fmt: skip
    torch.save(
        {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "data": dataset.state_dict(),  # which pictures of this pass were seen
            "step": step,
        },
        checkpoint,
    )
    print(f"wrote {checkpoint}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--device", help="cpu, cuda or cuda:N; default: a GPU if there is one")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--pictures", type=int, default=1600, help="to cut from the photographs")
    parser.add_argument("--folder", type=Path, default=Path("results/train"), help="for pictures and checkpoint")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the folder")
    return parser.parse_args()


def settings(root: Path, batch_size: int) -> dict[str, Any]:
    return {
        "source_type": "file",
        "source_config": {"root_path": str(root), "labels": "folder", "random_sampling": True},
        "image_config": {
            "crop_and_resize": True,
            "default_image_size": 64,
            "downsampling_ratio": 16,
            "layout": "CHW",
            "dtype": "float32",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        },
        "batch_size": batch_size,
    }


def cut_pictures(folder: Path, count: int) -> Path:
    """JPEGs cut at random from the photographs, in a folder for each of them; made once."""
    rng = random.Random(0)
    photos = [ImageOps.exif_transpose(Image.open(path)).convert("RGB") for path in PHOTOS]
    for number in range(count):
        name, photo = PHOTOS[number % len(photos)].stem, photos[number % len(photos)]
        height, width = rng.choice(SHAPES)
        scale = min(photo.height / height, photo.width / width) * rng.uniform(0.3, 0.8)
        left, top = rng.uniform(0, photo.width - width * scale), rng.uniform(0, photo.height - height * scale)
        path = folder / name / f"{number:05}.jpg"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            box = (left, top, left + width * scale, top + height * scale)
            photo.resize((width, height), Image.Resampling.BILINEAR, box, reducing_gap=2).save(path)
    return folder


def network(classes: int) -> nn.Module:
    """Takes pictures of any size."""
    layers: list[nn.Module] = []
    for before, after in [(3, 24), (24, 48), (48, 96)]:
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, classes))


def endless(dataset: LoaderDataset) -> Iterator[TensorBatch]:
    """Pass after pass, each in another order."""
    while True:
        yield from dataset


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: TensorBatch, device: torch.device
) -> torch.Tensor:
    """One step; the loss, on the device."""
    image = batch["image"].to(device, non_blocking=True)  # it is there already where the loader decoded on this GPU
    label = batch["labels"].to(device, non_blocking=True)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        loss = functional.cross_entropy(model(image), label)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()


if __name__ == "__main__":
    main()
