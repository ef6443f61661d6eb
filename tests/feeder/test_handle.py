"""A real feeder process: what comes over, and that nothing of it is left, however it ends."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from datago_gpu.config import LoaderConfig
from datago_gpu.errors import FeederError
from datago_gpu.feeder import wire
from datago_gpu.feeder.handle import Feeder, FeederClosed
from datago_gpu.feeder.spawn import LAST_WORDS_BYTES
from datago_gpu.feeder.wire import Resume
from tests.support.images import SHAPES, add_pictures, file_config
from tests.support.servers import Answer, MisbehavingServer

pytestmark = pytest.mark.usefixtures("nothing_left")

WAIT_S = 20
KEY = "5ecret5ecret5ecret5ecret5ecret5ecret5ecr"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    add_pictures(tmp_path / "images", [SHAPES[number % 3] for number in range(12)])
    return tmp_path / "images"


@pytest.fixture
def start() -> Iterator[Any]:
    """Starts feeders; they are closed after the test."""
    feeders: list[Feeder] = []

    def start(config: LoaderConfig, resume: Resume | None = None) -> Feeder:
        feeders.append(Feeder(config, resume or Resume()))
        return feeders[-1]

    yield start
    for feeder in feeders:
        feeder.close()
        feeder.dispose()
        feeder.memory.close()


def receive_batch(feeder: Feeder) -> wire.EncodedBatch:
    message = feeder.receive()
    assert isinstance(message, wire.EncodedBatch)
    return message


def drain(feeder: Feeder) -> None:
    """What had come before it was closed may still be there."""
    while True:
        feeder.receive()


def stalled(start: Any, root: Path) -> Feeder:
    """One that has sent its only batch and waits to hear what became of it."""
    feeder: Feeder = start(file_config(root, limit=1))
    receive_batch(feeder)
    return feeder


def test_batches_come_with_their_bytes_in_shared_memory_and_then_the_end(root: Path, start: Any) -> None:
    feeder = start(file_config(root))
    names = []
    for _ in range(3):
        batch = receive_batch(feeder)
        for name, offset, length in zip(batch.ids, batch.offsets, batch.lengths, strict=True):
            assert feeder.memory[offset : offset + length] == (root / name).read_bytes()
        names += batch.ids
        feeder.report(batch.number, 0)
    assert sorted(names) == sorted(path.name for path in root.iterdir())
    assert isinstance(feeder.receive(), wire.Ended)


def test_a_feeder_that_has_ended_does_not_mind_reports(root: Path, start: Any) -> None:
    feeder = start(file_config(root, limit=1))
    batch = receive_batch(feeder)
    feeder.report(batch.number, 0)
    assert isinstance(feeder.receive(), wire.Ended)
    psutil.wait_procs([psutil.Process(feeder.pids[0])], WAIT_S)
    for _ in range(3):
        feeder.report(batch.number, 0)


def test_a_start_in_the_middle_is_passed_on(root: Path, start: Any) -> None:
    first = receive_batch(start(file_config(root, batch_size=12, image={"crop_and_resize": False})))
    resume = Resume(wire.Position(0, 4), [(6, 7), (11, 11)], 7)
    second = receive_batch(start(file_config(root, batch_size=12, image={"crop_and_resize": False}), resume))
    assert second.ids == [first.ids[index] for index in (4, 5, 8, 9, 10)]


def test_rank_and_world_size_of_this_process_are_those_of_the_feeder(
    root: Path, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = file_config(root, batch_size=12, image={"crop_and_resize": False})
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert receive_batch(start(config)).ids == ["0001.jpg", "0004.jpg", "0007.jpg", "0010.jpg"]


def test_a_source_that_fails_is_told_with_its_own_words(tmp_path: Path, start: Any) -> None:
    message = start(file_config(tmp_path / "nowhere")).receive()
    assert isinstance(message, wire.Failed)
    assert message.kind == "SourceError"
    assert f"cannot list {tmp_path}/nowhere" in message.message


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_feeder_that_is_killed_is_an_error_naming_the_signal(root: Path, start: Any, how: signal.Signals) -> None:
    feeder = stalled(start, root)
    os.kill(feeder.pids[0], how)
    with pytest.raises(FeederError, match=rf"^the feeder process ended by signal {int(how)} \({how.name}\); its last"):
        feeder.receive()


def test_a_feeder_that_is_killed_wakes_who_waits_for_it(root: Path, start: Any) -> None:
    feeder = stalled(start, root)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(feeder.receive)
        os.kill(feeder.pids[0], signal.SIGKILL)
        with pytest.raises(FeederError, match="SIGKILL"):
            waiting.result(WAIT_S)


def misbehave(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Have each Python that is started from now on run this first."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_what_a_dying_feeder_wrote_is_in_the_error(
    root: Path, tmp_path: Path, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import os; os.write(2, b'x' * 100_000 + b'\\xff the disk is on fire\\n'); os._exit(7)"
    misbehave(tmp_path / "site", monkeypatch, code)
    with pytest.raises(FeederError) as caught:
        start(file_config(root)).receive()
    words = str(caught.value)
    assert words.startswith("the feeder process ended with status 7; its last output: xxx")
    assert "x\ufffd the disk is on fire\nIt was started as " in words
    assert len(words) < LAST_WORDS_BYTES + 400


def test_a_feeder_that_dies_without_a_word_says_so(
    root: Path, tmp_path: Path, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    misbehave(tmp_path / "site", monkeypatch, "import os; os._exit(0)")
    with pytest.raises(FeederError) as caught:
        start(file_config(root)).receive()
    assert str(caught.value).splitlines()[0] == "the feeder process ended with status 0; its last output: (none)"


def test_a_feeder_that_writes_much_and_works_is_no_trouble(
    root: Path, tmp_path: Path, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody reads what it writes: a pipe would fill up and stop it."""
    misbehave(tmp_path / "site", monkeypatch, "import os; os.write(2, b'x' * 300_000); print('y' * 300_000)")
    assert receive_batch(start(file_config(root))).ids


def test_a_module_in_the_working_folder_does_not_come_in_between(
    root: Path, tmp_path: Path, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("asyncio.py", "datago_gpu.py", "msgspec.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    assert receive_batch(start(file_config(root))).ids


def test_closing_wakes_who_waits_and_ends_the_process(root: Path, start: Any) -> None:
    feeder = stalled(start, root)
    process = psutil.Process(feeder.pids[0])
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(feeder.receive)
        feeder.close()
        with pytest.raises(FeederClosed):
            waiting.result(WAIT_S)
    assert not process.is_running()


def test_closing_may_be_repeated_from_many_threads_and_from_any_state(root: Path, start: Any) -> None:
    for feeder in (start(file_config(root)), stalled(start, root)):
        threads = [threading.Thread(target=feeder.close) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
        feeder.close()
        feeder.report(0, 0)
        with pytest.raises(FeederClosed):
            drain(feeder)
        feeder.dispose()
        feeder.dispose()
        with pytest.raises(FeederClosed):
            feeder.receive()


def test_waiting_tells_whether_something_has_come(root: Path, start: Any) -> None:
    feeder = start(file_config(root, limit=1))
    assert select.select([feeder._channel], [], [], WAIT_S)[0]
    assert feeder.waiting()
    batch = receive_batch(feeder)
    assert not feeder.waiting()
    feeder.report(batch.number, 0)
    assert select.select([feeder._channel], [], [], WAIT_S)[0]
    assert feeder.waiting()
    feeder.close()
    assert feeder.waiting()  # the error that `receive` will raise


def test_the_feeder_is_in_a_process_group_of_its_own(root: Path, start: Any) -> None:
    """Ctrl-C goes to the trainer alone, which then ends it."""
    assert os.getpgid(stalled(start, root).pids[0]) != os.getpgrp()


def test_the_api_key_is_in_no_command_line_and_no_environment(start: Any) -> None:
    with MisbehavingServer() as server:
        server.script("/api/images/", Answer(silent=True))
        server.script("/api/images/count/", Answer(silent=True))
        source = {"api_key": KEY, "api_url": f"{server.url}/api/", "check_count": False}
        feeder = start(LoaderConfig.load({"source_type": "db", "source_config": source}))
        assert server.asked.wait(WAIT_S)
        assert KEY in server.requests[0].headers["authorization"]
        for name in ("cmdline", "environ"):
            assert KEY.encode() not in Path(f"/proc/{feeder.pids[0]}/{name}").read_bytes()
        feeder.close()


TRAINER = """
import os, sys, signal
from datago_gpu.feeder.handle import Feeder
from datago_gpu.feeder.wire import Resume
from tests.support.images import file_config

feeder = Feeder(file_config(sys.argv[1], limit=1), Resume())
feeder.receive()
if sys.argv[2] == "with a fork":
    if not os.fork():
        signal.pause()
print(feeder.pids[0], flush=True)
signal.pause()
"""


@pytest.mark.parametrize("how", ["alone", "with a fork"])
def test_a_feeder_does_not_outlive_a_trainer_that_is_killed(root: Path, how: str) -> None:
    """Not even where a process that the trainer forked, say a worker of another loader, still holds the socket."""
    trainer = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", TRAINER, str(root), how],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        text=True,
    )
    with trainer:
        assert trainer.stdout is not None
        feeder = int(trainer.stdout.readline())
        forks = [child for child in psutil.Process(trainer.pid).children() if child.pid != feeder]
        assert len(forks) == (how == "with a fork")
        ended = os.pidfd_open(feeder)
        trainer.kill()
        try:
            assert select.select([ended], [], [], WAIT_S)[0]
        finally:
            os.close(ended)
            for each in forks:
                each.kill()
