"""A folder as a source: which files, in which order, for which rank."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datago_gpu.errors import SourceError
from datago_gpu.sources import open_source
from datago_gpu.sources.reference import Position, SampleRef, Skipped
from datago_gpu.sources.sample_info import SampleInfo
from datago_gpu.sources.shuffle import permutation
from tests.support.images import file_config


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def listed(root: Path, start: Position | None = None, **more: Any) -> list[SampleRef | Skipped]:
    source = open_source(file_config(root, **more), None)

    async def read() -> list[SampleRef | Skipped]:
        return [ref async for ref in source.refs(start or Position())]

    return asyncio.run(read())


def ids(root: Path, start: Position | None = None, **more: Any) -> list[str]:
    return [ref.id for ref in listed(root, start, **more)]


def test_the_images_of_a_folder_come_by_name_and_then_its_subfolders_the_same_way(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.jpg", "b/10.jpg", "b/a/1.png", "z.jpg", "a.jpg", "B/1.jpg", "a/x/1.jpg", "a/1.jpg", "a0.jpg")
    assert ids(tmp_path) == [
        "a.jpg",
        "a0.jpg",
        "z.jpg",
        "B/1.jpg",
        "a/1.jpg",
        "a/x/1.jpg",
        "b/10.jpg",
        "b/2.jpg",
        "b/a/1.png",
    ]


def test_references_are_numbered_and_hold_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "images", "a.jpg", "b/c.jpg")
    monkeypatch.chdir(tmp_path)
    first, second = listed(Path("images"))
    assert first == SampleRef(0, SampleInfo("a.jpg", source="filesystem"), path=str(tmp_path / "images/a.jpg"))
    assert second == SampleRef(1, SampleInfo("b/c.jpg", source="filesystem"), path=str(tmp_path / "images/b/c.jpg"))


def test_images_are_known_by_their_extension_in_any_case(tmp_path: Path) -> None:
    known = ["a.jpg", "b.JPEG", "c.Png", "d.bmp", "e.gif", "f.webp", "g.tif", "h.tiff", "i.jp2", "j.avif"]
    touch(tmp_path, *known, "k.txt", "l", "m.jpg.part", "n.json", "jpg")
    assert ids(tmp_path) == known


def test_what_is_named_like_an_image_and_is_none_is_no_sample(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "folder.jpg/b.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert ids(tmp_path) == ["a.jpg", "folder.jpg/b.jpg"]


def test_a_name_that_is_not_utf_8_is_loaded_and_shown_escaped(tmp_path: Path) -> None:
    for name in (b"caf\xe9.jpg", "caf\N{LATIN SMALL LETTER E WITH ACUTE}.jpg".encode(), b"\xff/1.jpg"):
        path = os.fsencode(tmp_path) + b"/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "wb").close()
    for shuffled in (False, True):
        refs = listed(tmp_path, source={"random_sampling": shuffled})
        assert {ref.id for ref in refs} == {r"caf\xe9.jpg", "caf\xe9.jpg", r"\xff/1.jpg"}
        for ref in refs:
            assert isinstance(ref, SampleRef)
            assert Path(ref.path).exists()
            assert ref.where.encode() == os.fsencode(tmp_path) + b"/" + ref.id.encode()


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_missing_root_a_file_and_a_folder_without_images_are_source_errors(tmp_path: Path, shuffled: bool) -> None:
    touch(tmp_path, "empty/notes.txt", "empty/sub/more.txt", "file")
    for root, words in [
        ("nowhere", f"cannot list {tmp_path}/nowhere: No such file or directory; check root_path"),
        ("file", f"cannot list {tmp_path}/file: Not a directory; check root_path"),
        ("empty", f"no images under {tmp_path}/empty: looked for jpg, jpeg, png, "),
    ]:
        with pytest.raises(SourceError) as caught:
            listed(tmp_path / root, source={"random_sampling": shuffled})
        assert str(caught.value).startswith(words)


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_subfolder_that_cannot_be_read_costs_itself(tmp_path: Path, shuffled: bool) -> None:
    """Here one whose path is too long to be opened: permissions do not stop root."""
    touch(tmp_path, "a.jpg", "z/1.jpg")
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(40):
        os.mkdir("d" * 120, dir_fd=folder)
        deeper = os.open("d" * 120, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = deeper
    os.close(folder)
    outcomes = listed(tmp_path, source={"random_sampling": shuffled})
    refs = [ref for ref in outcomes if isinstance(ref, SampleRef)]
    assert sorted(ref.id for ref in refs) == ["a.jpg", "z/1.jpg"]
    assert [ref.index for ref in refs] == [0, 1]
    (skipped,) = (each for each in outcomes if isinstance(each, Skipped))
    assert (skipped.index, skipped.reason, skipped.detail) == (-1, "unreadable-folder", "File name too long")
    assert skipped.where.startswith(f"{tmp_path}/{'d' * 120}/")


def test_a_subfolder_that_is_gone_when_it_is_its_turn_costs_itself(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b/1.jpg", "c/1.jpg")

    async def read() -> list[SampleRef | Skipped]:
        seen: list[SampleRef | Skipped] = []
        async for ref in open_source(file_config(tmp_path), None).refs(Position()):
            if not seen:
                shutil.rmtree(tmp_path / "b")
            seen.append(ref)
        return seen

    first, gone, last = asyncio.run(read())
    assert gone == Skipped(-1, "", f"{tmp_path}/b", "unreadable-folder", "No such file or directory")
    assert (first.id, last.id, last.index) == ("a.jpg", "c/1.jpg", 1)


def test_a_folder_is_read_when_it_is_its_turn_and_not_before(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/1.jpg")

    async def read() -> list[str]:
        seen = []
        async for ref in open_source(file_config(tmp_path), None).refs(Position()):
            if not seen:
                touch(tmp_path, "b/0.jpg")
            seen.append(ref.id)
        return seen

    assert asyncio.run(read()) == ["a/1.jpg", "b/0.jpg", "b/1.jpg"]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("many")
    touch(root, *(f"{number % 5}/{number:03}.jpg" for number in range(60)), *(f"{number}.png" for number in range(7)))
    return root


@settings(max_examples=30)
@given(world_size=st.integers(1, 80), shuffled=st.booleans(), seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 9))
def test_ranks_are_disjoint_and_cover_everything(
    many: Path, world_size: int, shuffled: bool, seed: int, epoch: int
) -> None:
    shares = []
    for rank in range(world_size):
        source = {"rank": rank, "world_size": world_size, "random_sampling": shuffled}
        refs = listed(many, Position(epoch), source=source, seed=seed)
        assert [ref.index for ref in refs] == list(range(len(refs)))
        shares.append([ref.id for ref in refs])
    whole = ids(many, Position(epoch), source={"random_sampling": shuffled}, seed=seed)
    assert len(whole) == len(set(whole)) == 67
    assert shares == [whole[rank::world_size] for rank in range(world_size)]


@given(start=st.integers(0, 70), rank=st.integers(0, 2), shuffled=st.booleans(), epoch=st.integers(0, 3))
def test_a_start_in_the_middle_gives_exactly_the_rest(
    many: Path, start: int, rank: int, shuffled: bool, epoch: int
) -> None:
    source = {"rank": rank, "world_size": 3, "random_sampling": shuffled}
    assert listed(many, Position(epoch, start), source=source) == listed(many, Position(epoch), source=source)[start:]


def test_epochs_and_seeds_differ_and_repeat(many: Path) -> None:
    orders = {
        (seed, epoch): tuple(ids(many, Position(epoch), seed=seed, source={"random_sampling": True}))
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(set(orders.values())) == 16
    assert ids(many, Position(2), seed=3, source={"random_sampling": True}) == list(orders[3, 2])
    assert ids(many, Position(0), seed=1) == ids(many, Position(5), seed=9)  # without a shuffle the order is the walk's


@given(st.integers(0, 5000), st.integers(0, 2**63 - 1), st.integers(0, 2**40))
def test_a_permutation_holds_every_number_once(count: int, seed: int, epoch: int) -> None:
    assert np.array_equal(np.sort(permutation(count, seed, epoch)), np.arange(count))


def test_permutations_never_change() -> None:
    """A checkpoint of an older version must find the order that it was made with."""
    assert {key: permutation(10, *key).tolist() for key in GOLDEN} == GOLDEN


def test_a_shuffle_has_no_pattern_that_is_easily_seen() -> None:
    order = permutation(100_000, 5, 0)
    steps = np.diff(order)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.02
    assert (np.abs(steps) == 1).sum() < 20
    assert abs(np.corrcoef(order, permutation(100_000, 5, 1))[0, 1]) < 0.02
    assert abs(np.corrcoef(order, permutation(100_000, 6, 0))[0, 1]) < 0.02


GOLDEN = {
    (0, 0): [2, 4, 6, 8, 5, 1, 7, 0, 9, 3],
    (0, 1): [7, 4, 8, 1, 2, 6, 5, 0, 9, 3],
    (1, 0): [6, 7, 1, 2, 9, 0, 5, 8, 3, 4],
    (2**63 - 1, 10**6): [9, 8, 1, 2, 0, 4, 6, 7, 3, 5],
}
