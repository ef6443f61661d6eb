"""One of two ranks in which each example of training runs, one after the other, as torchrun would start it.

python -m tests.examples.ranks RANK FOLDER PORT [PORT]...
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from tests.examples.runs import NAMES, losses_of

__all__: list[str] = []


def main(rank: str, folder: str, *ports: str) -> None:
    """Runs each example twice. ports: one for each run, since the store of the run before may still be there."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    left = iter(ports)
    found = {}
    for name in NAMES:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": next(left)}
        found[name] = losses_of(name, Path(folder), 4)
        os.environ["MASTER_PORT"] = next(left)
        found[name] |= losses_of(name, Path(folder), 6, "--resume")
    Path(folder, f"rank{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
