"""What `datago-gpu doctor` says of the cache's folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from datago_gpu.config import LoaderConfig
from datago_gpu.doctor import cache_place as module
from datago_gpu.doctor.cache_place import cache_check, kind_of_disk
from datago_gpu.doctor.check import Check
from datago_gpu.sources.cache.cache_folder import FORM_FOLDER
from datago_gpu.sources.cache.shared_room import SharedRoom

GIB = 2**30


def check(path: Path | str, size_gb: float = 1) -> Check:
    settings = {"path": str(path), "size_gb": size_gb}
    return cache_check(LoaderConfig.load_for_rows({"cache_config": settings}), 20)


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folders of the test are on a local disk with 10 GiB of room, wherever the tests run."""
    monkeypatch.setattr(module, "kind_of_disk", lambda _: "ext4")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10 * GIB))


def test_without_a_cache_there_is_nothing_to_check() -> None:
    assert cache_check(None, 1).state == cache_check(LoaderConfig.load_for_rows({}), 1).state == "none"


@pytest.mark.usefixtures("on_disk")
def test_a_folder_that_is_there_or_will_be_made(tmp_path: Path) -> None:
    found = check(tmp_path / "a" / "b")
    assert (found.state, found.found) == (
        "ok", f"{tmp_path}/a/b (ext4 file system) holds 0 MiB of 1.0 GiB; 10.0 GiB are free",
    )  # fmt: skip
    assert list(tmp_path.iterdir()) == []
    assert SharedRoom(str(tmp_path / FORM_FOLDER), GIB).take(3 * 2**20)
    assert "holds 3 MiB of 1.0 GiB" in check(tmp_path).found


@pytest.mark.usefixtures("on_disk")
def test_a_disk_with_less_room_than_the_cache_may_take(tmp_path: Path) -> None:
    found = check(tmp_path, 11)
    assert found.state == "warn"
    assert found.remedy == "lower cache_config.size_gb to 10, or provide space"


@pytest.mark.parametrize(
    ("kind", "words"), [("tmpfs", "this is no disk, but memory"), ("nfs4", "it is on another machine")]
)
@pytest.mark.usefixtures("on_disk")
def test_places_that_are_no_local_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, words: str) -> None:
    monkeypatch.setattr(module, "kind_of_disk", lambda _: kind)
    found = check(tmp_path)
    assert found.state == "warn"
    assert found.found.endswith(words)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", "/proc/sys/cache"):
        found = check(path)
        assert found.state == "warn"
        assert "cannot be written" in found.found


def test_the_longest_mount_that_holds_a_path_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "20 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw",
        f"21 20 0:5 / {tmp_path} rw master:2 - tmpfs none rw",
        rf"22 20 0:6 / {tmp_path}/a\040b rw - nfs4 server:/x rw",
        f"23 20 0:7 / {tmp_path}/a rw - xfs /dev/b rw",
    ]
    mounts = tmp_path / "mounts"
    mounts.write_text("\n".join(lines))
    monkeypatch.setattr(module, "MOUNTS", mounts)
    found = [kind_of_disk(path) for path in (f"{tmp_path}/ab", f"{tmp_path}/a/c", f"{tmp_path}/a b/c", "/")]
    assert found == ["tmpfs", "xfs", "nfs4", "ext4"]
    monkeypatch.setattr(module, "MOUNTS", tmp_path / "none")
    assert kind_of_disk("/") == ""
