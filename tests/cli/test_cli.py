"""The commands, as a user runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from PIL import Image

import datago_gpu
from tests.support.commands import run_command

PHOTOS = Path(datago_gpu.__file__).parent / "photos"


@pytest.mark.parametrize("name", [[], ["demo"], ["bench"], ["index"], ["plan"], ["serve"], ["preview"], ["doctor"]])
def test_every_command_has_help(name: list[str]) -> None:
    result = run_command(*name, "--help")
    assert result.returncode == 0
    assert "Usage:" in result.stdout


def test_demo_streams_everything_and_draws_every_bucket(tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    result = run_command("demo", "--samples", "120", "--out", str(out), "--device", "cpu")
    assert result.returncode == 0, result.stderr
    assert "pillow on cpu (device='cpu'" in result.stdout.replace("\n", " ")
    assert "120 in" in result.stdout
    assert "3 undecodable" in result.stdout
    with Image.open(out) as sheet:
        assert sheet.width > 800
        assert sheet.height > 500


@pytest.mark.parametrize(
    ("out", "words"),
    [("nope/x.png", "does not exist"), ("x.txt", "must end in .png"), ("locked/x.png", "permission")],
)
def test_demo_looks_first_at_the_file_that_it_is_to_write(tmp_path: Path, out: str, words: str) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    if out.startswith("locked") and os.access(tmp_path / "locked", os.W_OK):
        pytest.skip("this user may write everywhere")
    result = run_command("demo", "--out", str(tmp_path / out))
    assert result.returncode == 2
    assert words in result.stderr
    assert result.stdout == ""


def test_bench_ends_with_one_json_object(tmp_path: Path) -> None:
    result = run_command("bench", "--root-path", str(PHOTOS), "--crop-and-resize", "--default-image-size", "64",
                     "--downsampling-ratio", "16", "--backend", "pillow", "--limit", "10", "--json")  # fmt: skip
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout.splitlines()[-1])
    assert figures["samples"] == 10
    assert figures["skipped"] == {}
    assert {"seconds", "images_per_s", "bytes_per_s", "stages", "feeder_cores"} <= figures.keys()
    assert [stage["name"] for stage in figures["stages"]] == ["fetch", "pack", "decode", "trainer"]


def test_bench_takes_a_file_and_flags_win(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"source_type": "file", "source_config": {"root_path": str(PHOTOS)}, "limit": 12}))
    result = run_command("bench", str(config), "--limit", "3", "--device", "cpu")
    assert result.returncode == 0, result.stderr
    assert "3 in" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bench", "--root-path", "/no/such/folder"], "/no/such/folder"),
        (["bench", "--root-path", "x", "--batch-size", "0"], "batch_size"),
        (["bench", "--root-path", "x", "--backend", "magic"], "magic"),
        (["bench", "--sources", "x", "--api-url", "ftp://x/api/"], "ftp://x/api/"),
        (["bench", "/no/such/config.json"], "/no/such/config.json"),
        (["serve", "/no/such/folder"], "/no/such/folder"),
        (["bench"], "--root-path ~/photos"),
        (["preview", "--batch-size", "8"], "--root-path ~/photos"),
    ],
)
def test_an_expected_error_is_one_line_and_exit_code_2(arguments: list[str], words: str) -> None:
    result = run_command(*arguments)
    assert result.returncode == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()[-1]) > 10


def test_ctrl_c_ends_at_once_and_takes_the_feeder_along() -> None:
    arguments = ["bench", "--root-path", str(PHOTOS), "--epochs", "null", "--backend", "pillow"]
    with subprocess.Popen(
        [sys.executable, "-m", "datago_gpu.cli", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            while not (feeders := psutil.Process(process.pid).children()):
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=10)
        finally:
            process.kill()
    # A shell shows 130 for both. Python ends by the signal if the interrupt arrives in an exec(), as of dataclasses.
    assert process.returncode in (130, -signal.SIGINT)
    assert b"Traceback" not in errors
    assert psutil.wait_procs(feeders, timeout=10)[1] == []
