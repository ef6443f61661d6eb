"""Which files of a folder are taken by their names: endings, hidden files, and what is told of all others."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from datago_gpu import ConfigError, FileSource, Loader
from datago_gpu.config.file_names import EXTENSIONS, is_hidden
from datago_gpu.doctor.source_trial import checks
from datago_gpu.imaging import formats
from datago_gpu.sources import open_source
from datago_gpu.sources.passed_over import PassedOver
from datago_gpu.sources.reference import Position
from tests.support.images import add_picture, file_config

HIDDEN = (".ipynb_checkpoints/1-checkpoint.jpg", ".Trash-1000/files/old.jpg", "a/.thumbnails/1.png", "a/._1.jpg")
KEPT_BY_SYSTEMS = ("__MACOSX/1.jpg", "a/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "$RECYCLE.BIN/2.jpg", "#recycle/3.jpg")


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def ids(root: Path, **source: Any) -> list[str]:
    async def read() -> list[str]:
        async with aclosing(open_source(file_config(root, source=source), None).refs(Position())) as refs:
            return [ref.id async for ref in refs]

    return asyncio.run(read())


@pytest.mark.parametrize("shuffled", [False, True])
def test_hidden_files_and_folders_are_left_out_unless_they_are_asked_for(tmp_path: Path, shuffled: bool) -> None:
    touch(tmp_path, "1.jpg", "a/2.png", *HIDDEN, *KEPT_BY_SYSTEMS)
    assert sorted(ids(tmp_path, random_sampling=shuffled)) == ["1.jpg", "a/2.png"]
    every = ids(tmp_path, random_sampling=shuffled, hidden=True)
    assert sorted(every) == sorted(["1.jpg", "a/2.png", *HIDDEN, *KEPT_BY_SYSTEMS])


def test_a_root_may_be_hidden_and_so_may_what_a_link_leads_to(tmp_path: Path) -> None:
    touch(tmp_path, ".cache/blobs/1.jpg", ".cache/blobs/deep/2.jpg", "view/x")
    (tmp_path / "view/images").symlink_to(tmp_path / ".cache/blobs")
    (tmp_path / "view/3.jpg").symlink_to(tmp_path / ".cache/blobs/1.jpg")
    assert ids(tmp_path / ".cache") == ["blobs/1.jpg", "blobs/deep/2.jpg"]
    assert ids(tmp_path / "view") == ["3.jpg", "images/1.jpg", "images/deep/2.jpg"]


def test_by_default_the_endings_of_all_decoded_formats_are_taken() -> None:
    """MPO is a JPEG with more pictures behind the first."""
    Image.init()
    decoded = {*formats._COMMON, *formats._RARE, "MPO"}
    assert set(EXTENSIONS) == {ending for ending, name in Image.registered_extensions().items() if name in decoded}


def test_a_file_of_a_rarer_ending_is_decoded(tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 40), (200, 30, 90))
    endings = (".jfif", ".jpe", ".j2k", ".ppm", ".tga", ".dds", ".qoi", ".pcx", ".ico", ".TIF", ".sgi")
    for ending in endings:
        picture.save(tmp_path / f"1{ending}")
    with Loader(file_config(tmp_path), device="cpu", backend="pillow") as loader:
        assert sorted(name for batch in loader for name in batch.ids) == sorted(f"1{ending}" for ending in endings)
        assert loader.stats().passed_over == {}


@pytest.mark.parametrize("given", ["jpg, .PNG,mask.tif", ["jpg", "png", ".mask.tif"]])
def test_extensions_say_which_files_are_taken(tmp_path: Path, given: object) -> None:
    touch(tmp_path, "1.jpg", "2.JPG", "3.png", "4.jpeg", "5.tif", "6.mask.tif", "jpg", "7.xjpg")
    assert ids(tmp_path, extensions=given) == ["1.jpg", "2.JPG", "3.png", "6.mask.tif"]


@pytest.mark.parametrize("given", ["jpg,*", "a/b", ".", "..jpg", "j pg"])
def test_what_is_no_ending_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match=r"source_config\.extensions: .* is not a file name extension"):
        FileSource(root_path="x", extensions=given)


@pytest.mark.parametrize("shuffled", [False, True])
def test_what_was_passed_over_is_counted_and_told_once(
    tmp_path: Path, shuffled: bool, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        add_picture(tmp_path / f"{number}.jpg")
    touch(tmp_path, "b.heic", "c/no_ending", "c/3.txt", *HIDDEN)
    config = file_config(tmp_path, source={"random_sampling": shuffled}, epochs=2)
    with Loader(config, device="cpu", backend="pillow") as loader:
        assert sum(map(len, loader)) == 6
        stats = loader.stats()
    assert (stats.passed_over, stats.skipped) == ({"hidden": 4, "extension": 3}, {})
    assert "; passed over: 3 extension, 4 hidden" in str(stats)
    (message,) = caplog.messages
    assert message == (
        f"passed over below {tmp_path}: 4 hidden, such as '.Trash-1000' (source_config.hidden includes them); "
        "3 with other extensions, such as 'b.heic' (source_config.extensions sets which are loaded)"
    )


def test_files_that_are_beside_images_on_purpose_are_worth_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "1.jpg", "1.txt", "1.json", "notes/list.csv", ".DS_Store", ".gitignore")
    assert ids(tmp_path) == ["1.jpg"]
    assert caplog.messages == []
    with caplog.at_level(logging.INFO, "datago_gpu"):
        assert ids(tmp_path) == ["1.jpg"]
    (message,) = caplog.messages
    assert message.startswith(f"passed over below {tmp_path}: 3 with other extensions, such as '1.json' (")


def test_one_rank_tells_it_for_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "1.jpg", "2.jpg", "no_ending")
    assert ids(tmp_path, rank=1, world_size=2) == ["2.jpg"]
    assert caplog.messages == []
    assert ids(tmp_path, rank=0, world_size=2) == ["1.jpg"]
    assert len(caplog.messages) == 1


def test_doctor_tells_it_too(tmp_path: Path) -> None:
    touch(tmp_path, "b.heic", ".hidden/1.jpg")
    (check, *_) = checks(file_config(tmp_path), "cpu", "pillow", 10)
    assert (check.state, check.found.count("1 hidden, such as '.hidden' (")) == ("fail", 1)
    add_picture(tmp_path / "a.jpg")
    (check, *_) = checks(file_config(tmp_path), "cpu", "pillow", 10)
    assert check.found.startswith(f"1 images in 1 folder below {tmp_path}; passed over: 1 hidden, such as '.hidden' (")
    assert "; 1 with other extensions, such as 'b.heic' (" in check.found


def test_names_of_hidden_things() -> None:
    assert all(map(is_hidden, (".x", "._x.jpg", "...", "__MACOSX", "@eaDir", "#Recycle", "$Recycle.Bin")))
    assert not any(map(is_hidden, ("x", ".", "..", "_x", "__x", "MACOSX", "x.", "eaDir", "#x", "$x")))


KINDS = st.sampled_from(["hidden", "extension", "link"])


@given(st.lists(st.lists(st.tuples(KINDS, st.text("ab/.\x1b", min_size=1, max_size=4)))))
def test_counts_do_not_depend_on_how_they_are_put_together(folders: list[list[tuple[Any, str]]]) -> None:
    joined, single = PassedOver(), PassedOver()
    for folder in folders:
        part = PassedOver()
        for kind, name in folder:
            part.add(kind, f"/r/{name}")
            single.add(kind, f"/r/{name}")
        joined.join(part)
    assert (joined.counts, joined.surprising, joined.description("/r")) == (
        single.counts,
        single.surprising,
        single.description("/r"),
    )
    assert joined.description("/r").isprintable()
