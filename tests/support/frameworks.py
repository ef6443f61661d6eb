"""The Python of docs/frameworks.md, with small settings in place of its own; and a small cluster of Ray."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["begin_cluster", "blocks"]

PAGE = Path(__file__).parent.parent.parent / "docs" / "frameworks.md"
SMALL = {
    '"default_image_size": 512': '"default_image_size": 64, "downsampling_ratio": 16',
    '"batch_size": 32': '"batch_size": 8, "decode_config": {"processes": 0, "threads": 1}',
}


def blocks(heading: str, data: Path) -> list[str]:
    """Returns the blocks of Python below a heading. data: the folder in place of /data."""
    (section,) = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    found = []
    for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        for there, here in {"/data/": f"{data}/", **SMALL}.items():
            block = block.replace(there, here)
        found.append(block)
    return found


def begin_cluster(tries: int = 6) -> None:
    """Starts Ray, which gives up after 30 s, a fixed number, if the machine has much else to do."""
    import ray  # most tests of frameworks do not need it

    try:
        ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    except Exception as error:
        if "timed out during startup" not in str(error) or tries == 1:
            raise
        ray.shutdown()
        begin_cluster(tries - 1)
