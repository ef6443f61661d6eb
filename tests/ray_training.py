"""The recipe of docs/frameworks.md for Ray Train: two workers, of which one is killed, and the training resumes.

Each of Ray's processes takes seconds of CPU to start, so there are few pictures and few steps.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import time
from pathlib import Path
from typing import Any

import ray.train

from datago_gpu import Loader
from datago_gpu.index.build import build_index
from tests.support.frameworks import blocks
from tests.support.images import SHAPES, add_pictures, file_config

COUNT = 24
"""Pictures, of three buckets: 6 steps."""
STOP = 3
"""The step at which rank 1 dies."""
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


def train(folder: Path) -> dict[str, Any]:
    """Runs the recipe. Returns its names."""
    (block,) = blocks("Ray Train", folder)
    changes = {
        "step % 100 == 99 and ": "",  # a checkpoint after every step
        "        optimizer.step()\n": f"        optimizer.step()\n        note(batch['ids'], step, {str(folder)!r})\n",
        '"batch_size": 8': '"batch_size": 2',
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


def check(folder: Path) -> None:
    """Trains in the folder. Fails unless all ranks have the samples of a plain run, the last ones after the kill."""
    add_pictures(folder / "photos", [SHAPES[number % 3] for number in range(COUNT)])
    build_index(file_config(folder / "photos"), folder / "index.arrow", readers=0)
    index = train(folder)["index"]
    for rank in range(2):
        source = {**index["source_config"], "rank": rank, "world_size": 2}
        with Loader(index | {"source_config": source}, "cpu") as loader:
            plain = [batch.ids for batch in loader]
        first, last = attempts(folder, rank)
        assert last == plain[len(plain) - len(last) :]
        assert first == plain[: len(first)]
        assert 0 < len(last) < len(plain) <= len(first) + len(last)
