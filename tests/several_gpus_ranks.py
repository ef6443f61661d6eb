"""Two ranks that run the Python of docs/several-gpus.md, block by block. Run by test_several_gpus.py, not by pytest.

python several_gpus_ranks.py PORT BLOCKS.json: forks the ranks, so that torch is imported once. Each writes what it had.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed

RANKS = 2


def run(rank: int, port: str, blocks: list[str]) -> dict[str, Any]:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(RANKS), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(RANKS)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    found: dict[str, Any] = {}
    resumed: list[bool] = []
    for block in blocks:
        exec(block, found)
        if "dcp.load" in block:
            source = found["dataset" if "dataset}" in block else "uneven"]
            resumed.append(found["resumed"].state_dict() == source.state_dict())
    batch = next(iter(found["partly_gray"]))
    total = torch.cat([value.flatten() for value in found["model"].parameters()]).detach().sum()
    sums = [torch.zeros(()) for _ in range(RANKS)]
    distributed.all_gather(sums, total)
    distributed.destroy_process_group()
    return {
        "steps": found["steps"],
        "epoch": found["uneven"].state_dict()["resume"]["position"]["epoch"],
        "resumed": resumed,
        "same model": len({float(each) for each in sums}) == 1,
        "partly gray": len(batch["ids"]),
    }


def main(port: str, blocks: list[str]) -> None:
    for rank in range(RANKS):
        if not os.fork():
            Path(f"rank{rank}.json").write_text(json.dumps(run(rank, port, blocks)))
            os._exit(0)
    codes = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(RANKS)]
    assert codes == [0] * RANKS, codes


if __name__ == "__main__":
    main(sys.argv[1], json.loads(Path(sys.argv[2]).read_text()))
