"""metadata.jsonl and metadata.csv: rows and attributes are those of Hugging Face's ImageFolder."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datago_gpu.errors import SourceError
from datago_gpu.sources.around import Around
from datago_gpu.sources.described import Described
from datago_gpu.sources.listed_images import Beside, Images, Page
from datago_gpu.sources.listers import open_lister
from datago_gpu.sources.metadata_rows import parse_metadata
from datago_gpu.sources.passed_over import PassedOver
from datago_gpu.sources.reference import Position, SampleRef
from tests.support.images import add_picture, file_config
from tests.support.needs import needs


def described(root: Path, **more: Any) -> tuple[dict[str, dict[str, Any] | None], dict[str, int]]:
    """id -> attributes, None for an image counted as `no-caption`; and what is passed over."""
    config = file_config(root, source={"captions": "metadata", **more})
    source = Images(config, open_lister(config))

    async def read() -> dict[str, dict[str, Any] | None]:
        refs = [ref async for ref in source.refs(Position()) if isinstance(ref, SampleRef)]
        return {ref.id: None if "no-caption" in ref.flaws else json.loads(ref.info.attributes) for ref in refs}

    return asyncio.run(read()), source.passed_over


def write(root: Path, files: dict[str, str]) -> None:
    """Files with a text, and empty images."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, newline="")


@pytest.mark.parametrize("more", [{}, {"random_sampling": True}], ids=["listed", "shuffled"])
def test_the_nearest_metadata_file_that_has_a_row_for_an_image_counts(tmp_path: Path, more: dict[str, Any]) -> None:
    images = dict.fromkeys(["1.jpg", "train/2.jpg", "train/x/3.JPG", "train/x/4.png", "z/5.jpg", "z/6.jpg"], "")
    write(
        tmp_path,
        images
        | {
            "metadata.jsonl": '{"file_name": "1.jpg", "n": 1}\n{"file_name": "./train/2.jpg", "n": "above"}\n'
            '{"file_name": "train/x/4.png", "n": 4}\n\n{"file_name": "gone.jpg"}\n',
            "train/metadata.csv": "file_name,n,text\n2.jpg,2,two\nx/3.JPG,3,\n",
            "z/metadata.csv": 'text,file_name\n"a, ""b""\nc",5.jpg\n',
        },
    )
    found, passed = described(tmp_path, **more)
    assert found == {
        "1.jpg": {"n": 1},
        "train/2.jpg": {"n": 2, "text": "two"},
        "train/x/3.JPG": {"n": 3, "text": None},
        "train/x/4.png": {"n": 4},
        "z/5.jpg": {"text": 'a, "b"\nc'},
        "z/6.jpg": None,
    }
    assert passed == {"no-image": 2}  # gone.jpg, and the row of 2.jpg that a nearer file replaces


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # of datasets
@pytest.mark.parametrize(("kind", "nested"), [("jsonl", False), ("csv", False), ("jsonl", True)])
def test_rows_and_values_are_those_of_hugging_face(tmp_path: Path, kind: str, nested: bool) -> None:
    datasets = needs("datasets")
    names = ["a.jpg", "b é.png", "sub/c.JPG"]
    root = tmp_path / "data"
    for name in names:
        add_picture(root / "train" / name)
    rows = [
        {"file_name": "a.jpg", "text": "a dog, 'sitting'", "score": 0.5, "count": 3, "flag": True},
        {"file_name": "b é.png", "text": "二", "score": 2.0, "count": -1, "flag": False},
        {"file_name": "sub/c.JPG", "text": "c\nd", "score": -1e-3, "count": 7, "flag": True},
    ]
    if nested:
        rows = [row | {"box": {"x": [1, 2]}, "words": ["a"]} for row in rows]
    if kind == "csv":
        import csv

        with open(root / "train" / "metadata.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (root / "train" / "metadata.jsonl").write_text(lines, encoding="utf-8")
    theirs = datasets.load_dataset("imagefolder", data_dir=str(root), cache_dir=str(tmp_path / "cache"))["train"]
    theirs = theirs.cast_column("image", datasets.Image(decode=False))
    expected = {row["image"]["path"].removeprefix(f"{root}/"): row for row in map(dict, theirs)}
    del theirs
    gc.collect()  # datasets leaves a file open, which the test of another thing would be blamed for
    found, passed = described(root)
    assert found == {
        name: {key: value for key, value in row.items() if key != "image"} for name, row in expected.items()
    }
    assert len(found) == 3
    assert passed == {}


def test_columns_of_csv_are_numbers_or_truth_if_all_their_cells_are() -> None:
    text = (
        "\ufefffile_name,i,f,b,s,mixed,odd\r\na.jpg,007,1,TRUE,x,1,nan\r\nb.jpg,,2.5,false,,x,1\r\nc.jpg,+3,,,1,,\r\n"
    )
    rows = parse_metadata("metadata.csv", text.encode())
    assert [json.loads(rows[name]) for name in (b"a.jpg", b"b.jpg", b"c.jpg")] == [
        {"i": 7, "f": 1.0, "b": True, "s": "x", "mixed": "1", "odd": "nan"},
        {"i": None, "f": 2.5, "b": False, "s": None, "mixed": "x", "odd": "1"},
        {"i": 3, "f": None, "b": None, "s": "1", "mixed": None, "odd": None},
    ]


def test_rows_that_cannot_be_used_are_left_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    lines = [
        b'{"file_name": "a.jpg", "score": NaN}',
        b"",
        b"[1]",
        b'{"text": "x"}',
        b'{"file_name": 3}',
        b'{"file_name": "\xff.jpg"}',
        b'{"file_name": "b\\\\c.jpg", "text": "' + b"x" * 1_000_000 + b'"}',
    ]
    with caplog.at_level(logging.WARNING):
        rows = parse_metadata("/x/metadata.jsonl", b"\n".join(lines))
    assert sorted(rows) == [b"a.jpg", b"b/c.jpg"]
    assert json.loads(rows[b"a.jpg"]) == {"score": None}
    assert len(json.loads(rows[b"b/c.jpg"])["text"]) == 1_000_000
    assert (
        "/x/metadata.jsonl: 4 rows cannot be used and are left out, the first in line 3: it is not a JSON object"
        in (caplog.text)
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.csv", b"", "metadata.csv is empty"),
        ("metadata.csv", b"name,text\na.jpg,x\n", "none of its rows can be used. Line 2: it has no text in the column"),
        ("metadata.csv", "file_name\nä.jpg\n".encode("latin-1"), "metadata.csv, line 2: the text is not UTF-8"),
        ("metadata.csv", b"file_name,t\na.jpg," + b"x" * 2_000_000, "is not CSV: field larger than field limit"),
        ("metadata.jsonl", b"x", "none of its rows can be used. Line 1: it is not a JSON object"),
    ],
)
def test_a_file_without_a_usable_row_ends_the_run(name: str, content: bytes, message: str) -> None:
    with pytest.raises(SourceError) as error:
        parse_metadata(name, content)
    assert message in str(error.value)


def test_two_metadata_files_in_one_folder_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": "", "metadata.csv": "file_name\na.jpg\n", "metadata.jsonl": '{"file_name": "a.jpg"}'})
    with pytest.raises(SourceError, match="the folder has several metadata files: keep"):
        described(tmp_path)


def test_a_path_that_leaves_the_folder_is_a_row_without_an_image(tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": "", "sub/b.jpg": ""})
    rows = [{"file_name": name} for name in ("../a.jpg", "/etc/passwd", "file:///etc/passwd", "b.jpg")]
    (tmp_path / "sub" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert described(tmp_path) == ({"a.jpg": None, "sub/b.jpg": {}}, {"no-image": 3})


def test_many_csv_files_with_long_fields_at_once() -> None:
    """The longest field of module csv belongs to all threads."""
    content = b"file_name,text\n" + b"".join(b"%d.jpg,%s\n" % (at, b"y" * 200_000) for at in range(20))
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda number: parse_metadata(f"{number}.csv", content), range(24)))
    assert all(len(rows) == 20 for rows in found)


class Tree(Around):
    """Lists images and metadata files: folder by folder as a walk does, or by key, so many on a page, as a bucket."""

    def __init__(self, images: set[str], metadata: dict[str, list[str]], size: int) -> None:
        super().__init__(open_lister(file_config("/")))
        self.root, self.resumes, self._images, self._size = "", size > 0, images, size
        self._files = {f"{folder}metadata.jsonl".encode(): names for folder, names in metadata.items()}

    async def pages(self, after: bytes, passed: PassedOver) -> AsyncGenerator[Page, None]:
        names = sorted([*self._files, *(image.encode() for image in self._images)])
        if not self._size:
            names.sort(key=lambda name: [(part != name.split(b"/")[-1], part) for part in name.split(b"/")])
        parts = (
            [names[at : at + self._size] for at in range(0, len(names), self._size)]
            if self._size
            else [list(group) for _, group in groupby(names, key=lambda name: name.rpartition(b"/")[0])]
        )
        for part in parts:
            images = [name for name in part if name not in self._files]
            yield Page(images, besides=[Beside(name) for name in part if name in self._files])

    async def read(self, name: bytes, most: int) -> bytes:
        return "\n".join(json.dumps({"file_name": each, "of": name.decode()}) for each in self._files[name]).encode()

    def ref(self, index: int, name: bytes, extra: bytes = b"") -> None:  # type: ignore[override]
        raise NotImplementedError


FOLDERS = st.lists(st.sampled_from("ab"), max_size=3).map(lambda parts: "".join(f"{part}/" for part in parts))
IMAGES = st.builds(lambda folder, name: f"{folder}{name}.jpg", FOLDERS, st.sampled_from("mnz"))


@given(
    st.sets(IMAGES, min_size=1, max_size=10),
    st.dictionaries(FOLDERS, st.lists(IMAGES, min_size=1, max_size=5, unique=True), max_size=5),
    st.integers(0, 3),
)
def test_in_any_tree_the_nearest_row_counts(images: set[str], metadata: dict[str, list[str]], size: int) -> None:
    passed = PassedOver()

    async def read() -> dict[str, str]:
        lister = Described(Tree(images, metadata, size))
        return {
            name.decode(): json.loads(extra)["of"] if extra else ""
            async for page in lister.pages(b"", passed)
            for name, extra in page.pairs
        }

    wanted, used = dict.fromkeys(images, ""), 0
    for image in images:
        above = [
            folder for folder in metadata if image.startswith(folder) and image.removeprefix(folder) in metadata[folder]
        ]
        if above:
            wanted[image], used = f"{max(above, key=len)}metadata.jsonl", used + 1
    assert asyncio.run(read()) == wanted
    assert passed.counts.get("no-image", 0) == sum(map(len, metadata.values())) - used
