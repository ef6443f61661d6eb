"""The Python of docs/several-gpus.md runs as it stands there, in two processes over gloo."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from datago_gpu.index.build import build_index
from tests.support.images import SHAPES, add_pictures, file_config
from tests.support.needs import needs
from tests.support.ports import free_ports

PAGE = (Path(__file__).parent.parent / "docs" / "several-gpus.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SMALL = {
    '"default_image_size": 512': '"default_image_size": 64',
    '"batch_size": 32': '"batch_size": 4, "decode_config": {"processes": 0}',
}


@pytest.mark.timeout(180)
def test_the_recipes_run(tmp_path: Path) -> None:
    """One after the other. The ranks have different numbers of files, in three buckets: without a recipe they hang."""
    needs("torch")
    add_pictures(tmp_path / "photos", [SHAPES[number % 3] for number in range(23)])
    build_index(file_config(tmp_path / "photos"), tmp_path / "index.arrow", readers=0)
    blocks = [block if "set_epoch" in block else block.replace("range(2)", "range(1)") for block in BLOCKS]
    for there, here in {'"/data/photos"': repr(str(tmp_path / "photos")), **SMALL}.items():
        assert any(there in block for block in blocks)
        blocks = [block.replace(there, here) for block in blocks]
    (tmp_path / "blocks.json").write_text(json.dumps(blocks))
    (port,) = free_ports(1)
    script = Path(__file__).parent / "several_gpus_ranks.py"
    done = subprocess.run(
        [sys.executable, "-P", script, port, "blocks.json"],  # beside the script lies tests/torch
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert first == second == {"steps": 3, "epoch": 2, "resumed": [True, True], "same model": True, "partly gray": 4}
