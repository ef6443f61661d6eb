"""Ranks of one machine that step together over gloo. Run by test_lockstep_ranks.py, not by pytest.

python lockstep_ranks.py FOLDER JOBS: JOBS are the settings of the ranks of each job, and its epochs, as JSON.
Runs one job after the other. Forks the ranks, so that torch is imported once. Each rank waits for all others at every
step, as a training does. Prints what each rank of each job has had, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from datago_gpu import Row
from datago_gpu.torch import LoaderDataset


def run_job(folder: Path, configs: list[dict[str, Any]], epochs: int) -> list[Any]:
    """Runs the ranks with these settings."""
    ranks = []
    for rank in range(len(configs)):
        process = os.fork()
        if not process:
            found = run(rank, len(configs), str(folder / "store"), configs[rank], epochs)
            (folder / str(rank)).write_text(json.dumps(found))
            os._exit(0)
        ranks.append(process)
    codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in ranks]
    assert not any(codes), codes
    return [json.loads((folder / str(rank)).read_text()) for rank in range(len(configs))]


def run(rank: int, world_size: int, store: str, config: dict[str, Any], epochs: int) -> dict[str, Any]:
    """One rank: in each epoch and step, the bucket, and the ids with whether they are real."""
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    rows = config.pop("rows", None)
    source = None if rows is None else [Row(*row[:2], width=row[2], height=row[3]) for row in rows]
    dataset = LoaderDataset(config, device="cpu", source=source)
    seen, skipped = [], 0
    for _ in range(epochs):
        steps = []
        for batch in dataset:
            shape = torch.tensor(batch["image"].shape)
            least = shape.clone()
            distributed.all_reduce(shape, distributed.ReduceOp.MAX)
            distributed.all_reduce(least, distributed.ReduceOp.MIN)
            assert shape.tolist() == least.tolist(), "the shapes of the ranks differ"
            steps.append([list(batch["bucket"]), batch["ids"], batch["real"].tolist()])
        seen.append(steps)
        assert dataset.loader is not None
        skipped += sum(dataset.loader.stats().skipped.values())
    distributed.barrier()
    state = dataset.state_dict()
    distributed.destroy_process_group()
    return {"seen": seen, "skipped": skipped, "taken": state["taken"], "epoch": state["epoch"]}


if __name__ == "__main__":
    jobs = []
    for number, (configs, epochs) in enumerate(json.loads(sys.argv[2])):
        own = Path(sys.argv[1]) / str(number)
        own.mkdir()
        jobs.append(run_job(own, configs, epochs))
    print(json.dumps(jobs))
