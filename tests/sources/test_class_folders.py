"""Labels by folders: classes, labels and files are those of torchvision's ImageFolder on the same tree."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from datago_gpu.errors import ConfigError, SourceError
from datago_gpu.sources.listed_images import Images
from datago_gpu.sources.listers import open_lister
from datago_gpu.sources.reference import Position, SampleRef, utf8_text
from tests.support.images import file_config

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Those of torchvision."""
Labelled = list[tuple[str, int | None]]


def image_folder(root: Path) -> tuple[list[str], Labelled]:
    """States the rule of torchvision.datasets.ImageFolder (0.28, allow_empty): the classes, and path and label of each
    image."""
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    samples: Labelled = []
    for label, name in enumerate(classes):
        for folder, _, files in sorted(os.walk(root / name, followlinks=True)):
            samples += [
                (os.path.join(folder, file), label) for file in sorted(files) if file.lower().endswith(EXTENSIONS)
            ]
    return classes, samples


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def listed(root: Path, start: Position | None = None, **more: Any) -> tuple[list[str] | None, list[SampleRef]]:
    """The classes and the samples of one rank."""
    top = {name: more.pop(name) for name in ("seed",) if name in more}
    config = file_config(root, source={"labels": "folder", **more}, **top)
    lister = open_lister(config)

    async def read() -> tuple[list[str] | None, list[SampleRef]]:
        refs = [ref async for ref in Images(config, lister).refs(start or Position())]
        return await lister.classes(), [ref for ref in refs if isinstance(ref, SampleRef)]

    return asyncio.run(read())


def labelled(samples: list[SampleRef]) -> Labelled:
    return [(ref.path, ref.info.label) for ref in samples]


def test_classes_are_the_sorted_folders_and_images_outside_of_them_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "b/1.jpg", "a b, c/x/y/2.JPG", "Z/3.png", "root.jpg", "b/notes.txt")
    with caplog.at_level(logging.WARNING):
        classes, samples = listed(tmp_path)
    assert classes == ["Z", "a b, c", "b"] == image_folder(tmp_path)[0]
    assert [(ref.id, ref.info.label) for ref in samples] == [("Z/3.png", 0), ("a b, c/x/y/2.JPG", 1), ("b/1.jpg", 2)]
    assert "1 images outside of class folders, such as 'root.jpg' (source_config.labels is 'folder')" in caplog.text


def test_a_class_without_images_keeps_its_label_and_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a/1.jpg", "c/2.jpg", "b/notes.txt")
    with caplog.at_level(logging.WARNING):
        classes, samples = listed(tmp_path)
    assert (classes, [ref.info.label for ref in samples]) == (["a", "b", "c"], [0, 2])
    assert f"classes without images below {tmp_path} (1 of 3): 'b'" in caplog.text


def test_a_class_without_a_folder_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "cat/1.jpg", "dog/2.jpg")
    with caplog.at_level(logging.WARNING):
        classes, _ = listed(tmp_path, classes=["cat", "dogg"])
    assert classes == ["cat", "dogg"]
    assert f"no folder has the name of these classes below {tmp_path} (1 of 2): 'dogg'" in caplog.text
    assert "without images" not in caplog.text


def test_hidden_folders_are_no_classes_unless_they_are_wanted(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", ".ipynb_checkpoints/2.jpg", "@eaDir/3.jpg")
    assert listed(tmp_path)[0] == ["a"]
    assert listed(tmp_path, hidden=True)[0] == [".ipynb_checkpoints", "@eaDir", "a"]


def test_links_to_folders_are_classes_unless_links_are_not_followed(tmp_path: Path) -> None:
    touch(tmp_path / "data", "a/1.jpg")
    touch(tmp_path / "elsewhere", "2.jpg")
    (tmp_path / "data" / "b").symlink_to(tmp_path / "elsewhere")
    assert [(ref.id, ref.info.label) for ref in listed(tmp_path / "data")[1]] == [("a/1.jpg", 0), ("b/2.jpg", 1)]
    assert listed(tmp_path / "data", follow_links=False)[0] == ["a"]


def test_given_classes_choose_the_folders_and_their_order(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/2.jpg", "c, d/3.jpg")
    classes, samples = listed(tmp_path, classes=["c, d", "a", "none of this name"])
    assert classes == ["c, d", "a", "none of this name"]
    assert [(ref.id, ref.info.label) for ref in samples] == [("a/1.jpg", 1), ("c, d/3.jpg", 0)]


@pytest.mark.parametrize("more", [{}, {"random_sampling": True}], ids=["listed", "shuffled"])
def test_without_class_folders_the_message_says_what_they_are(tmp_path: Path, more: dict[str, Any]) -> None:
    touch(tmp_path, "1.jpg")
    with pytest.raises(SourceError, match=r"no class folders in .*: with labels 'folder', the folders in root_path"):
        listed(tmp_path, **more)
    touch(tmp_path, "a/1.jpg")
    with pytest.raises(SourceError, match="no class folders, such as 'b' in"):
        listed(tmp_path, classes="b", **more)
    shutil.rmtree(tmp_path)
    with pytest.raises(SourceError, match=r"cannot list .*: No such file or directory; check root_path"):
        listed(tmp_path, **more)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"labels": "folders"}, "labels must be '' or 'folder', got 'folders'"),
        ({"classes": "a\nb"}, "classes names folders, but labels is empty: set labels to 'folder'"),
        ({"labels": "folder", "classes": ["a", "b", "a"]}, "classes names 'a' twice"),
        ({"labels": "folder", "classes": ["a", "", "b"]}, "classes has an empty name"),
        ({"labels": "folder", "classes": ["a\nb"]}, "contains a line break, and line breaks separate names"),
        ({"captions": "text"}, "captions must be '', 'txt', 'json' or 'metadata', got 'text'"),
        ({"captions": "txt", "extensions": "jpg,txt"}, "extensions and captions both name 'txt'"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        file_config(tmp_path, source=given)
    assert message in str(error.value)


LETTERS = st.text(st.sampled_from("aB1 .-_é猫\udcff\n'\"#?%+,"), min_size=1, max_size=3).filter(
    lambda name: not name.startswith(".")
)
FILES = st.tuples(
    st.lists(LETTERS, max_size=3), LETTERS, st.sampled_from([*EXTENSIONS, ".JPG", ".pNg", ".txt", "", ".svg"])
)
TREES = st.lists(FILES.map(lambda file: (*file[0], file[1] + file[2])), min_size=1, max_size=12, unique=True)


@contextmanager
def tree(files: list[tuple[str, ...]]) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp())
    try:
        for parts in files:
            try:
                touch(folder, "/".join(parts))
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                continue  # a folder of that name is there
        yield folder
    finally:
        shutil.rmtree(folder)


@given(TREES, st.booleans(), st.integers(1, 3))
@settings(max_examples=60)
def test_any_tree_has_the_classes_labels_and_files_of_image_folder(
    files: list[tuple[str, ...]], shuffle: bool, world_size: int
) -> None:
    with tree(files) as root:
        classes, samples = image_folder(root)
        assume(samples)
        found: Labelled = []
        for rank in range(world_size):
            more = {"rank": rank, "world_size": world_size, "random_sampling": shuffle, "extensions": list(EXTENSIONS)}
            names, refs = listed(root, seed=3, **more)
            assert names == [utf8_text(name) for name in classes]
            found += labelled(refs)
        assert sorted(found) == sorted(samples)
        if world_size == 1 and not shuffle and all(len(parts) < 3 for parts in files):
            assert found == samples
