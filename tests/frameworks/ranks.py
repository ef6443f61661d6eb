"""Runs programs in two ranks over gloo, as torchrun would start them. Run by conftest.py, not by pytest.

python -m tests.frameworks.ranks JOBS.json: imports the frameworks once, and forks the ranks of one job after the other.
A job: {name, program, folder, ranks, kill_at, is_watched}. Each rank writes the pictures of each batch that the model
is trained on to FOLDER/NAME-RANK.jsonl, and is killed before it trains on batch `kill_at`. What a rank raises is
written to FOLDER/NAME-RANK.error. The pictures are told by their first pixel.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from tests.frameworks.pictures import number_of
from tests.support.ports import free_ports

SHARED = (
    *("lightning.pytorch", "accelerate", "transformers.trainer", "torch.distributed.checkpoint"),
    *("datago_gpu.torch", "datago_gpu.lightning", "datago_gpu.huggingface"),
    *("pyarrow.compute", "pyarrow.ipc", "pyarrow.dataset", "pyarrow.parquet", "PIL.Image"),
)
"""What the programs import. The ranks share it."""


class Watch:
    """Notes what the model is trained on."""

    def __init__(self, file: Path, kill_at: int | None) -> None:
        self._file, self._kill_at, self._batches = file.open("a"), kill_at, 0

    def __call__(self, module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if not isinstance(module, torch.nn.Conv2d) or not module.training:
            return
        self._batches += 1
        if self._batches == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        numbers = [number_of(float(value)) for value in inputs[0][:, 0, 0, 0]]
        self._file.write(json.dumps(numbers) + "\n")
        self._file.flush()


def run_rank(job: dict[str, Any], rank: int, port: str) -> None:
    size = str(job["ranks"])
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": size, "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": size}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    os.environ |= {"TORCHELASTIC_RUN_ID": job["name"], "ACCELERATE_USE_CPU": "1", "TRANSFORMERS_VERBOSITY": "error"}
    os.chdir(job["folder"])
    if job.get("is_watched", True):
        file = Path(f"{job['name']}-{rank}.jsonl")
        torch.nn.modules.module.register_module_forward_pre_hook(Watch(file, job.get("kill_at")))
    found: dict[str, Any] = {"note": lambda value: Path(f"{job['name']}-{rank}.json").write_text(json.dumps(value))}
    exec(compile(job["program"], job["name"], "exec"), found)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def run(job: dict[str, Any]) -> None:
    (port,) = free_ports(1)
    ranks = []
    for rank in range(job["ranks"]):
        process = os.fork()
        if not process:
            try:
                run_rank(job, rank, port)
            except BaseException:
                Path(job["folder"], f"{job['name']}-{rank}.error").write_text(traceback.format_exc())
            os._exit(0)
        ranks.append(process)
    for process in ranks:
        os.waitpid(process, 0)


def main(jobs: list[dict[str, Any]]) -> None:
    torch.set_num_threads(1)
    for name in SHARED:
        with suppress(ImportError):
            importlib.import_module(name)
    for job in jobs:
        run(job)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
