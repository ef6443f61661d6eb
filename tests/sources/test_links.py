"""Symbolic links in a folder: followed, each real folder once, or passed over and told of."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections import deque
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datago_gpu import Loader, SourceError
from datago_gpu.doctor.source_trial import checks
from datago_gpu.sources import open_source
from datago_gpu.sources.reference import Position, SampleRef
from tests.support.images import add_picture, file_config


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def link(path: Path, target: Path | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def refs(root: Path, **source: Any) -> list[SampleRef]:
    async def read() -> list[SampleRef]:
        async with aclosing(open_source(file_config(root, source=source), None).refs(Position())) as found:
            return [ref async for ref in found if isinstance(ref, SampleRef)]

    return asyncio.run(read())


def ids(root: Path, **source: Any) -> list[str]:
    return [ref.id for ref in refs(root, **source)]


def test_images_that_are_links_are_samples_under_their_own_names(tmp_path: Path) -> None:
    """The layout of the Hugging Face cache: names that lead to files without an extension."""
    touch(tmp_path, "blobs/1f3a", "blobs/2b77")
    link(tmp_path / "snapshot/cat.jpg", "../blobs/1f3a")
    link(tmp_path / "snapshot/more/dog.PNG", "../../blobs/2b77")
    link(tmp_path / "snapshot/again.jpg", "cat.jpg")
    link(tmp_path / "snapshot/notes.txt", "../blobs/1f3a")
    assert ids(tmp_path / "snapshot") == ["again.jpg", "cat.jpg", "more/dog.PNG"]


def test_folders_that_are_links_are_walked_in_their_turn(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/x.jpg", "elsewhere/deep/y.jpg", "root/a/1.jpg", "root/c/2.jpg", "root/z.jpg")
    link(tmp_path / "root/b", "../elsewhere")
    expected = ["z.jpg", "a/1.jpg", "b/x.jpg", "b/deep/y.jpg", "c/2.jpg"]
    assert ids(tmp_path / "root") == expected
    assert sorted(ids(tmp_path / "root", random_sampling=True)) == sorted(expected)
    link(tmp_path / "link", "root")
    assert ids(tmp_path / "link") == expected


def test_each_real_folder_is_listed_once(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/x.jpg", "elsewhere/deep/y.jpg", "root/sub/1.jpg")
    link(tmp_path / "root/a", "sub")  # which is listed anyway, under its own name
    link(tmp_path / "root/b", "../elsewhere/deep")
    link(tmp_path / "root/c", "../elsewhere")
    link(tmp_path / "root/d", tmp_path / "elsewhere")
    assert ids(tmp_path / "root") == ["b/y.jpg", "c/x.jpg", "sub/1.jpg"]


def test_circles_end(tmp_path: Path) -> None:
    touch(tmp_path, "other/o.jpg", "root/1.jpg", "root/sub/2.jpg")
    for name, target in {"self": ".", "sub/up": "..", "above": "..", "root": "../root", "loop": "loop"}.items():
        link(tmp_path / "root" / name, target)
    link(tmp_path / "other/back", "../root")
    found = refs(tmp_path / "root")
    ours = [ref.path for ref in found if os.path.realpath(ref.path).startswith(f"{tmp_path}/root")]
    assert sorted(map(os.path.realpath, ours)) == [f"{tmp_path}/root/1.jpg", f"{tmp_path}/root/sub/2.jpg"]
    assert len({os.path.realpath(ref.path) for ref in found}) == len(found)


def test_a_link_that_leads_nowhere_costs_itself(tmp_path: Path) -> None:
    add_picture(tmp_path / "a.jpg")
    link(tmp_path / "gone.jpg", "nowhere.jpg")
    link(tmp_path / "loop.jpg", "loop.jpg")
    link(tmp_path / "gone", "nowhere")
    link(tmp_path / "loop", "loop")
    with Loader(file_config(tmp_path), device="cpu") as loader:
        assert [batch.ids for batch in loader] == [["a.jpg"]]
        assert loader.stats().skipped == {"missing": 1, "unreadable": 1}


def test_links_to_what_is_no_file_are_no_samples(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "pipe")
    for name, target in (("pipe.jpg", "pipe"), ("null.jpg", "/dev/null")):
        link(tmp_path / name, target)
    assert ids(tmp_path) == ["a.jpg"]


def test_links_can_be_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "elsewhere/x.jpg", "root/1.jpg", "root/sub/2.jpg")
    link(tmp_path / "root/a", "../elsewhere")
    link(tmp_path / "root/b.jpg", "1.jpg")
    link(tmp_path / "link", "root")
    assert ids(tmp_path / "root", follow_links=False) == ids(tmp_path / "link", follow_links=False)
    caplog.clear()
    caplog.set_level(logging.INFO, "datago_gpu")
    assert ids(tmp_path / "link", follow_links=False) == ["1.jpg", "sub/2.jpg"]
    (message,) = caplog.messages
    assert message.startswith(f"passed over below {tmp_path}/link: 2 symbolic links, such as 'a' (")


@pytest.mark.parametrize("shuffled", [False, True])
def test_links_that_were_passed_over_are_told_of_where_nothing_is_left(tmp_path: Path, shuffled: bool) -> None:
    touch(tmp_path, "elsewhere/x.jpg", "root/sub/notes.txt")
    for name in ("root/a.jpg", "root/sub/b.png", "root/sub/notes", "root/gone.jpg"):
        link(tmp_path / name, tmp_path / "elsewhere" / ("gone" if "gone" in name else "x.jpg"))
    link(tmp_path / "root/more", tmp_path / "elsewhere")
    with pytest.raises(SourceError) as caught:
        ids(tmp_path / "root", follow_links=False, random_sampling=shuffled)
    assert str(caught.value).endswith("4 symbolic links, such as 'a.jpg' (source_config.follow_links is false)")


def test_doctor_counts_what_is_listed(tmp_path: Path) -> None:
    add_picture(tmp_path / "elsewhere/x.jpg")
    add_picture(tmp_path / "elsewhere/y.jpg")
    link(tmp_path / "root/a", tmp_path / "elsewhere")
    link(tmp_path / "root/b/c.jpg", tmp_path / "elsewhere/x.jpg")
    source = next(checks(file_config(tmp_path / "root"), "cpu", "pillow", 10))
    assert source.found == f"3 images in 2 folders below {tmp_path}/root"
    refused = next(checks(file_config(tmp_path / "root", source={"follow_links": False}), "cpu", "pillow", 10))
    assert (refused.state, "2 symbolic links" in refused.found) == ("fail", True)


FOLDERS = ["root", "root/a", "root/a/b", "root/c", "out", "out/d", "out/d/e", "far"]
ENDS = st.sampled_from([*FOLDERS, "root/a/1.jpg", "out/d/2.jpg", "far/3", "nowhere"])
LINKS = st.dictionaries(st.tuples(st.sampled_from(FOLDERS), st.sampled_from(["p", "q.jpg", "z.png"])), ENDS, max_size=7)


def reachable(root: str) -> set[str]:
    """Real folders that can be come to, by a simple search."""
    found, waiting = set[str](), deque([os.path.realpath(root)])
    while waiting:
        folder = waiting.popleft()
        if folder not in found:
            found.add(folder)
            waiting.extend(os.path.realpath(entry.path) for entry in os.scandir(folder) if entry.is_dir())
    return found


@settings(max_examples=60)
@given(LINKS)
def test_any_tree_of_links_gives_every_image_of_every_real_folder_once(links: dict[tuple[str, str], str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        base = Path(os.path.realpath(name))
        for folder in FOLDERS:
            touch(base, f"{folder}/1.jpg", f"{folder}/2.jpg", f"{folder}/3")
        for (folder, entry), end in links.items():
            link(base / folder / entry, base / end)
        expected = {
            (folder, entry.name)
            for folder in reachable(f"{base}/root")
            for entry in os.scandir(folder)
            if entry.name.endswith((".jpg", ".png")) and not entry.is_dir()
        }
        found = [
            (os.path.realpath(os.path.dirname(ref.path)), os.path.basename(ref.path)) for ref in refs(base / "root")
        ]
        assert len(found) == len(set(found))
        assert set(found) == expected
