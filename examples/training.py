"""What the examples of training share: ranks, a checkpoint, and the index of a folder for lockstep."""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from datago_gpu.torch import LoaderDataset, TensorBatch


def begin() -> torch.device:
    """Joins the ranks that torchrun has started, and returns the device of this one. Before a dataset is made."""
    if "RANK" in os.environ:
        dist.init_process_group()
    torch.manual_seed(0)
    is_gpu = torch.cuda.is_available()
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if is_gpu else torch.device("cpu")


def end() -> None:
    """Leaves the ranks. To be called once the models are gone: a DDP model that is freed after that may hang."""
    gc.collect()
    if dist.is_initialized():
        dist.destroy_process_group()


def rank_and_ranks() -> tuple[int, int]:
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def shared(model: nn.Module) -> nn.Module:
    """Returns the model as it is trained: with several ranks, they average their gradients."""
    return DistributedDataParallel(model) if rank_and_ranks()[1] > 1 else model


def endless(dataset: LoaderDataset) -> Iterator[TensorBatch]:
    """Yields pass after pass.

    Ranks count steps, not passes: one may have a batch more in a pass than another. So no rank waits for another one
    for ever, and the loader's warning about different numbers of batches does not matter here.
    """
    while True:
        yield from dataset


def make_index(root: Path | str, folder: Path) -> Path:
    """Looks at each image once. Another time, only at those that have changed. Each root has an index of its own."""
    index = folder / f"index-{zlib.crc32(str(root).encode()):08x}.arrow"
    command = ["index", "--root-path", str(root), "--captions", "txt", "--out", str(index), "--update"]
    if rank_and_ranks()[0] == 0:
        folder.mkdir(parents=True, exist_ok=True)
        if failed := subprocess.call([sys.executable, "-m", "datago_gpu.cli", *command], stdout=subprocess.DEVNULL):
            raise SystemExit(failed)  # the command has said what is wrong
    if dist.is_initialized():
        dist.barrier()
    return index


def save(path: Path, dataset: LoaderDataset, step: int, **parts: Any) -> None:
    """Writes a checkpoint: which samples each rank has seen, and the states of models and optimizers."""
    rank, ranks = rank_and_ranks()
    seen: list[Any] = [None] * ranks
    seen[rank] = dataset.state_dict()
    if ranks > 1:
        dist.all_gather_object(seen, seen[rank])
    if rank == 0:
        torch.save({"step": step, "seen": seen, **{name: part.state_dict() for name, part in parts.items()}}, path)


def resume(path: Path, dataset: LoaderDataset, device: torch.device, **parts: Any) -> int:
    """Loads a checkpoint, and returns the number of steps that were taken.

    In lockstep all ranks have the same state, and any number of ranks may go on from it. Otherwise the dataset refuses
    the state of another number of ranks.
    """
    saved = torch.load(path, map_location=device, weights_only=True)
    dataset.load_state_dict(saved["seen"][min(rank_and_ranks()[0], len(saved["seen"]) - 1)])
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    return int(saved["step"])


def report(step: int, steps: int, loss: torch.Tensor) -> None:
    if rank_and_ranks()[0] == 0 and (step % 10 == 0 or step == steps):
        print(f"step {step:5}  loss {loss.item():.3f}", flush=True)


def arguments(description: str | None, *, steps: int, batch_size: int) -> argparse.Namespace:
    """Returns the arguments that all examples have. steps, batch_size: the defaults."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="your own; default: small pictures cut from the photographs that ship")
    parser.add_argument("--folder", type=Path, default=Path("results/examples"), help="for pictures and checkpoint")
    parser.add_argument("--pictures", type=int, default=480, help="to cut from the photographs")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=batch_size)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    return parser.parse_args()
