"""Errors that nobody foresaw, in any process and thread of a run: the trainer gets one of ours, with their words."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from datago_gpu import DatagoError, FeederError, Loader, Row
from datago_gpu.loader.assembly import Assembly
from datago_gpu.server import DataroomServer
from tests.feeder.download.test_pool import config as download_config
from tests.support.images import add_pictures, file_config
from tests.support.patience import end_of_loaders


class Panic(BaseException):
    """As of a library in Rust: no Exception."""


ERRORS: list[type[BaseException]] = [RuntimeError, Panic, SystemExit, KeyboardInterrupt, asyncio.CancelledError]
IN_THE_DECODING_THREAD = [
    "datago_gpu.loader.assembly.Assembly.__init__",
    "datago_gpu.loader.assembly.Assembly.submit",
    "datago_gpu.loader.assembly.Assembly.collect",
    "datago_gpu.loader.assembly.Assembly.close",
    "datago_gpu.loader.assembly.LoadedBatch.of",
    "datago_gpu.decoders.renderer.render_array",
    "datago_gpu.loader.supervisor.Supervisor.receive",
    "datago_gpu.loader.supervisor.Supervisor.report",
]
WAYS: dict[str, Callable[[Loader], Any]] = {"batches": list, "samples": lambda loader: list(loader.samples())}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    add_pictures(root, [(40, 40)] * 12)
    return root


def raising(error: BaseException, after: Callable[..., Any] = lambda *_, **__: None) -> Callable[..., Any]:
    def fail(*arguments: object, **options: object) -> None:
        after(*arguments, **options)
        raise error

    return fail


@pytest.mark.parametrize(
    ("place", "error"),
    [(place, Panic) for place in IN_THE_DECODING_THREAD] + [(IN_THE_DECODING_THREAD[2], error) for error in ERRORS],
)
def test_an_error_in_the_decoding_thread_is_the_cause_of_one_of_ours(
    root: Path, place: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    given, name = error("boom"), error.__name__
    closes = {"after": Assembly.close} if place.endswith(".close") else {}  # else its threads would stay
    decode = {"processes": 0} if "renderer" in place else {}  # decode processes import a renderer of their own
    monkeypatch.setattr(place, raising(given, **closes))
    with Loader(file_config(root, decode_config=decode), device="cpu", backend="pillow") as loader:
        with pytest.raises(DatagoError, match=rf"^unexpected error in decoding: {name}: boom$") as caught:
            list(loader)
        assert caught.value.__cause__ is given
        assert list(loader) == []


@pytest.mark.parametrize("way", WAYS)
def test_an_error_in_the_trainers_thread_is_the_cause_of_one_of_ours(
    root: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ValueError("boom")
    monkeypatch.setattr("datago_gpu.loader.skips.Skips.add", raising(given))
    with Loader(file_config(root), device="cpu", backend="pillow") as loader:
        with pytest.raises(DatagoError, match=r"^unexpected error in the loader: ValueError: boom$") as caught:
            WAYS[way](loader)
        assert caught.value.__cause__ is given


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("way", WAYS)
def test_what_ends_the_program_passes(
    root: Path, way: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datago_gpu.loader.skips.Skips.add", raising(error("boom")))
    with Loader(file_config(root), device="cpu", backend="pillow") as loader, pytest.raises(error):
        WAYS[way](loader)


@pytest.mark.parametrize("thread", ["decode_thread.Worker", "row_thread.RowThread"])
def test_a_thread_that_cannot_be_started_leaves_nothing(thread: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"datago_gpu.loader.{thread}.start", raising(RuntimeError("can't start new thread")))
    with pytest.raises(
        DatagoError, match=r"^unexpected error in the start of the loader's threads: .*start new thread"
    ):
        Loader({}, device="cpu", backend="pillow", source=[Row("a", b"x")])
    assert not psutil.Process().children()
    end_of_loaders()
    assert not any(each.name == "datago-rows" for each in threading.enumerate())


PATCHED = """
import sys
if {module!r} in sys.orig_argv:
    from {owner} import {kind} as Kind

    class Panic(BaseException):
        pass

    def fail(*arguments, **options):
        raise Panic("boom")

    Kind.{method} = fail
"""


def break_processes(folder: Path, module: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a method panic in each process that is started from now on with this module."""
    owner, kind, method = place.rsplit(".", 2)
    (folder / "sitecustomize.py").write_text(PATCHED.format(module=module, owner=owner, kind=kind, method=method))
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_a_panic_in_the_feeder_is_told_at_once(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_processes(tmp_path, "datago_gpu.feeder", "datago_gpu.feeder.fetch.Fetcher._read", monkeypatch)
    with Loader(file_config(root), device="cpu") as loader, pytest.raises(FeederError) as caught:
        list(loader)
    assert "Panic: boom" in str(caught.value)
    assert "restarted" not in str(caught.value)


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[DataroomServer]:
    with DataroomServer(root, payload_port=0) as server:
        yield server


@pytest.mark.parametrize(
    ("module", "place"),
    [
        ("datago_gpu.feeder.download", "datago_gpu.sources.http.hedge.HedgedClient.get"),
        ("datago_gpu.feeder.download", "datago_gpu.feeder.download.downloader.Downloader.take"),
        ("datago_gpu.feeder.download", "datago_gpu.feeder.download.downloader.Downloader._tell"),
        ("datago_gpu.feeder", "datago_gpu.feeder.download.pool._Member._take"),
        ("datago_gpu.feeder", "datago_gpu.feeder.download.pool.DownloadPool.get"),
    ],
)
def test_a_panic_around_the_processes_that_download_is_told(
    server: DataroomServer, tmp_path: Path, module: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_processes(tmp_path, module, place, monkeypatch)
    config = download_config(server.url, server.key, 1)
    with Loader(config, device="cpu") as loader, pytest.raises(FeederError, match=r"(?s)Panic: boom"):
        list(loader)
