"""Memory of a whole run is what the settings say, with pictures just below `max_pixels` and the like."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datago_gpu import Loader
from tests.support.bounds import peak_of
from tests.support.patience import rest

SIDE, COUNT = 2500, 24
DECODED_MB = 3 * SIDE * SIDE / 2**20
"""Of one picture."""


def load(root: str, backend: str, settings: dict[str, Any]) -> None:
    """Take a batch, let the loader fetch and decode ahead as far as it will, and take the rest."""
    config = {"source_type": "file", "source_config": {"root_path": root}, "batch_size": 8, **settings}
    with Loader(config, device="cpu", backend=backend) as loader:
        batches = iter(loader)
        counts = [len(next(batches))]
        rest(os.getpid())
        counts += [len(batch) for batch in batches]
    assert sum(counts) == COUNT
    limit = settings.get("samples_buffer_mb", 4096)
    assert max(counts) <= max(1, limit / DECODED_MB)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    Image.new("RGB", (SIDE, SIDE), (9, 99, 9)).save(tmp_path / "00.png", compress_level=1)
    for number in range(1, COUNT):
        (tmp_path / f"{number:02}.png").hardlink_to(tmp_path / "00.png")
    return str(tmp_path)


@pytest.mark.parametrize(("backend", "base_mb"), [("pillow", 20), ("dali", 120)])
def test_pictures_of_their_own_sizes_keep_to_the_samples_buffer(folder: str, backend: str, base_mb: int) -> None:
    """24 of 18 MB are 430 MB. Beside the buffer there are the batch that the trainer has, and what decoding takes."""
    settings = {"samples_buffer_mb": 60, "decode_config": {"processes": 0, "memory_mb": 100}}
    assert peak_of(load, folder, backend, settings) < base_mb + 60 + 60 + 100
    assert peak_of(load, folder, backend, {"decode_config": {"processes": 0}}) > base_mb + 270


def of_status(pid: int, name: str) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) // 1024


def test_decode_processes_keep_to_the_samples_buffer_and_to_memory_mb_together(folder: str) -> None:
    """A picture needs 81 MB to be decoded: one at a time. The pixels lie in memory that is shared."""
    config = {"source_type": "file", "source_config": {"root_path": folder}, "batch_size": 8, "samples_buffer_mb": 60}
    with Loader({**config, "decode_config": {"memory_mb": 100, "processes": 3}}, device="cpu") as loader:
        assert loader._pool
        next(loader)
        rest(loader.feeder_pid, *loader.decode_pids)
        held = sum(of_status(pid, "RssAnon") for pid in loader.decode_pids)
        assert 1 + sum(len(batch) for batch in loader) <= COUNT
        assert held < 3 * 8 + 100
        assert DECODED_MB < os.fstat(loader._pool.descriptor).st_blocks * 512 / 2**20 < 60 + 60
