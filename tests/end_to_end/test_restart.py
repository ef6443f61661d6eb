"""A feeder that dies in the middle: another goes on from there, and the trainer gets what it would have got anyway."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from datago_gpu import Batch, FeederError, Loader, LoaderConfig
from datago_gpu.feeder.pack import SKIPS_A_MESSAGE
from datago_gpu.server import DataroomServer
from tests.support.images import SHAPES, add_picture, add_pictures, file_config
from tests.support.shards import tar_bytes

Delivered = list[tuple[int, tuple[int, int] | None, list[str], int]]

DIES = """
import os, sys
def look(event, details):
    if event == "open" and str(details[0]).endswith({name!r}):
        with open({log!r}, "a") as log:
            log.write("opened\\n")
        with open({log!r}) as log:
            if len(log.readlines()) in {at}:
                os.kill(os.getpid(), 9)
sys.addaudithook(look)
"""
"""Kills the process that opens a file, at these of all times that it is opened."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 pictures for three buckets; nine are none, and of five only a decoder finds out."""
    folder = tmp_path_factory.mktemp("of90")
    root = folder / "images"
    names = add_pictures(root, [SHAPES[number * number % 3] for number in range(90)])
    for name in names[9::10]:
        (root / name).write_bytes(b"no image")
    for name in names[6::20]:
        whole = add_picture(folder / "whole.png").read_bytes()
        data = whole.index(b"IDAT") + 4
        (root / name).write_bytes(whole[:data] + bytes(8) + whole[data + 8 :])
    return root


def settings(root: Path, **more: Any) -> LoaderConfig:
    """Little is under way at once, so that most is still to come whenever a feeder dies."""
    return file_config(root, samples_buffer_size=1, prefetch_buffer_size=16, **{"epochs": 2, **more})


def kill_at(folder: Path, name: str, at: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the feeder that opens file `name` killed, at these of all times that it is opened."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(DIES.format(name=name, at=at, log=str(folder / "opened")))
    monkeypatch.setenv("PYTHONPATH", str(folder))


def described(batch: Batch) -> tuple[int, tuple[int, int] | None, list[str], int]:
    return batch.epoch, batch.bucket, batch.ids, int(batch.image.sum())


def run(
    config: LoaderConfig, kill_after: int | None = None
) -> tuple[Delivered, dict[str, int], tuple[int, int, set[int]]]:
    """What is delivered, what is skipped, and where the stream stands then; with a kill after so many batches."""
    delivered: Delivered = []
    with Loader(config, device="cpu") as loader:
        if kill_after == 0:
            os.kill(loader.feeder_pid, signal.SIGKILL)
        for batch in loader:
            delivered.append(described(batch))
            if len(delivered) == kill_after:
                os.kill(loader.feeder_pid, signal.SIGKILL)
        return delivered, loader.stats().skipped, rest_of(loader.state_dict()["resume"])


@cache
def undisturbed(config: LoaderConfig) -> tuple[Delivered, dict[str, int], tuple[int, int, set[int]]]:
    """The same without a kill."""
    return run(config)


def rest_of(resume: dict[str, Any]) -> tuple[int, int, set[int]]:
    """What a state says, which may begin anywhere in what is done."""
    done = {index for first, last in resume["done"] for index in range(first, last + 1)}
    return resume["delivered"], resume["position"]["epoch"], {*range(resume["position"]["index"], 90)} - done


@pytest.mark.parametrize("kill_after", [0, 1, 9, 22, 34])
@pytest.mark.parametrize("more", [{}, {"source": {"random_sampling": True}, "limit": 130}], ids=["all", "shuffled"])
def test_what_is_delivered_does_not_depend_on_a_feeder_that_is_killed(
    root: Path, more: dict[str, Any], kill_after: int, caplog: pytest.LogCaptureFixture
) -> None:
    whole = undisturbed(settings(root, **more))
    assert kill_after <= len(whole[0])
    assert run(settings(root, **more), kill_after) == whole
    warnings = [record.getMessage() for record in caplog.records if "SIGKILL" in record.getMessage()]
    assert len(warnings) <= 1  # one that has sent everything is not missed
    assert all(warning.endswith("a new one continues from there") for warning in warnings)
    if kill_after < 22:
        assert warnings


@pytest.mark.parametrize(("name", "at"), [("0000.jpg", 1), ("0044.jpg", 1), ("0044.jpg", 2), ("0088.jpg", 2)])
def test_a_file_that_kills_a_feeder_once_is_delivered(
    root: Path, tmp_path: Path, name: str, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = undisturbed(settings(root, drop_last=True))
    kill_at(tmp_path / "site", name, (at,), monkeypatch)
    assert run(settings(root, drop_last=True)) == whole
    times = len((tmp_path / "site" / "opened").read_text().splitlines())
    assert times == 3  # once an epoch, and once more


def test_a_file_that_kills_every_feeder_is_an_error_with_the_last_words_of_both(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = undisturbed(settings(root))[0]
    kill_at(tmp_path / "site", "0060.jpg", tuple(range(9)), monkeypatch)
    delivered: Delivered = []
    with Loader(settings(root), device="cpu") as loader, pytest.raises(FeederError) as caught:
        delivered.extend(map(described, loader))
    assert delivered
    assert delivered == whole[: len(delivered)]
    assert str(caught.value).count("ended by signal 9 (SIGKILL); its last output: (none)") == 2
    assert "already restarted once in this run, after: the feeder process ended" in str(caught.value)
    assert (tmp_path / "site" / "opened").read_text() == "opened\n" * 2


def test_skips_told_of_before_the_first_batch_of_an_epoch_are_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No position says that they are known: the last batch is one of the epoch before."""
    bad, root = 2 * SKIPS_A_MESSAGE, tmp_path / "images"
    root.mkdir()
    for number in range(bad):
        (root / f"{number:03}.jpg").write_bytes(b"no image")
    add_picture(root / "good.jpg")
    kill_at(tmp_path / "site", "good.jpg", (2,), monkeypatch)
    listed = tmp_path / "skipped.jsonl"
    config = settings(root, skipped_file=str(listed), batch_size=1)
    delivered, skipped, _ = run(config)
    assert [ids for _, _, ids, _ in delivered] == [["good.jpg"]] * 2
    assert (tmp_path / "site" / "opened").read_text() == "opened\n" * 3
    assert skipped == {"unknown-format": 2 * bad}
    entries = Counter((entry["epoch"], entry["id"]) for entry in map(json.loads, listed.read_text().splitlines()))
    assert set(entries.values()) == {1}


def test_stats_count_both_feeders(root: Path) -> None:
    with Loader(settings(root), device="cpu") as loader:
        for number, _ in enumerate(loader):
            if number == 9:
                os.kill(loader.feeder_pid, signal.SIGKILL)
            elif number == 8:
                before = loader.stats()
        stats = loader.stats()
        items = {stage.name: stage.items for stage in stats.stages}
    assert stats.feeder_cores * stats.seconds > before.feeder_cores * before.seconds > 0
    assert items["pack"] >= 162  # decode processes die with their feeder: what they had is sent again
    assert items["decode"] == items["trainer"] == 152
    assert items["fetch"] >= 180  # what was on its way is fetched again


@pytest.fixture(scope="module")
def server(root: Path) -> Any:
    with DataroomServer(root, payload_port=0) as server:
        yield server


def of_server(server: DataroomServer, **source: Any) -> LoaderConfig:
    plain = {name: getattr(settings(Path("unused")), name) for name in ("image_config", "http_config")}
    source = {"api_url": server.url, "api_key": server.key, "page_size": 7, **source}
    return LoaderConfig.load(
        {
            "source_type": "db",
            "source_config": source,
            **plain,
            "batch_size": 4,
            "arena_mb": 2,
            "samples_buffer_size": 1,
            "prefetch_buffer_size": 16,
            "limit": 60,
        }
    )


@pytest.mark.parametrize("kill_after", [1, 5])
@pytest.mark.parametrize("shuffled", [False, True])
def test_a_dataroom_goes_on_after_a_kill(server: DataroomServer, shuffled: bool, kill_after: int) -> None:
    config = of_server(server, random_sampling=shuffled, shuffle_buffer=20)
    assert run(config, kill_after) == undisturbed(config)


def test_random_draws_of_the_server_end_with_the_feeder(server: DataroomServer) -> None:
    """Another feeder would draw what was delivered before."""
    config = of_server(server, random_sampling=True, random_method="server")
    with pytest.raises(FeederError, match=r"^the feeder process ended by signal 9 .* last output: \(none\)\n.* memory"):
        run(config, kill_after=1)


@pytest.mark.parametrize(
    ("module", "how"),
    [
        ("msgspec", "raise RuntimeError('broken on purpose')"),
        ("uvloop", "import os; os.write(2, b'on purpose'); os._exit(3)"),
    ],
)
def test_a_feeder_that_cannot_begin_is_not_started_again(
    root: Path, tmp_path: Path, module: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a module of the user's hides one that it needs."""
    log = tmp_path / "starts"
    (tmp_path / "site").mkdir()
    told = f"import os\nif os.getppid() == {os.getpid()}: print('start', file=open({str(log)!r}, 'a'), flush=True)\n"
    (tmp_path / "site" / f"{module}.py").write_text(told + how)  # not told by what the feeder starts
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(
        FeederError, match=r"(?s)^the feeder process ended with status [13]; its last output: .*purpose"
    ):
        run(settings(root))
    assert log.read_text() == "start\n"


def test_an_import_that_fails_later_is_told_with_its_traceback(
    server: DataroomServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "aiohttp.py").write_text("raise ImportError('broken on purpose')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(FeederError, match=r"(?s)^the feeder process failed:.*site/aiohttp.py.*broken on purpose"):
        run(of_server(server))


def test_closing_while_a_feeder_is_replaced_leaves_none(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    for batches in range(6):
        with Loader(settings(root), device="cpu") as loader:
            for _ in range(batches):
                next(loader)
            os.kill(loader.feeder_pid, signal.SIGKILL)
            if batches % 2:
                next(loader)
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)


def test_a_lost_shard_is_told_of_once_an_epoch_where_a_feeder_dies_behind_the_last_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next feeder reads it again, and tells of it with the first batch of the next epoch."""
    (tmp_path / "a.tar").write_bytes(b"no tar" * 1000)
    (tmp_path / "b.tar").write_bytes(tar_bytes([("good.jpg", add_picture(tmp_path / "good.jpg").read_bytes())]))
    kill_at(tmp_path / "site", "b.tar", (2,), monkeypatch)
    source = {"url": f"{tmp_path}/{{a,b}}.tar", "interleave": 2}
    config = LoaderConfig.load({"source_type": "webdataset", "source_config": source, "epochs": 2, "max_failures": 2})
    with Loader(config, device="cpu") as loader:
        assert [batch.ids for batch in loader] == [["good"]] * 2
        assert loader.stats().skipped == {"bad-shard": 2}
    assert (tmp_path / "site" / "opened").read_text() == "opened\n" * 4
