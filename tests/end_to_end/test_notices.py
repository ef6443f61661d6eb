"""What the processes of the feeder log reaches the trainer's logger: in its place among the batches, and bounded."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datago_gpu import Loader, SourceError
from datago_gpu.feeder import notices
from datago_gpu.feeder.wire import Notice
from datago_gpu.server import DataroomServer
from tests.feeder.download.test_pool import config as download_config
from tests.support.images import SHAPES, add_picture, add_pictures, file_config
from tests.support.listing import KEY, Listing, config_for, names
from tests.support.servers import Answer, MisbehavingServer, json_answer

PATCH = """
import logging, sys
if {module!r} in sys.orig_argv:
    from {owner} import {kind} as Kind
    log, original, calls = logging.getLogger("datago_gpu.somewhere"), Kind.{method}, []

    def called(*arguments, **options):
        calls.append(1)
        {statement}
        return original(*arguments, **options)

    Kind.{method} = called
"""


def patch(folder: Path, module: str, place: str, statement: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a statement run whenever a method is called, in each process that is started from now on with a module."""
    owner, kind, method = place.rsplit(".", 2)
    code = PATCH.format(module=module, owner=owner, kind=kind, method=method, statement=statement)
    (folder / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))


class Events(logging.Handler):
    """What a trainer sees, in order: texts of the log, and the batches that it notes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record.getMessage())


@pytest.fixture
def events() -> Iterator[Events]:
    handler = Events()
    logging.getLogger("datago_gpu").addHandler(handler)
    yield handler
    logging.getLogger("datago_gpu").removeHandler(handler)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    add_pictures(root, [SHAPES[number % 3] for number in range(30)])
    return root


@pytest.mark.parametrize("buffered", [1, 64])
@pytest.mark.parametrize("backend", ["pillow", "dali"])
def test_a_message_stands_in_its_place_among_the_batches(
    root: Path, tmp_path: Path, events: Events, buffered: int, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    statement = "log.warning('before batch %d', len(calls))"
    patch(tmp_path, "datago_gpu.feeder", "datago_gpu.feeder.message.Layout.message", statement, monkeypatch)
    with Loader(file_config(root, samples_buffer_size=buffered), device="cpu", backend=backend) as loader:
        for number, _ in enumerate(loader, 1):
            events.seen.append(f"batch {number}")
    assert len(events.seen) > 12
    expected = [text for number in range(1, len(events.seen) // 2 + 1)
                for text in (f"before batch {number}", f"batch {number}")]  # fmt: skip
    assert events.seen == expected


def test_a_listing_that_ends_a_little_early_is_told_in_the_trainer(tmp_path: Path, events: Events) -> None:
    with MisbehavingServer() as server:
        url = server.script("/a.jpg", Answer(200, add_picture(tmp_path / "a.jpg").read_bytes()))
        listing = Listing(server, names(200), image_direct_url=url)
        listing.counted = lambda count: json_answer({"count": count + 1})
        with Loader(config_for(listing.api_url, page_size=100), device="cpu") as loader:
            assert sum(map(len, loader)) == 200
    assert len(events.seen) == 1
    assert events.seen[0].endswith("the listing ended after 200 images, but the server counts 201")


def test_messages_are_bounded_in_number(
    root: Path, tmp_path: Path, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    statement = "[log.warning('one of many') for _ in range(20_000)]"
    patch(tmp_path, "datago_gpu.feeder", "datago_gpu.feeder.grouper.Grouper.flush", statement, monkeypatch)
    with Loader(file_config(root), device="cpu") as loader:
        assert sum(map(len, loader)) == 30
    assert notices.AT_ONCE <= len(events.seen) < notices.AT_ONCE + 10


@pytest.mark.parametrize(("level", "expected"), [(logging.INFO, ["info", "warning"]), (logging.WARNING, ["warning"]),
                                                 (logging.ERROR, [])])  # fmt: skip
def test_the_level_is_that_of_the_trainers_logger(
    root: Path, tmp_path: Path, events: Events, level: int, expected: list[str], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    statement = "log.debug('debug'), log.info('info'), log.warning('warning')"
    patch(tmp_path, "datago_gpu.feeder", "datago_gpu.feeder.grouper.Grouper.flush", statement, monkeypatch)
    with caplog.at_level(level, "datago_gpu"), Loader(file_config(root), device="cpu") as loader:
        list(loader)
    assert events.seen == expected
    assert [record.levelname.lower() for record in caplog.records] == expected


def test_secrets_and_control_characters_are_not_in_them(
    tmp_path: Path, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    statement = f"log.warning('the key is {KEY}, \\\\x1b[31m')"
    patch(tmp_path, "datago_gpu.feeder", "datago_gpu.sources.dataroom.api.DataroomApi.page", statement, monkeypatch)
    with MisbehavingServer() as server:
        listing = Listing(server, [])
        with Loader(config_for(listing.api_url), device="cpu") as loader, pytest.raises(SourceError):
            list(loader)
    assert events.seen
    assert set(events.seen) == {"the key is ***, \\x1b[31m"}


def test_processes_that_download_pass_on_theirs(
    root: Path, tmp_path: Path, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    statement = "log.warning('from one that downloads') if len(calls) == 3 else None"
    patch(
        tmp_path, "datago_gpu.feeder.download", "datago_gpu.sources.http.hedge.HedgedClient.get", statement, monkeypatch
    )
    with (
        DataroomServer(root, payload_port=0) as server,
        Loader(download_config(server.url, server.key, 2), device="cpu") as loader,
    ):
        list(loader)
    assert events.seen == 2 * ["from one that downloads"]


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=60), st.integers(1, 20))
def test_of_messages_from_all_threads_so_many_come_and_the_others_are_counted(
    calls: list[tuple[int, bool]], at_once: int
) -> None:
    """Each call is of a kind of thread: the loop's own, or another. Time stands still."""
    told: list[Notice] = []
    log = logging.getLogger("datago_gpu.somewhere")

    async def main() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(notices, "AT_ONCE", at_once)
            patch.setattr(notices.time, "monotonic", lambda: 7.0)
            with notices.pass_on_logs(logging.WARNING, told.append):
                for level, elsewhere in calls:
                    call = (log.info, log.warning, log.error)[level]
                    if elsewhere:
                        thread = threading.Thread(target=call, args=("hello",))
                        thread.start()
                        thread.join()
                    else:
                        call("hello")
                    await asyncio.sleep(0)

    asyncio.run(main())
    wanted = [level for level, _ in calls if level]
    assert [notice.level // 10 - 2 for notice in told] == wanted[:at_once]
    assert {notice.text for notice in told} <= {"hello"}


def test_what_was_left_out_is_told_with_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Notice] = []
    now = [0.0]
    monkeypatch.setattr(notices.time, "monotonic", lambda: now[0])
    log = logging.getLogger("datago_gpu")

    async def main() -> None:
        with notices.pass_on_logs(logging.WARNING, told.append):
            log.warning("x" * 10**6)
            for _ in range(notices.AT_ONCE + 6):
                log.warning("and more")
            now[0] += notices.REFILL_S
            log.warning("at last")

    asyncio.run(main())
    assert told[0].text == "x" * notices.LONGEST
    assert told[-1].text == "at last (7 other messages before it were left out)"
    assert len(told) == notices.AT_ONCE + 1
