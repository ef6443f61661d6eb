"""Batches as arrays of JAX: on eight devices of one process, and on those of two processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from datago_gpu import Loader
from datago_gpu.index.build import build_index
from tests.support.images import SHAPES, add_pictures, file_config
from tests.support.needs import needs
from tests.support.ports import free_ports

HERE = Path(__file__).parent
STOP = 2


def on_devices(count: int) -> dict[str, str]:
    """The environment of a process of JAX with so many devices of the CPU."""
    flags = f"--xla_force_host_platform_device_count={count}"
    return {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(HERE.parent)}


@pytest.mark.timeout(180)
def test_on_eight_devices() -> None:
    needs("jax")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "jax_on_eight_devices.py")]
    done = subprocess.run(
        command, env=on_devices(8), cwd=HERE.parent, capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def processes(folder: Path, *arguments: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes of one job of JAX, which are gone at the end."""
    (port,) = free_ports(1)
    command = [sys.executable, str(HERE / "jax_ranks.py"), port]
    started = [
        subprocess.Popen(
            [*command, str(rank), *arguments],
            cwd=folder,
            env=on_devices(2),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        yield started
    finally:
        for each in started:
            each.kill()
            each.communicate()


def lines(folder: Path, rank: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"rank{rank}.jsonl").read_text().splitlines()]


@pytest.mark.timeout(240)
def test_two_processes_in_lockstep_that_are_killed_and_resumed(tmp_path: Path) -> None:
    """Their global arrays have the samples of both, the means are right at every step, and the resumed run has the
    ids that a plain run has."""
    needs("jax")
    names = add_pictures(tmp_path / "photos", [SHAPES[number % 2] for number in range(26)])
    build_index(file_config(tmp_path / "photos"), tmp_path / "index.arrow", readers=0)
    (tmp_path / "photos" / names[5]).write_bytes(b"damaged since")
    config = {
        "source_type": "table",
        "source_config": {"path": str(tmp_path / "index.arrow"), "random_sampling": True},
        "image_config": {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 16},
        "decode_config": {"processes": 0, "threads": 1},
        "batch_size": 4,
        "lockstep": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    for stop, code in ((STOP, -signal.SIGKILL), (0, 0)):
        with processes(tmp_path, "config.json", *([str(stop)] if stop else [])) as job:
            for each in job:
                said, _ = each.communicate(timeout=100)
                assert each.returncode == code, said
    found = [lines(tmp_path, rank) for rank in range(2)]
    for rank in range(2):
        share = {**config["source_config"], "rank": rank, "world_size": 2}  # type: ignore[dict-item]
        with Loader(config | {"source_config": share}, device="cpu") as loader:
            plain = [batch.ids for batch in loader]
        assert len(plain) > STOP + 1
        assert [line["ids"] for line in found[rank]] == plain
    for ours, theirs in zip(*found, strict=True):
        assert ours["shape"] == theirs["shape"]
        assert ours["shape"][0] == 8
        right = (ours["sum"] + theirs["sum"]) / (ours["count"] + theirs["count"])
        assert ours["mean"] == theirs["mean"] == pytest.approx(right, rel=1e-5)
    for rank in range(2):
        told = json.loads((tmp_path / f"shares{rank}.json").read_text())
        assert (told["share"], told["share of replicas"]) == ([rank, 2], [0, 1])
        assert "a loader without lockstep" in told["refused"]
        assert "no sample of this batch has masks['seg']" in told["absent"]
        assert told["same"] == [[4, 4, 4, 3], 0.5]
