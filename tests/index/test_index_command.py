"""`datago-gpu index`, as a user runs it: what it prints, and what is left when it is stopped."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from datago_gpu.config import LoaderConfig
from datago_gpu.errors import DatagoError
from datago_gpu.index.build import part_of
from datago_gpu.index.local_files import FilesJob
from datago_gpu.index.reader_pool import ReaderPool
from tests.index.test_folder_index import folder_config, write_pictures
from tests.index.test_remote_index import Store, db_config, small
from tests.support.commands import run_command
from tests.support.indexes import make, usable
from tests.support.servers import Answer, MisbehavingServer, Request


def test_the_command_says_what_the_index_holds(tmp_path: Path) -> None:
    root, out = tmp_path / "photos", tmp_path / "x.arrow"
    write_pictures(root, 12)
    (root / "000" / "00003.txt").write_text("a caption")
    (root / "bad.jpg").write_bytes(b"")
    first = run_command("index", "--root-path", str(root), "--captions", "txt", "--out", str(out), "--readers", "1")
    assert first.returncode == 0, first.stderr
    assert first.stderr.strip() == ""
    lines = dict(line.strip().split(maxsplit=1) for line in first.stdout.splitlines())
    assert lines["samples"] == "12"
    assert lines["unusable"] == "1 empty"
    assert lines["with"] == "attributes  1"
    assert json.loads(lines["To"].removeprefix("load it: "))["source_config"] == {"path": str(out)}
    assert len(usable(out)) == 12
    again = run_command("index", "--root-path", str(root), "--out", str(out))
    assert again.returncode == 2
    assert "--update" in again.stderr
    config, file = folder_config(root, limit=3), tmp_path / "config.json"
    config["source_config"]["captions"] = "txt"
    file.write_text(json.dumps(config))
    update = run_command("index", str(file), "--out", str(out), "--update", "--readers", "0")
    assert update.returncode == 0, update.stderr
    assert "known before 12" in " ".join(update.stdout.split())


def test_a_source_without_a_usable_sample_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"")
    result = run_command("index", "--root-path", "photos", "--readers", "0", cwd=tmp_path)
    assert result.returncode == 2
    assert "none of the 1 samples can be used" in result.stderr
    assert (tmp_path / "index.arrow").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--root-path", "/no/such/folder"], "/no/such/folder"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], words: str, tmp_path: Path) -> None:
    result = run_command("index", *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    write_pictures(tmp_path, 1)
    script = "import sys; sys.modules['pyarrow'] = None; from datago_gpu.cli import main; main()"
    line = [sys.executable, "-c", script, "index", "--root-path", str(tmp_path), "--out", str(tmp_path / "x.arrow")]
    result = subprocess.run(line, capture_output=True, text=True, timeout=50, check=False)
    assert result.returncode == 2
    assert "pip install 'datago_gpu[table]'" in result.stderr


def test_after_ctrl_c_the_same_command_goes_on(tmp_path: Path) -> None:
    out, config_file = tmp_path / "x.arrow", tmp_path / "config.json"
    with MisbehavingServer() as server:
        store = Store(server, small(40))
        config = db_config(store.listing.api_url)
        config["http_config"] = {"concurrent_downloads": 1}
        config_file.write_text(json.dumps(config))
        make(config, tmp_path / "whole.arrow")
        reached = threading.Event()

        def fault(request: Request, _good: Answer) -> Answer | None:
            if not request.path.endswith("im-025"):
                return None
            reached.set()
            return Answer(silent=True)

        store.fault = fault
        line = [sys.executable, "-m", "datago_gpu.cli", "index", str(config_file), "--out", str(out)]
        with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as running:
            assert reached.wait(40)
            running.send_signal(signal.SIGINT)
            _, said = running.communicate(timeout=40)
        assert running.returncode in (130, -signal.SIGINT)
        assert "the same command goes on from there" in said
        assert "Traceback" not in said
        assert part_of(out).exists()
        store.fault = lambda _request, _good: None
        assert 15 <= make(config, out).known <= 25
    assert out.read_bytes() == (tmp_path / "whole.arrow").read_bytes()


def test_a_process_that_is_killed_ends_the_run_with_an_error(tmp_path: Path) -> None:
    config = LoaderConfig.load(folder_config(tmp_path))

    async def run() -> None:
        job = FilesJob(b"/", [b"x.jpg"], [None])
        async with ReaderPool(config, 1) as pool:
            await pool.run(job)
            (reader,) = psutil.Process().children()
            reader.kill()
            await pool.run(job)

    with pytest.raises(DatagoError, match="has ended with status -9; the same command goes on"):
        asyncio.run(run())


def test_a_process_is_started_only_for_a_job(tmp_path: Path) -> None:
    config = LoaderConfig.load(folder_config(tmp_path))

    async def run() -> list[int]:
        job, counts = FilesJob(b"/", [b"x.jpg"], [None]), list[int]()
        async with ReaderPool(config, 4) as pool:
            for jobs in (0, 1, 1, 2, 9):
                await asyncio.gather(*(pool.run(job) for _ in range(jobs)))
                counts.append(len(psutil.Process().children()))
        return [*counts, len(psutil.Process().children())]

    assert asyncio.run(run()) == [0, 1, 1, 2, 4, 0]


def test_processes_end_with_a_program_that_is_killed(tmp_path: Path) -> None:
    script = f"""
import asyncio, sys
from datago_gpu.config import LoaderConfig
from datago_gpu.index.local_files import FilesJob
from datago_gpu.index.reader_pool import ReaderPool

async def main():
    config = LoaderConfig.load({folder_config(tmp_path)!r})
    async with ReaderPool(config, 2) as pool:
        await asyncio.gather(*(pool.run(FilesJob(b"/", [b"x.jpg"], [None])) for _ in range(3)))
        print("ready", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout
        assert program.stdout.readline() == "ready\n"
        readers = psutil.Process(program.pid).children()
        assert len(readers) == 2
        program.kill()
    _, alive = psutil.wait_procs(readers, timeout=30)
    assert alive == []
