"""An index of a folder: the same samples and sizes as a Loader has, whatever interrupts it."""

from __future__ import annotations

import json
import os
import resource
import shutil
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datago_gpu.errors import ConfigError, SourceError
from datago_gpu.index import build, keeping
from datago_gpu.index.build import part_of
from datago_gpu.index.journal import Journal
from datago_gpu.sources.index_form import index_schema
from tests.support.indexes import delivered, make, read_rows, reasons, usable
from tests.support.made.kinds import KINDS
from tests.support.pictures import encode, oriented_jpeg, picture


def folder_config(root: Path, **more: Any) -> dict[str, Any]:
    return {"source_type": "file", "source_config": {"root_path": str(root)}, **more}


def write_pictures(root: Path, count: int, begin: int = 0) -> None:
    """Small pictures of different sizes, ten in each subfolder."""
    for number in range(begin, begin + count):
        path = root / f"{number // 10:03}" / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture(16 + number % 7, 20 + number % 5), "JPEG"))


def test_a_read_that_returns_less_than_asked_for_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some network file systems. The pixels of a TGA decide, so that the whole file is read."""
    root, whole = tmp_path / "photos", os.pread
    root.mkdir()
    (root / "a.jpg").write_bytes(encode(picture(90, 120), "JPEG"))
    (root / "b.tga").write_bytes(encode(picture(30, 40), "TGA"))
    monkeypatch.setattr(os, "pread", lambda file, size, at: whole(file, min(size, 1000), at))
    make(folder_config(root), tmp_path / "x.arrow")
    assert usable(tmp_path / "x.arrow") == {"a.jpg": (90, 120), "b.tga": (30, 40)}


def test_an_index_has_the_samples_and_the_sizes_of_a_loader(tmp_path: Path) -> None:
    root, out = tmp_path / "photos", tmp_path / "photos.arrow"
    root.mkdir()
    for number, kind in enumerate(sorted(KINDS)[::9]):
        (root / f"{number:02}-kind.png").write_bytes(KINDS[kind].payload)
    (root / "turned.jpg").write_bytes(oriented_jpeg(picture(20, 30), 6))
    (root / "empty.jpg").write_bytes(b"")
    whole = encode(picture(90, 120), "JPEG")
    (root / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "text.png").write_text("no picture")
    (root / "notes.txt").write_text("not listed")
    (root / "gone.jpg").symlink_to(root / "nothing")
    (root / "sub").mkdir()
    (root / "sub" / "ä b.webp").write_bytes(encode(picture(25, 35), "WEBP"))
    (root / "sub" / "linked.jpg").symlink_to(root / "turned.jpg")
    config = folder_config(root)
    summary = make(config, out)
    assert usable(out) == delivered(config)
    assert usable(out)["turned.jpg"] == (20, 30)
    bad = {"empty.jpg": "empty", "cut.jpg": "undecodable", "text.png": "unknown-format", "gone.jpg": "missing"}
    assert reasons(out) == bad
    assert (summary.rows, summary.usable) == (len(usable(out)) + 4, len(usable(out)))
    assert summary.reasons == {"empty": 1, "undecodable": 1, "unknown-format": 1, "missing": 1}


def test_a_row_says_where_the_file_is_and_what_it_was(tmp_path: Path) -> None:
    root, out = tmp_path / "photos", tmp_path / "photos.arrow"
    write_pictures(root, 1)
    make(folder_config(root), out)
    (row,) = read_rows(out)
    path = root / row["path"]
    assert path == root / "000" / "00000.jpg"
    assert row["id"] == row["path"]
    assert (row["bytes"], row["format"], row["source"]) == (path.stat().st_size, "jpeg", "filesystem")
    assert row["digest"] == f"{path.stat().st_mtime_ns}-{path.stat().st_size}"
    assert all(row[name] is None for name in ("url", "offset", "length", "attributes", "reason", "detail"))
    assert (row["tags"], row["parts"]) == ([], [])
    with pa.OSFile(str(out), "rb") as file:
        metadata = pa.ipc.open_file(file).schema.metadata
    assert metadata[b"datago_gpu.index"] == b"1"
    assert metadata[b"root"] == str(root).encode()
    source = json.loads(metadata[b"source"])
    assert (source["source_type"], source["source_config"]["root_path"]) == ("file", str(root))


def test_processes_make_the_same_file_and_none_is_left(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    write_pictures(root, 30)
    make(folder_config(root), tmp_path / "one.arrow")
    build.build_index(build.LoaderConfig.load(folder_config(root)), tmp_path / "two.arrow", readers=2)
    assert (tmp_path / "one.arrow").read_bytes() == (tmp_path / "two.arrow").read_bytes()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_the_settings_of_a_rank_and_a_shuffle_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "photos"
    write_pictures(root, 7)
    make(folder_config(root), tmp_path / "one.arrow")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    config = folder_config(root, limit=2, seed=5)
    config["source_config"]["random_sampling"] = True
    make(config, tmp_path / "two.arrow")
    assert (tmp_path / "one.arrow").read_bytes() == (tmp_path / "two.arrow").read_bytes()


def test_an_update_looks_only_at_what_has_changed(tmp_path: Path) -> None:
    root, out = tmp_path / "photos", tmp_path / "photos.arrow"
    write_pictures(root, 40)
    (root / "000" / "00003.jpg").write_bytes(b"")
    make(folder_config(root), out)
    with pytest.raises(ConfigError, match="--update"):
        make(folder_config(root), out)
    write_pictures(root, 5, begin=100)
    (root / "000" / "00000.jpg").unlink()
    shutil.rmtree(root / "002")
    (root / "001" / "00011.jpg").write_bytes(encode(picture(99, 55), "JPEG"))
    (root / "000" / "00003.jpg").write_bytes(encode(picture(44, 33), "JPEG"))
    summary = make(folder_config(root), out, update=True)
    make(folder_config(root), tmp_path / "fresh.arrow")
    assert out.read_bytes() == (tmp_path / "fresh.arrow").read_bytes()
    assert (summary.rows, summary.known) == (34, 27)
    assert usable(out)["001/00011.jpg"] == (99, 55)


def journal_of(config: dict[str, Any], folder: Path) -> bytes:
    """What an index leaves that is killed just before its end."""

    def fail(*_: Any) -> None:
        raise ConfigError("stopped here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "write_index", fail)
        with pytest.raises(ConfigError, match="stopped here"):
            make(config, folder / "x.arrow")
    return part_of(folder / "x.arrow").read_bytes()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, bytes]:
    """A folder, its index, and the journal of it, with a few rows in each batch."""
    folder = tmp_path_factory.mktemp("small")
    root = folder / "photos"
    write_pictures(root, 60)
    (root / "001" / "00015.jpg").write_bytes(b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeping, "_ROWS_A_WRITE", 7)
        journal = journal_of(folder_config(root), folder)
    make(folder_config(root), folder / "whole.arrow")
    return root, (folder / "whole.arrow").read_bytes(), journal


@settings(max_examples=20)
@given(share=st.floats(0, 1), torn=st.binary(max_size=20))
def test_wherever_it_was_killed_the_same_file_comes_out(
    small: tuple[Path, bytes, bytes], share: float, torn: bytes
) -> None:
    root, whole, journal = small
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "x.arrow"
        end = int(share * len(journal))
        part_of(out).write_bytes(journal[:end] + (torn if end > 2000 else b""))
        make(folder_config(root), out)
        assert out.read_bytes() == whole
        assert os.listdir(folder) == ["x.arrow"]


@settings(max_examples=8)
@given(share=st.floats(0.3, 1), gone=st.integers(0, 59), new=st.integers(0, 9), again=st.floats(0.3, 1))
def test_files_may_come_and_go_between_two_interruptions(
    small: tuple[Path, bytes, bytes], share: float, gone: int, new: int, again: float
) -> None:
    original, _, journal = small
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder) / "photos", Path(folder) / "x.arrow"
        shutil.copytree(original, root)
        config = folder_config(root)
        part_of(out).write_bytes(journal_of(config, Path(folder))[: int(share * len(journal))])
        (root / f"{gone // 10:03}" / f"{gone:05}.jpg").unlink()
        (root / f"{new:03}").mkdir(exist_ok=True)
        (root / f"{new:03}" / "new.jpg").write_bytes(encode(picture(50, 60), "JPEG"))
        second = journal_of(config, Path(folder))
        part_of(out).write_bytes(second[: int(again * len(second))])
        make(config, out)
        make(config, Path(folder) / "fresh.arrow")
        assert out.read_bytes() == (Path(folder) / "fresh.arrow").read_bytes()
        assert sorted(os.listdir(folder)) == ["fresh.arrow", "photos", "x.arrow"]


def test_a_full_disk_keeps_the_rows_so_far(small: tuple[Path, bytes, bytes], tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """The limit of a file's size stands in for the end of a disk: a write is cut short, and the next one fails."""
    root, whole, journal = small
    out = tmp_path / "x.arrow"
    monkeypatch.setattr(keeping, "_ROWS_A_WRITE", 7)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(journal) // 2, limits[1]))
    try:
        with pytest.raises(ConfigError, match=r"File too large; it keeps \d\d rows, and the same command goes on"):
            make(folder_config(root), out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not out.exists()
    summary = make(folder_config(root), out)
    assert summary.known > 20
    assert out.read_bytes() == whole


def test_files_that_are_no_index_of_this_source_are_left_alone(tmp_path: Path) -> None:
    root, other, out = tmp_path / "photos", tmp_path / "others", tmp_path / "x.arrow"
    write_pictures(root, 3)
    write_pictures(other, 3)
    make(folder_config(root), out)
    before = out.read_bytes()
    with pytest.raises(ConfigError, match="another source"):
        make(folder_config(other), out, update=True)
    captioned = folder_config(root)
    captioned["source_config"]["captions"] = "txt"
    with pytest.raises(ConfigError, match=r"of the source \(captions was '', is 'txt'\): remove"):
        make(captioned, out, update=True)
    assert out.read_bytes() == before
    out.write_bytes(b"something else")
    with pytest.raises(ConfigError, match="is no index"):
        make(folder_config(root), out, update=True)
    for foreign in (b"something else", b"something else" * 1000):
        part_of(out).write_bytes(foreign)
        with pytest.raises(ConfigError, match="no part of an index"):
            make(folder_config(root), out, update=True)
        assert part_of(out).read_bytes() == foreign
    assert out.read_bytes() == b"something else"


def test_only_one_process_at_a_time_makes_an_index(tmp_path: Path) -> None:
    root, out = tmp_path / "photos", tmp_path / "x.arrow"
    write_pictures(root, 3)
    with closing(Journal(part_of(out), index_schema({}))), pytest.raises(ConfigError, match="another process"):
        make(folder_config(root), out)
    assert make(folder_config(root), out).rows == 3


def test_a_source_at_fault_ends_the_run(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    with pytest.raises(SourceError, match="no images under"):
        make(folder_config(root), tmp_path / "x.arrow")
    for number in range(30):
        (root / f"{number}.jpg").symlink_to("/no/such/mount")
    with pytest.raises(SourceError, match=r"30 missing.*The same command goes on"):
        make(folder_config(root, max_refused_in_a_row=30), tmp_path / "x.arrow")
    assert os.listdir(tmp_path) == ["photos"]
