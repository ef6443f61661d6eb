"""The recipe of docs/frameworks.md for Ray Train: two workers, of which one is killed, and the training resumes.

    python -m tests.long.ray_train             # takes 40 s of CPU, most of it Ray's processes that import torch
    python -m tests.long.ray_train --short     # in this process, without workers, without a kill: 5 s

Prints what each attempt had, and ends with an error unless all ranks have the samples of a plain run.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
import ray.train

from datago_gpu import Loader
from datago_gpu.index.build import build_index
from tests.support.frameworks import begin_cluster, blocks
from tests.support.images import SHAPES, add_pictures, file_config

COUNT = 40
"""Pictures, of three buckets."""
STOP = 4
"""The step at which rank 1 dies. There are 9 to 12."""
PATIENCE_S = 100


def note(ids: list[str], step: int, folder: str) -> None:
    """Notes the samples of a step, in the worker. Rank 1 dies at STOP, once: as soon as Ray has a checkpoint."""
    rank = ray.train.get_context().get_world_rank()
    mine = Path(folder, f"{rank}.{os.getpid()}")
    with mine.open("a") as file:
        print(json.dumps(ids), file=file)
    if rank == 1 and step == STOP and list(Path(folder).glob("1.*")) == [mine]:
        late = time.monotonic() + PATIENCE_S
        while not any("checkpoint_20" in file.read_text() for file in Path(folder, "runs").rglob("*snapshot.json")):
            assert time.monotonic() < late, "Ray has no checkpoint"
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)


def train(folder: Path, *, workers: int) -> dict[str, Any]:
    """Runs the recipe. Returns its names."""
    (block,) = blocks("Ray Train", folder)
    changes = {
        "step % 100 == 99 and ": "",  # a checkpoint after every step
        "        optimizer.step()\n": f"        optimizer.step()\n        note(batch['ids'], step, {str(folder)!r})\n",
        '"batch_size": 8': '"batch_size": 2',
        "num_workers=2": f"num_workers={workers}",
    }
    for there, here in changes.items():
        assert there in block, there
        block = block.replace(there, here)
    program = folder / "program.py"
    program.write_text(block)
    found = runpy.run_path(
        str(program), {"note": note}, "__main__"
    )  # functions of such a module are sent to workers whole
    assert found["result"].metrics["loss"] > 0
    return found


def attempts(folder: Path, rank: int) -> list[list[list[str]]]:
    """Returns the ids of each step of each attempt."""
    files = sorted(folder.glob(f"{rank}.*"), key=lambda file: file.stat().st_mtime)
    return [[json.loads(line) for line in file.read_text().splitlines()] for file in files]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    short = parser.parse_args().short
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as root:
        folder = Path(root)
        add_pictures(folder / "photos", [SHAPES[number % 3] for number in range(COUNT)])
        build_index(file_config(folder / "photos"), folder / "index.arrow", readers=0)
        if not short:
            begin_cluster()
        index = train(folder, workers=0 if short else 2)["index"]
        ranks = 1 if short else 2
        for rank in range(ranks):
            source = {**index["source_config"], "rank": rank, "world_size": ranks}
            with Loader(index | {"source_config": source}, "cpu") as loader:
                plain = [batch.ids for batch in loader]
            *killed, last = attempts(folder, rank)
            print(
                f"rank {rank}: {len(plain)} steps; attempts of {[len(each) for each in killed]} and {len(last)} steps"
            )
            assert len(killed) == (0 if short else 1)
            assert last == plain[len(plain) - len(last) :]
            for first in killed:
                assert first == plain[: len(first)]
                assert 0 < len(last) < len(plain) <= len(first) + len(last)


if __name__ == "__main__":
    main()
