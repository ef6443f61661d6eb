"""Captions in batches: read with the images, from folders and buckets, and never at the cost of an image."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datago_gpu import Loader
from datago_gpu.config import LoaderConfig
from datago_gpu.feeder import fetch
from datago_gpu.feeder.fetch import Fetcher
from datago_gpu.feeder.payload_client import Remote
from datago_gpu.feeder.prefetch_budget import FREE_BYTES, Budget
from datago_gpu.feeder.window import Outcome
from datago_gpu.index.build import build_index
from datago_gpu.index.journal import Journal
from datago_gpu.sources.caption_text import MOST_CAPTION_BYTES
from datago_gpu.sources.index_form import CLASSES, ROOT, SOURCE, IndexRow, index_schema
from datago_gpu.sources.local import read_file
from datago_gpu.sources.object_store.failures import failure_of
from datago_gpu.sources.reference import Need, SampleRef, Span
from datago_gpu.sources.sample_info import SampleInfo
from tests.support.images import add_picture, small_jpeg
from tests.support.indexes import read_rows
from tests.support.moto_s3 import KEY, SECRET, s3_server

CONFIG: dict[str, Any] = {
    "source_type": "file",
    "image_config": {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 16},
    "decode_config": {"processes": 0},
    "http_config": {"max_payload_mb": 1, "max_backoff_s": 0.02, "max_tries": 2},
    "arena_mb": 4,
    "batch_size": 4,
}
Attributes = dict[str, dict[str, Any]]


def config_of(root: str | Path, *, top: dict[str, Any] | None = None, **source: Any) -> dict[str, Any]:
    return {**CONFIG, "source_config": {"root_path": str(root), **source}, **(top or {})}


def load(config: dict[str, Any]) -> tuple[Attributes, dict[str, int], dict[str, int]]:
    """id -> attributes; the flaws; what was passed over."""
    found: Attributes = {}
    with Loader(config, device="cpu", backend="pillow") as loader:
        for batch in loader:
            found |= dict(zip(batch.ids, batch.attributes, strict=True))
        stats = loader.stats()
        assert stats.skipped.keys() <= {"unknown-format"}
        return found, stats.flawed, stats.passed_over


FILES: dict[str, bytes] = {
    "a/1.jpg": small_jpeg(1),
    "a/1.txt": b"one\n",
    "a/2.jpg": small_jpeg(2),
    "a/2.txt": b"\xff",
    "b/3.webp.jpg": small_jpeg(3),
    "b/3.webp.txt": "\ufeffdreiß".encode(),
    "b/4.jpg": small_jpeg(4),
    "b/5.jpg": b"no picture",
    "b/5.txt": b"five",
    "b/6.jpg": small_jpeg(6),
    "b/6.txt": b"x" * (MOST_CAPTION_BYTES + 1),
    "b/7.JPG": small_jpeg(7),
    "b/7.txt": b"y" * 1_000_000,
    "b/orphan.txt": b"nobody's",
}
WANTED: Attributes = {
    "a/1.jpg": {"txt": "one\n"},
    "a/2.jpg": {},
    "b/3.webp.jpg": {"txt": "dreiß"},
    "b/4.jpg": {},
    "b/6.jpg": {},
    "b/7.JPG": {"txt": "y" * 1_000_000},
}
FLAWS = {"bad-attributes": 2, "no-caption": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("captions")
    for name, content in FILES.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(content)
    return root


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    metadata = '{"file_name": "1.jpg", "n": 1}\n{"file_name": "gone.jpg"}\n', "file_name,n\na/2.jpg,2\nb/4.jpg,4\n"
    more = {"photos/a/metadata.jsonl": metadata[0].encode(), "photos/metadata.csv": metadata[1].encode()}
    with s3_server(
        "mine", [*((f"photos/{name}", content) for name, content in FILES.items()), *more.items()]
    ) as endpoint:
        yield endpoint


def in_bucket(endpoint: str, root: str = "s3://mine/photos", **more: Any) -> dict[str, Any]:
    options = {"endpoint": endpoint, "access_key_id": KEY, "secret_access_key": SECRET, "region": "us-east-1"}
    return config_of(root, storage_options=options, **more)


@pytest.mark.parametrize("more", [{}, {"random_sampling": True}], ids=["listed", "shuffled"])
@pytest.mark.parametrize("top", [{}, {"prefetch_memory_mb": 1, "ordered": False}], ids=["", "little memory"])
def test_captions_of_a_folder(folder: Path, more: dict[str, Any], top: dict[str, Any]) -> None:
    found, flaws, passed = load(config_of(folder, captions="txt", top=top, **more))
    assert (found, flaws, passed) == (WANTED, FLAWS, {"no-image": 1})


@pytest.mark.parametrize("more", [{}, {"random_sampling": True}], ids=["listed", "shuffled"])
def test_captions_and_labels_of_a_bucket(bucket: str, more: dict[str, Any]) -> None:
    found, flaws, passed = load(in_bucket(bucket, captions="txt", **more))
    assert (found, flaws, passed) == (WANTED, FLAWS, {"extension": 2, "no-image": 1})
    with Loader(in_bucket(bucket, labels="folder", **more), device="cpu", backend="pillow") as loader:
        labels = {name: label for batch in loader for name, label in zip(batch.ids, batch.labels.tolist(), strict=True)}
        assert loader.classes == ["a", "b"]
    assert labels == {name: "ab".index(name[0]) for name in WANTED}


def test_metadata_of_a_bucket(bucket: str) -> None:
    found, flaws, passed = load(in_bucket(bucket, captions="metadata", labels="folder"))
    assert found == {name: {} for name in WANTED} | {"a/1.jpg": {"n": 1}, "a/2.jpg": {"n": 2}, "b/4.jpg": {"n": 4}}
    assert (flaws, passed) == ({"no-caption": 3}, {"extension": 7, "no-image": 1})


def test_a_bucket_of_captions_goes_on_where_it_stopped(bucket: str) -> None:
    config = in_bucket(bucket, captions="txt") | {"batch_size": 1}
    with Loader(config, device="cpu", backend="pillow") as loader:
        whole = [(batch.ids, batch.attributes) for batch in loader]
    for count in (2, 5):  # behind pictures without a usable caption
        with Loader(config, device="cpu", backend="pillow") as loader:
            for _ in range(count):
                next(loader)
            state = loader.state_dict()
        with Loader(config, device="cpu", backend="pillow", state=state) as loader:
            assert [(batch.ids, batch.attributes) for batch in loader] == whole[count:]


def fetched(config: dict[str, Any], refs: list[SampleRef], remote: Remote | None = None) -> list[Outcome]:
    """Loads the samples as a feeder does."""

    async def main() -> list[Outcome]:
        fetcher = Fetcher(LoaderConfig.load(config), remote)
        try:
            return await fetcher(refs, Budget(1 << 30).claim())
        finally:
            fetcher.close()

    return asyncio.run(main())


def test_a_local_caption_that_is_gone_or_cannot_be_read_costs_only_itself(tmp_path: Path) -> None:
    image = add_picture(tmp_path / "a.jpg")
    (tmp_path / "folder.txt").mkdir()
    gone, odd = (
        SampleRef(0, SampleInfo("a"), path=str(image), caption=str(tmp_path / name)) for name in ("a.txt", "folder.txt")
    )
    fetched(config_of(tmp_path), [gone, odd])
    assert gone.flaws == {"no-caption": "the caption was deleted after it was listed"}
    assert odd.flaws == {"bad-attributes": "the caption cannot be read: Is a directory"}


def test_a_large_image_is_read_once_for_a_usual_caption_and_again_only_for_a_large_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory for it is asked for with that of its image."""
    image = tmp_path / "a.jpg"
    Image.effect_noise((900, 900), 100).convert("RGB").save(image, quality=95)
    assert image.stat().st_size > FREE_BYTES
    found = list[str]()

    def read(path: str, most: int, span: Span | None = None) -> tuple[bytes, int]:
        content, size = read_file(path, most, span)
        if content:
            found.append(Path(path).name)
        return content, size

    monkeypatch.setattr(fetch, "read_file", read)
    for size, reads in ((1000, 1), (100_000, 2)):
        (tmp_path / "a.txt").write_text("x" * size)
        found.clear()
        ref = SampleRef(0, SampleInfo("a"), path=str(image), caption=str(tmp_path / "a.txt"))
        fetched(config_of(tmp_path), [ref])
        assert (len(json.loads(ref.info.attributes)["txt"]), found) == (size, ["a.jpg"] * reads)


class Pairs:
    """A `Remote` that answers the request for an image or its caption only when both have come."""

    def __init__(self, body: bytes, alone: set[str]) -> None:
        self.asked: list[str] = []
        self._body, self._alone = body, alone
        self._both: dict[str, asyncio.Event] = {}

    async def get(self, url: str, max_bytes: int, need: Need | None = None, span: Span | None = None) -> bytes:
        self.asked.append(url)
        stem, _, ending = url.rpartition(".")
        both = self._both.setdefault(stem, asyncio.Event())
        if self.asked.count(f"{stem}.jpg") + self.asked.count(f"{stem}.txt") == 2 or stem in self._alone:
            both.set()
        await both.wait()
        if ending == "jpg":
            return self._body if stem != "s3://b/bad" else b"no picture"
        if stem in ("s3://b/gone", "s3://b/broken"):
            status = 404 if "gone" in stem else 500
            raise failure_of(url, f"http-{status}", "", status)
        return b"text"


def test_a_remote_caption_is_asked_for_together_with_its_image_and_only_where_there_is_one() -> None:
    names = ("good", "none", "gone", "broken", "bad")
    refs = [
        SampleRef(
            at, SampleInfo(name), url=f"s3://b/{name}.jpg", caption="" if name == "none" else f"s3://b/{name}.txt"
        )
        for at, name in enumerate(names)
    ]
    remote = Pairs(small_jpeg(), {"s3://b/none"})
    outcomes = fetched(config_of("s3://b"), refs, remote)
    assert [json.loads(ref.info.attributes) for ref in refs[:4]] == [{"txt": "text"}, {}, {}, {}]
    assert [list(ref.flaws) for ref in refs] == [[], [], ["no-caption"], ["bad-attributes"], []]
    assert "s3://b/none.txt" not in remote.asked
    assert [type(each).__name__ for each in outcomes] == ["Admitted"] * 4 + ["Skipped"]


@pytest.mark.parametrize("captions", ["txt", "metadata"])
def test_an_index_gives_the_same_samples_with_their_labels_and_captions(
    folder: Path, bucket: str, tmp_path: Path, captions: str
) -> None:
    for kind, config in {
        "bucket": in_bucket(bucket, captions=captions, labels="folder"),
        "folder": config_of(folder, captions=captions, labels="folder", classes=["b", "a"]),
    }.items():
        out = tmp_path / f"{kind}.arrow"
        build_index(LoaderConfig.load(config), out, readers=0)
        options = config["source_config"].get("storage_options", {})
        source = {"path": str(out), "storage_options": options}
        table = {**CONFIG, "source_type": "table", "source_config": source}
        assert labelled(table) == labelled(config)


def labelled(config: dict[str, Any]) -> tuple[list[str] | None, dict[str, tuple[int | None, dict[str, Any]]]]:
    """The classes; and id -> label and attributes."""
    with Loader(config, device="cpu", backend="pillow") as loader:
        return loader.classes, {sample.id: (sample.label, sample.attributes) for sample in loader.samples()}


def test_an_index_is_brought_up_to_date_with_captions_and_classes(tmp_path: Path) -> None:
    root, out = tmp_path / "photos", tmp_path / "x.arrow"
    for name in ("b/1.jpg", "b/2.jpg", "c/3.jpg"):
        add_picture(root / name)
    (root / "b/1.txt").write_text("one")
    (root / "b/2.txt").write_text("two")
    config = config_of(root, captions="txt", labels="folder")
    build_index(LoaderConfig.load(config), out, readers=0)
    assert [row["label"] for row in read_rows(out)] == [0, 0, 1]
    (root / "b/1.txt").write_text("changed")
    (root / "b/2.txt").unlink()
    add_picture(root / "a/0.jpg")
    summary = build_index(LoaderConfig.load(config), out, update=True, readers=0)
    assert (summary.rows, summary.known) == (4, 1)  # of c/3.jpg, whose label has changed
    rows = {row["id"]: (row["label"], row["attributes"]) for row in read_rows(out)}
    assert rows == {
        "a/0.jpg": (0, None),
        "b/1.jpg": (1, '{"txt":"changed"}'),
        "b/2.jpg": (1, None),
        "c/3.jpg": (2, None),
    }
    table = {**CONFIG, "source_type": "table", "source_config": {"path": str(out)}}
    assert labelled(table)[0] == ["a", "b", "c"]


def test_an_interrupted_index_of_other_classes_is_begun_anew(tmp_path: Path) -> None:
    rows = [IndexRow("b/1.jpg", "b/1.jpg", label=0)]
    for classes, kept in [('["b"]', 0), ('["b"]', 1), ('["a","b"]', 0)]:
        schema = index_schema({ROOT: "/x", SOURCE: "{}", CLASSES: classes})
        with closing(Journal(tmp_path / "x.part", schema)) as journal:
            assert journal.rows == kept
            if not kept:
                journal.append([rows])
