"""Local files on file systems that fail for a moment, and in a process that has no descriptors left."""

from __future__ import annotations

import builtins
import errno
import io
import os
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datago_gpu import DatagoError, Loader
from datago_gpu.config import HttpConfig
from datago_gpu.sources import local
from datago_gpu.sources.local import Patience, PatientFile
from tests.support.images import add_picture, add_pictures, file_config
from tests.support.servers import Answer, MisbehavingServer, json_answer
from tests.support.shards import keys, tar_bytes

TRANSIENT = [errno.EIO, errno.ESTALE, errno.EAGAIN, errno.ETIMEDOUT, errno.ENOTCONN]
HASTY = HttpConfig(max_tries=4, max_backoff_s=0.001)

FLAKY = """
import builtins, errno, os
def flaky(work):
    given = [0]
    def flaking(path, *arguments, **more):
        if isinstance(path, str) and "/flaky" in path:
            given[0] += 1
            if given[0] % 5 == 1:
                raise OSError(errno.{error}, "a made-up fault", path)
        return work(path, *arguments, **more)
    return flaking
builtins.open, os.scandir, os.listdir = flaky(builtins.open), flaky(os.scandir), flaky(os.listdir)
"""
"""What the feeder's interpreter does first: every fifth file and folder fails once, as on NFS or FUSE."""


def failing(times: int, number: int) -> Any:
    left = [times]

    def work() -> str:
        if left[0]:
            left[0] -= 1
            raise OSError(number, os.strerror(number))
        return "done"

    return work


@pytest.mark.parametrize("number", TRANSIENT)
def test_what_fails_for_a_moment_is_tried_again(number: int) -> None:
    assert Patience(HASTY)(failing(3, number)) == "done"
    with pytest.raises(OSError, match=re.escape(os.strerror(number))):
        Patience(HASTY)(failing(4, number))


def test_what_is_not_there_is_asked_for_once() -> None:
    work = failing(1, errno.ENOENT)
    with pytest.raises(FileNotFoundError):
        Patience(HASTY)(work)
    assert work() == "done"


def test_a_process_without_descriptors_or_memory_is_no_fault_of_a_file() -> None:
    for number in (errno.EMFILE, errno.ENFILE):
        with pytest.raises(DatagoError, match=r"too many open files.*ulimit -n"):
            Patience(HASTY)(failing(1, number))
    with pytest.raises(MemoryError):
        Patience(HASTY)(failing(1, errno.ENOMEM))


@given(st.data())
def test_a_file_that_fails_in_the_middle_is_read_on_where_it_was_left(data: st.DataObject) -> None:
    content = bytes(range(256)) * 40
    fails = data.draw(st.sets(st.integers(0, 30)), label="reads that fail")
    reads = [0]

    class Flaky(io.FileIO):
        def readinto(self, buffer: Any) -> int | None:
            reads[0] += 1
            if reads[0] in fails and reads[0] - 1 not in fails:
                raise OSError(errno.ESTALE, "stale")
            return super().readinto(buffer)

    with pytest.MonkeyPatch.context() as patch:
        path = Path(os.environ.get("TMPDIR", "/tmp")) / f"datago-local-{os.getpid()}"
        path.write_bytes(content)
        patch.setattr(local.io, "FileIO", Flaky)
        try:
            with io.BufferedReader(PatientFile(str(path), Patience(HASTY)), 1000) as file:
                assert file.read() == content
        finally:
            path.unlink()


def test_a_file_that_is_another_one_after_a_fault_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100)

    class Flaky(io.FileIO):
        def readinto(self, buffer: Any) -> int | None:
            (tmp_path / "b").write_bytes(b"another")
            (tmp_path / "b").replace(tmp_path / "a")
            raise OSError(errno.EIO, "a made-up fault")

    monkeypatch.setattr(local.io, "FileIO", Flaky)
    with PatientFile(str(tmp_path / "a"), Patience(HASTY)) as file, pytest.raises(OSError, match="changed"):
        file.read(10)


@pytest.mark.parametrize("error", ["ESTALE", "EIO"])
def test_no_good_file_is_lost_to_a_fault_of_a_moment(
    error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "flaky"
    names = add_pictures(root, [(40, 40)] * 30)
    (tmp_path / "start").mkdir()
    (tmp_path / "start/sitecustomize.py").write_text(FLAKY.format(error=error))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "start"), *sys.path]))
    with Loader(file_config(root, http={"max_backoff_s": 0.01}), device="cpu", backend="pillow") as loader:
        assert sorted(name for batch in loader for name in batch.ids) == names
        assert not loader.stats().skipped


@pytest.mark.parametrize("url", ["{root}", "@{root}/list.txt", "{root}/[ab].tar::{root}"])
def test_no_shard_is_lost_to_a_fault_of_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    root = tmp_path / "flaky"
    root.mkdir()
    (root / "a.tar").write_bytes(tar_bytes([("1.jpg", b"x"), ("2.jpg", b"x")]))
    (root / "list.txt").write_text(f"{root}/a.tar\n")
    for name in ("open", "listdir"):
        place = builtins if name == "open" else os
        monkeypatch.setattr(place, name, once_failing(getattr(place, name)))
    assert keys(url.format(root=root), http={"max_backoff_s": 0.01})[-2:] == ["1", "2"]


def once_failing(work: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which raises EIO for the first path of a folder "flaky"."""
    left = [OSError(errno.EIO, "a made-up fault")]

    def flaky(path: Any, *arguments: Any, **more: Any) -> Any:
        if "/flaky" in str(path) and left:
            raise left.pop()
        return work(path, *arguments, **more)

    return flaky


def few_files(loader: Loader, most: int) -> None:
    resource.prlimit(loader.feeder_pid, resource.RLIMIT_NOFILE, (most, most))


def test_a_feeder_without_descriptors_says_so_and_blames_no_sample(tmp_path: Path) -> None:
    """Of files, over HTTP and in shards."""
    picture = add_picture(tmp_path / "photos/a.jpg").read_bytes()
    (tmp_path / "a.tar").write_bytes(tar_bytes([("a.jpg", picture)]))
    with MisbehavingServer() as server:
        url = server.script("/a.jpg", Answer(200, picture, close=True))  # each takes a connection
        results = [{"id": f"{number}", "source": "s", "image_direct_url": url} for number in range(9)]
        server.route("/api/images/", lambda _request: json_answer({"next": None, "results": results}))
        for config in (
            file_config(tmp_path / "photos", epochs=None),
            {"source_config": {"api_url": f"{server.url}/api/", "check_count": False}, "epochs": None},
            {"epochs": None, "source_type": "webdataset", "source_config": {"url": str(tmp_path / "a.tar")}},
        ):
            with Loader(config, device="cpu", backend="pillow") as loader:
                next(loader)  # by then it has started
                few_files(loader, 3)
                with pytest.raises(DatagoError, match=r"(?i)too many open files"):
                    list(loader)
                assert not loader.stats().skipped


def test_the_feeder_may_open_as_many_files_as_the_system_allows(tmp_path: Path) -> None:
    add_picture(tmp_path / "a.jpg")
    with Loader(file_config(tmp_path, epochs=None), device="cpu", backend="pillow") as loader:
        next(loader)
        soft, hard = resource.prlimit(loader.feeder_pid, resource.RLIMIT_NOFILE)
        assert soft == hard
