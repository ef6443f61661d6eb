"""Captions beside images: NAME.txt or NAME.json beside NAME.jpg. Which image has one is known from the listing."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from datago_gpu.sources.around import Around
from datago_gpu.sources.caption_text import attributes_of_caption
from datago_gpu.sources.captions import Captioned
from datago_gpu.sources.listed_images import Beside, Images, Lister, Page
from datago_gpu.sources.listers import open_lister
from datago_gpu.sources.passed_over import PassedOver
from datago_gpu.sources.reference import Position, SampleRef
from tests.support.images import file_config


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", ""),
        (b"a dog\n", "a dog\n"),
        ("\ufeffein Hünd 犬".encode(), "ein Hünd 犬"),
        ("\ufeffein Hünd".encode("utf-16-le"), "ein Hünd"),
        ("\ufeffein Hünd".encode("utf-16-be"), "ein Hünd"),
        (b"x" * 1_000_000, "x" * 1_000_000),
        (b"a\0b", "a\0b"),
    ],
    ids=["empty", "as it is", "utf-8 mark", "utf-16 le", "utf-16 be", "1 MB", "nul"],
)
def test_the_text_of_a_caption(content: bytes, text: str) -> None:
    attributes, problem = attributes_of_caption("a.TXT", content)
    assert (json.loads(attributes), problem) == ({"txt": text}, "")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.txt", "Hünd".encode("latin-1"), "the caption is not UTF-8 text (byte 1): save it as UTF-8"),
        ("a.txt", b"\xff\xfea", "the caption is not UTF-8 text (byte 2): save it as UTF-8"),
        ("a.json", b"", "the caption is not JSON"),
        ("a.json", b"{'a': 1}", "the caption is not JSON"),
        ("a.json", b"[1]", "they are not a JSON object, but of the Python type list"),
        ("a.json", b'{"a": "\xff"}', "they contain half a surrogate pair, text that is not UTF-8"),
        ("a.json", b"[" * 3000, ""),
    ],
)
def test_a_bad_caption_gives_no_attributes_and_says_why(name: str, content: bytes, problem: str) -> None:
    attributes, found = attributes_of_caption(name, content)
    assert attributes == b"{}"
    assert found
    assert problem in found


def test_a_json_caption_is_an_object_of_attributes() -> None:
    content = '\ufeff{"text": "Hünd", "score": NaN, "tags": ["a"]}'.encode()
    attributes, problem = attributes_of_caption("A.JSON", content)
    assert (json.loads(attributes), problem) == ({"text": "Hünd", "score": None, "tags": ["a"]}, "")


def pairs_in(root: Path, captions: str) -> tuple[dict[str, str], dict[str, int]]:
    """Image -> ending of its caption, in a folder; and what is passed over."""
    lister, passed = open_lister(file_config(root, source={"captions": captions})), PassedOver()

    async def read() -> dict[str, str]:
        return {name.decode(): extra.decode() async for page in lister.pages(b"", passed) for name, extra in page.pairs}

    return asyncio.run(read()), passed.counts


def test_a_folder_pairs_each_image_with_the_caption_of_its_name(tmp_path: Path) -> None:
    for name in (
        "a.jpg",
        "a.png",
        "a.txt",
        "b.JPG",
        "b.TXT",
        "c.v1.webp",
        "c.v1.txt",
        "d.jpg",
        "d.json",
        "e.txt",
        "c.txt",
    ):
        (tmp_path / name).touch()
    (tmp_path / "d.txt").mkdir()
    found, passed = pairs_in(tmp_path, "txt")
    assert found == {"a.jpg": ".txt", "a.png": ".txt", "b.JPG": ".TXT", "c.v1.webp": ".txt", "d.jpg": ""}
    assert passed == {"extension": 1, "no-image": 2}
    found, passed = pairs_in(tmp_path, "json")
    assert {name for name, ending in found.items() if ending} == {"d.jpg"}
    assert passed == {"extension": 5}


ODD = st.text(st.sampled_from("aB1 .é猫\udcff#%?'"), min_size=1, max_size=2).filter(
    lambda name: not name.startswith(".")
)
TREES = st.lists(
    st.tuples(
        st.lists(ODD, max_size=2).map(tuple),
        ODD,
        st.sampled_from([".jpg", ".JPG", ".png", ".txt", ".Txt", ".json", ""]),
    ),
    min_size=1,
    max_size=12,
    unique=True,
)


@settings(max_examples=40)
@given(TREES, st.booleans(), st.integers(1, 3))
def test_in_any_tree_each_image_has_the_caption_of_its_name(
    files: list[tuple[tuple[str, ...], str, str]], shuffle: bool, world_size: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for folders, stem, ending in files:
            with suppress(FileExistsError, NotADirectoryError, IsADirectoryError):
                (root / "/".join(folders)).mkdir(parents=True, exist_ok=True)
                (root / "/".join(folders) / f"{stem}{ending}").touch()
        there = [path for path in root.rglob("*") if path.is_file()]
        captions = {
            str(path)[:-4]: str(path) for path in sorted(there, reverse=True) if path.name.lower().endswith(".txt")
        }
        wanted = {
            str(path): captions.get(str(path)[:-4], "")
            for path in there
            if path.name.lower().endswith((".jpg", ".png"))
        }
        assume(wanted)
        found: dict[str, str] = {}
        for rank in range(world_size):
            source = {"captions": "txt", "random_sampling": shuffle, "rank": rank, "world_size": world_size}
            config = file_config(root, source=source)
            found |= asyncio.run(captions_of(Images(config, open_lister(config))))
        assert found == wanted


async def captions_of(source: Images) -> dict[str, str]:
    """Path of each image -> that of its caption, "" for none, which is counted."""
    refs = [ref async for ref in source.refs(Position()) if isinstance(ref, SampleRef)]
    assert all(ref.flaws.keys() == (set() if ref.caption else {"no-caption"}) for ref in refs)
    return {ref.path: ref.caption for ref in refs}


class Keys(Around):
    """A bucket that lists these names, so many on a page."""

    def __init__(self, lister: Lister, names: list[bytes], size: int) -> None:
        super().__init__(lister)
        self.resumes, self.root, self._names, self._size = True, "", sorted(names), size

    async def pages(self, after: bytes, passed: PassedOver) -> AsyncGenerator[Page, None]:
        names = [name for name in self._names if name > after]
        for begin in range(0, len(names), self._size):
            page = names[begin : begin + self._size]
            images = [name for name in page if not name.lower().endswith((b".txt", b".md"))]
            besides = [Beside(name, f"t{name!r}") for name in page if name.lower().endswith(b".txt")]
            yield Page(images, tags=[f"i{name!r}" for name in images], besides=besides)

    def ref(self, index: int, name: bytes, extra: bytes = b"") -> None:  # type: ignore[override]
        raise NotImplementedError


STEMS = st.text(st.sampled_from("ab.-/"), min_size=1, max_size=4).filter(
    lambda name: not name.startswith("/") and name[-1] not in "./" and "//" not in name and name.strip("./-") != ""
)
NAMES = st.lists(
    st.builds(
        lambda stem, ending: (stem + ending).encode(), STEMS, st.sampled_from([".jpg", ".webp", ".avif", ".txt", ".md"])
    ),
    max_size=14,
    unique=True,
)


@given(NAMES, st.integers(1, 4), st.data())
def test_a_listing_by_keys_pairs_them_too_however_it_is_cut_into_pages_and_wherever_it_goes_on(
    names: list[bytes], size: int, data: st.DataObject
) -> None:
    images = sorted(name for name in names if not name.endswith((b".txt", b".md")))
    after = data.draw(st.sampled_from([b"", *images]))
    base = open_lister(file_config("/"))
    passed = PassedOver()

    async def read() -> list[tuple[bytes, bytes, str]]:
        pages = [page async for page in Captioned(Keys(base, names, size)).pages(after, passed)]
        return [(*pair, tag) for page in pages for pair, tag in zip(page.pairs, page.tags, strict=True)]

    expected = []
    for name in images:
        caption = name[: name.rindex(b".")] + b".txt"
        has = caption in names
        if name > after:
            expected.append((name, b".txt" if has else b"", f"i{name!r}" + (f"+t{caption!r}" if has else "")))
    assert asyncio.run(read()) == expected
    stems = {name[: name.rindex(b".")] for name in images}
    orphans = [name for name in names if name.endswith(b".txt") and name[: name.rindex(b".")] not in stems]
    if not after:
        assert passed.counts.get("no-image", 0) == len(orphans)
