"""WebDataset shards on disk: which samples, in which order, for which rank, and what a bad one costs."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import os
import random
import tempfile
import threading
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from datago_gpu.config.shards import WebDatasetSource
from datago_gpu.errors import ConfigError, SourceError
from datago_gpu.sources.reference import Position, SampleRef, Skipped
from datago_gpu.sources.webdataset.addresses import list_addresses
from tests.support.shards import keys, listed, pictures, read, shard_config, tar_bytes, write_shards
from tests.support.zstd import zstd_compress


def one(path: Path, *files: tuple[str, bytes], **more: Any) -> SampleRef | Skipped:
    """The only sample of a shard of these files."""
    path.write_bytes(tar_bytes(files))
    (sample,) = listed(path, **more)
    return sample


def attributes(path: Path, *files: tuple[str, bytes]) -> Any:
    sample = one(path, ("a.jpg", b"x"), *files)
    assert isinstance(sample, SampleRef), sample
    return json.loads(sample.info.attributes)


def their_samples(path: Path) -> Iterator[dict[str, Any]]:
    """As the package webdataset reads a shard; its own way to open one leaves the file open."""
    with open(path, "rb") as file:
        files = webdataset.tariterators.tar_file_expander([{"url": str(path), "stream": file}])
        yield from webdataset.tariterators.group_by_keys(files)


@pytest.mark.parametrize("form", ["USTAR_FORMAT", "GNU_FORMAT", "PAX_FORMAT"])
def test_samples_are_those_of_the_package_webdataset(tmp_path: Path, form: str) -> None:
    generator = random.Random(3)
    path = tmp_path / "a.tar"
    with webdataset.TarWriter(str(path), format=form) as writer:
        for number in range(40):
            writer.write(
                {
                    "__key__": f"dir.v1/{'long' * (number % 7 * 4)}/{number:03}",
                    "JPG": generator.randbytes(generator.choice([1, 511, 512, 513, 70_000])),
                    "mask.png": generator.randbytes(600),
                    "json": {"number": number, "name": "caf\N{LATIN SMALL LETTER E WITH ACUTE}"},
                    "cls": number,
                    "txt": "a caption",
                    "vec.npy": np.arange(number + 1, dtype=np.float32),
                }
            )
    theirs = list(their_samples(path))
    ours = listed(path, masks="mask", latents="vec.npy")
    assert [sample["__key__"] for sample in theirs] == [each.id for each in ours]
    for number, (their, our) in enumerate(zip(theirs, ours, strict=True)):
        assert isinstance(our, SampleRef)
        assert our.payload == their["jpg"]
        assert [part.payload for part in our.parts] == [their["mask.png"], their["vec.npy"]]
        assert [(part.name, part.kind) for part in our.parts] == [("mask", "mask"), ("vec.npy", "latent")]
        expected = {"number": number, "name": "caf\xe9", "txt": "a caption", "cls": number}
        assert json.loads(our.info.attributes) == expected
        assert (our.index, our.info.source, our.cursor) == (number, "webdataset", "0:0")
        assert our.where == f"{path}!{our.id}.JPG"


_WORD = st.text("ab._é", min_size=1, max_size=5)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.lists(_WORD, min_size=1, max_size=3), st.sampled_from(["jpg", "x.png", "json"])), max_size=9)
)
def test_any_names_are_grouped_as_the_package_webdataset_groups_them(
    tmp_path: Path, names: list[tuple[list[str], str]]
) -> None:
    """Hidden files of a folder are not among them: of `a/._1.jpg` that package makes a sample `a/`."""
    files = [(f"{'/'.join(words)}.{end}", b"{}") for words, end in names if not words[-1].startswith(".")]
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes(files))
    theirs: list[str] = []
    with suppress(ValueError, IndexError):  # a name that comes twice ends the shard there
        theirs += [sample["__key__"] for sample in their_samples(path)]
        ours: list[str] = []
        with suppress(SourceError):
            ours = [each.id for each in listed(path)]
        assert ours == theirs


def test_the_first_image_is_the_reference_unless_one_is_named(tmp_path: Path) -> None:
    files = [("a.txt", b"t"), ("a.image.PNG", b"png"), ("a.jpg", b"jpg"), ("a.mp4", b"v")]
    for name, payload in [("", b"png"), ("jpg", b"jpg"), (".jpg", b"jpg"), ("image", b"png"), ("image.png", b"png")]:
        sample = one(tmp_path / "a.tar", *files, reference_image_type=name)
        assert isinstance(sample, SampleRef)
        assert sample.payload == payload, name
    assert one(tmp_path / "a.tar", *files, reference_image_type="webp") == Skipped(
        0, "a", f"{tmp_path}/a.tar!a.txt", "no-image", "wanted is 'webp'"
    )
    sample = one(tmp_path / "a.tar", *files, additional_images="image")
    assert isinstance(sample, SampleRef)
    assert (sample.payload, [part.payload for part in sample.parts]) == (b"jpg", [b"png"])


@pytest.mark.parametrize(
    ("setting", "reason"),
    [("masks", "no-mask"), ("additional_images", "no-additional-image"), ("latents", "no-latent")],
)
def test_a_sample_without_what_was_asked_for_is_skipped_unless_it_is_optional(
    tmp_path: Path, setting: str, reason: str
) -> None:
    files = [("a.jpg", b"x"), ("a.one.bin", b"1")]
    sample = one(tmp_path / "a.tar", *files, **{setting: "one, two.bin"})
    assert isinstance(sample, Skipped)
    assert (sample.index, sample.id, sample.reason, sample.detail) == (0, "a", reason, "'two.bin'")
    sample = one(tmp_path / "a.tar", *files, **{setting: "one, two.bin", "optional": "two.bin"})
    assert isinstance(sample, SampleRef)
    assert [(part.name, part.payload, part.optional) for part in sample.parts] == [("one", b"1", False)]


def test_what_is_known_of_a_sample_comes_as_one_object(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    assert attributes(path) == {}
    assert attributes(path, ("a.txt", b"caf\xc3\xa9\xff"), ("a.json", b'{"x": [1, {"y": null}]}')) == {
        "x": [1, {"y": None}],
        "txt": "caf\xe9\N{REPLACEMENT CHARACTER}",
    }
    assert attributes(path, ("a.cls", b" 7\n"), ("a.kind.cls", b"cat\n")) == {"cls": 7, "kind": "cat"}
    assert attributes(path, ("a.meta.json", b'{"x": 1}'), ("a.long.caption.txt", b"t")) == {
        "meta": {"x": 1},
        "long.caption": "t",
    }
    assert attributes(path, ("a.json", b"[1, 2]")) == {"json": [1, 2]}
    assert attributes(path, ("a.json", b'{"score": NaN, "max": Infinity}')) == {"score": None, "max": None}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"a": "\xff"}', b'{"a": "\\ud800"}', b"[" * 10**5])  # fmt: skip  # noqa: E501
def test_bad_json_costs_the_attributes_of_its_sample(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes([("a.jpg", b"x"), ("a.json", content), ("b.jpg", b"y")]))
    bad, good = listed(path)
    assert isinstance(bad, SampleRef)
    assert isinstance(good, SampleRef)
    assert (bad.id, bad.info.attributes, list(bad.flaws)) == ("a", b"{}", ["bad-attributes"])
    assert (good.id, good.info.attributes, good.flaws) == ("b", b"{}", {})


def test_what_is_too_large_is_passed_over_and_costs_only_its_sample(tmp_path: Path) -> None:
    large = bytes(1 << 20) + b"x"
    path = tmp_path / "a.tar"
    path.write_bytes(
        tar_bytes(
            [("a.jpg", large), ("b.jpg", b"b"), ("b.mp4", large), ("c.jpg", b"c"), ("c.txt", large), ("d.jpg", b"d")]
        )
    )
    assert keys(path) == ["too-large", "b", "too-large", "d"]


def test_two_files_of_one_name_in_a_sample_cost_it(tmp_path: Path) -> None:
    sample = one(tmp_path / "a.tar", ("a.jpg", b"x"), ("a.JPG", b"y"))
    assert isinstance(sample, Skipped)
    assert (sample.reason, sample.detail) == ("bad-entry", "two files are called 'a.JPG'")


@pytest.mark.parametrize("pack", [gzip.compress, lambda data: gzip.compress(data[:9000]) + gzip.compress(data[9000:]),
                                  zstd_compress, lambda data: zstd_compress(data[:9000]) + zstd_compress(data[9000:])])  # fmt: skip  # noqa: E501
def test_compressed_shards_are_known_by_their_first_bytes(tmp_path: Path, pack: Any) -> None:
    (tmp_path / "a.tar").write_bytes(pack(tar_bytes(pictures(0, 30))))
    assert keys(tmp_path / "a.tar") == [f"{number:04}" for number in range(30)]


def test_the_shards_come_in_the_order_of_their_list(tmp_path: Path) -> None:
    write_shards(tmp_path, [2, 3, 1])
    whole = [f"{number:04}" for number in range(6)]
    (tmp_path / "list.txt").write_text(f"# mine\n{tmp_path}/00{{1..2}}.tar\n\n{tmp_path}/000.tar\n")
    for url, expected in [
        (f"{tmp_path}/{{000..002}}.tar", whole),
        (f"{tmp_path}/00{{0,1,2}}.tar", whole),
        (f"{tmp_path}/*.tar", whole),
        (f"{tmp_path}", whole),
        (f"file://{tmp_path}/00[01].tar :: {tmp_path}/002.tar", whole),
        (f"{tmp_path}/002.tar::{tmp_path}/000.tar", ["0005", "0000", "0001"]),
        (f"@{tmp_path}/list.txt", [*whole[2:], *whole[:2]]),
    ]:
        assert keys(url) == expected, url
        assert keys(url, concurrent_downloads=1) == expected


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("{root}/none-*.tar", "matches nothing"),
        (
            "{root}/none/*.tar",
            "cannot list the shards in '{root}/none': No such file or directory; check source_config",
        ),
        ("{root}/empty.tar/[0-9]/*.tar", "cannot list the shards in '{root}/empty.tar': Not a directory; check"),
        ("{root}/{{000..", "braces"),
        ("@{root}/nowhere", "No such file or directory; check source_config.url"),
        ("pipe:cat {root}/000.tar", "which is not supported"),
        ("ftp://example.org/a.tar", "ftp:// is not supported"),
        ("hf://datasets/a/b", "hf://datasets/OWNER/NAME/PATH.tar"),
        ("{root}/{{0..9999999999}}.tar", "more than 1000000 shards"),
        (
            "{root}/nowhere.tar",
            "none of 1 shards could be read, the last failed with missing: {root}/nowhere.tar; check",
        ),
        ("{root}/empty.tar", "no samples in 1 shards"),
    ],
)
def test_what_names_no_shard_is_a_source_error(tmp_path: Path, url: str, words: str) -> None:
    (tmp_path / "empty.tar").write_bytes(tar_bytes([("README", b"hello")]))
    with pytest.raises(SourceError) as caught:
        listed(url.format(root=tmp_path))
    assert words.replace("{root}", str(tmp_path)) in str(caught.value)


@pytest.mark.parametrize("url", ["{folder}", "{folder}/", "file://{folder}", "{folder}/*.tar", "{folder}/a/../*/*.tar"])
def test_a_folder_that_may_not_be_listed_is_a_source_error(unreadable: Path, url: str) -> None:
    with pytest.raises(SourceError) as caught:
        list_addresses(url.format(folder=unreadable), os.path.abspath)
    assert str(caught.value).startswith(f"cannot list the shards in '{unreadable}")
    assert str(caught.value).endswith("': Permission denied; check source_config.url")


@pytest.fixture
def unreadable() -> Iterator[Path]:
    """A folder that this process may not list, even if the process belongs to root."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        folder = Path(parent, "closed")
        folder.mkdir(mode=0)
        try:
            if user == 0:
                os.seteuid(65534)
            yield folder
        finally:
            os.seteuid(user)


def test_hf_addresses_are_those_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = "https://huggingface.co/datasets/me/mine/resolve"
    assert list_addresses("hf://datasets/me/mine/a/{0..1}.tar", os.path.abspath) == [
        f"{hub}/main/a/0.tar",
        f"{hub}/main/a/1.tar",
    ]
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror/")
    assert list_addresses("hf://datasets/me/mine@v2/a.tar", os.path.abspath) == [
        "http://mirror/datasets/me/mine/resolve/v2/a.tar"
    ]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("many")
    write_shards(root, [5, 0, 7, 1, 40, 3, 2], size=100)
    return root


@settings(max_examples=25)
@given(
    world_size=st.integers(1, 20),
    shuffled=st.booleans(),
    seed=st.integers(0, 2**63 - 1),
    epoch=st.integers(0, 9),
    buffer=st.integers(1, 70),
    interleave=st.integers(1, 8),
)
def test_ranks_are_disjoint_and_cover_everything(
    many: Path, world_size: int, shuffled: bool, seed: int, epoch: int, buffer: int, interleave: int
) -> None:
    found: list[str] = []
    for rank in range(world_size):
        more = {"rank": rank, "world_size": world_size, "random_sampling": shuffled, "shuffle_buffer": buffer,
                "interleave": interleave}  # fmt: skip
        refs = []
        with suppress(SourceError):  # a rank whose only shard is empty
            refs = listed(many, Position(epoch), seed=seed, **more)
        assert [ref.index for ref in refs] == list(range(len(refs)))
        found += [ref.id for ref in refs]
    assert sorted(found) == [f"{number:04}" for number in range(58)]
    if world_size == interleave == 1 and not shuffled:
        assert found == sorted(found)


@settings(max_examples=25)
@given(
    start=st.integers(0, 57),
    world_size=st.sampled_from([1, 2, 9]),
    shuffled=st.booleans(),
    with_cursor=st.booleans(),
    interleave=st.sampled_from([1, 2, 3, 8]),
)
def test_a_start_in_the_middle_gives_exactly_the_rest(
    many: Path, start: int, world_size: int, shuffled: bool, with_cursor: bool, interleave: int
) -> None:
    more: dict[str, Any] = {"rank": 0, "world_size": world_size, "random_sampling": shuffled, "shuffle_buffer": 10,
                            "interleave": interleave}  # fmt: skip
    whole = listed(many, Position(1), **more)
    start %= len(whole)
    first = whole[start]
    assert isinstance(first, SampleRef)
    assert bool(first.cursor) is not shuffled
    position = Position(1, start, first.cursor if with_cursor else "")
    assert listed(many, position, **more) == whole[start:]


@settings(max_examples=25)
@given(counts=st.lists(st.integers(0, 5), min_size=1, max_size=9), interleave=st.integers(1, 6))
def test_samples_of_so_many_shards_take_turns(counts: list[int], interleave: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder), counts)
        expected, ends = [], list(itertools.accumulate(counts))
        numbers = [list(range(end - count, end)) for count, end in zip(counts, ends, strict=True)]
        for first in range(0, len(numbers), interleave):
            for turn in itertools.zip_longest(*numbers[first : first + interleave]):
                expected += [f"{number:04}" for number in turn if number is not None]
        with nullcontext() if expected else pytest.raises(SourceError, match="no samples in"):
            assert keys(folder, interleave=interleave) == expected
            assert keys(folder, interleave=interleave, concurrent_downloads=interleave, buffer_mb=1) == expected


def test_a_shard_that_breaks_leaves_the_turns_to_the_others(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, [3, 3, 3, 1])
    data = paths[1].read_bytes()
    paths[1].write_bytes(data[: data.index(b"0005.jpg") + 600])  # in the middle of its last sample
    paths[2].unlink()
    url = "::".join(map(str, paths))
    assert keys(url, interleave=3) == ["0000", "0003", "missing", "0001", "0004", "0002", "bad-shard", "0009"]


def test_epochs_and_seeds_differ_and_repeat(many: Path) -> None:
    more: dict[str, Any] = {"random_sampling": True, "shuffle_buffer": 8}
    orders = {
        (seed, epoch): tuple(keys(many, Position(epoch), seed=seed, **more)) for seed in (0, 1) for epoch in (0, 1)
    }
    assert len(set(orders.values())) == 4
    assert tuple(keys(many, Position(1), seed=1, concurrent_downloads=2, **more)) == orders[1, 1]
    assert tuple(keys(many, Position(1), seed=1, interleave=2, **more)) != orders[1, 1]
    assert keys(many, Position(1), seed=1) == keys(many)


def test_a_shuffle_buffer_is_bounded_in_bytes_too(tmp_path: Path) -> None:
    """Here to two samples or so: nothing can come much before its turn."""
    write_shards(tmp_path, [30], size=500_000)
    order = [int(key) for key in keys(tmp_path, random_sampling=True, buffer_mb=1, concurrent_downloads=1)]
    assert sorted(order) == list(range(30)) != order
    assert max(number - place for place, number in enumerate(order)) <= 3


def test_a_shard_cut_short_costs_what_is_behind_the_cut(tmp_path: Path) -> None:
    _, second, _ = write_shards(tmp_path, [3, 3, 1])
    data = second.read_bytes()
    second.write_bytes(data[: data.index(b"0004.jpg") + 1000])
    found = listed(tmp_path)
    assert [getattr(each, "id", "") for each in found] == ["0000", "0001", "0002", "0003", "", "0006"]
    lost = found[4]
    assert isinstance(lost, Skipped)
    assert (lost.index, lost.where, lost.reason) == (-1, str(second), "bad-shard")
    assert lost.detail.startswith("it ends within a file, at byte ")
    assert [each.index for each in found] == [0, 1, 2, 3, -1, 4]


@pytest.mark.parametrize("name", ["cut.tar.gz", "rotten.tar.gz", "cut.tar.zst", "rotten.tar.zst", "no.tar", "zero.tar"])
def test_a_bad_shard_is_one_skip_and_the_next_one_comes(tmp_path: Path, name: str) -> None:
    data = tar_bytes([(f"{number:03}.jpg", random.Random(number).randbytes(2000)) for number in range(400)])
    packed = gzip.compress(data) if name.endswith("gz") else zstd_compress(data, checksum=True)
    bad = {"cut": packed[: len(packed) // 2], "no": b"nothing like a tar" * 1000, "zero": b""}.get(name.split(".")[0])
    if bad is None:
        bad = packed[:300_000] + bytes(100) + packed[300_100:]
    (tmp_path / name).write_bytes(bad)
    (tmp_path / "z.tar").write_bytes(tar_bytes([("last.jpg", b"x")]))
    *before, lost, last = keys(f"{tmp_path}/{name}::{tmp_path}/z.tar")
    assert (lost, last) == ("bad-shard", "last")
    assert before == [f"{number:03}" for number in range(len(before))]
    assert len(before) > 50 or name in ("no.tar", "zero.tar")


def test_a_header_damaged_in_the_middle_is_not_taken_for_the_end(tmp_path: Path) -> None:
    data = bytearray(tar_bytes(pictures(0, 9)))
    data[data.index(b"0004.cls") + 3] ^= 1
    (tmp_path / "a.tar").write_bytes(data)
    assert keys(tmp_path / "a.tar") == ["0000", "0001", "0002", "0003", "bad-shard"]


def test_a_missing_shard_and_a_folder_in_its_place_are_named(tmp_path: Path) -> None:
    write_shards(tmp_path, [1])
    (tmp_path / "001.tar").mkdir()
    assert keys(f"{tmp_path}/{{000..002}}.tar") == ["0000", "unreadable", "missing"]


def test_a_listing_that_is_closed_half_way_leaves_no_thread(many: Path) -> None:
    def shard_threads() -> int:
        return sum(thread.name == "datago-shard" for thread in threading.enumerate())

    assert len(asyncio.run(read(shard_config(many), most=3))) == 3
    for thread in threading.enumerate():
        if thread.name == "datago-shard":
            thread.join(10)
    assert shard_threads() == 0


SECRET = "hf_S3cr3tT0kenOfMine"


def test_the_token_and_the_storage_options_are_shown_in_no_text() -> None:
    config = shard_config(
        "https://user:pass@example.org/a.tar?sig=abc::b.tar", auth_token=SECRET, storage_options={"key": "verysecret"}
    )
    source = config.source_config
    assert isinstance(source, WebDatasetSource)
    for text in (repr(config), str(source), repr(source.__rich_repr__())):
        for secret in (SECRET, "verysecret", "sig=abc", "pass@"):
            assert secret not in text
    assert repr(source) == (
        "WebDatasetSource(url='https://example.org/a.tar::b.tar', auth_token='***', storage_options={'key': '***'})"
    )
    assert config.redacted(f"x {SECRET} verysecret") == "x *** ***"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"url": " "}, "source_config.url is empty"),
        ({"auth_token": "a b"}, "auth_token contains spaces"),
        ({"auth_token": 5}, r"auth_token must be text, got \*\*\*"),
        ({"storage_options": {"key": 5}}, "storage_options must be a dict of texts, got \\*\\*\\*"),
        ({"masks": "a,b", "latents": "a"}, "'a' occurs twice"),
        ({"optional": "c"}, "optional names 'c', which is not in"),
        ({"shards": "a"}, "unknown key source_config.shards"),
        ({"concurrent_downloads": 0}, "concurrent_downloads"),
        (
            {"interleave": 9},
            r"interleave \(9\) must be at most concurrent_downloads \(8\): raise concurrent_downloads or lower",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(more: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        shard_config(more.pop("url", "a.tar"), **more)
    assert "a b" not in str(caught.value)
