"""What tables hold: values of all types as attributes, data sets of Hugging Face, indexes, damage."""

from __future__ import annotations

import asyncio
import datetime as dt
import decimal
import errno
import itertools
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from datago_gpu import ConfigError, Loader, LoaderConfig, SourceError
from datago_gpu.sources import open_source
from datago_gpu.sources.http.http_client import HttpClient
from datago_gpu.sources.index_form import ROOT, IndexPart, IndexRow, index_schema
from datago_gpu.sources.reference import BAD_ATTRIBUTES, Position, SampleRef, Skipped, Span
from datago_gpu.sources.table import readers, settled, tables
from datago_gpu.sources.table.access import AnyOrder
from tests.support.images import add_picture
from tests.support.needs import needs
from tests.support.tables import ids_of, samples_of, table_config, write_table

CAFE = "caf\N{LATIN SMALL LETTER E WITH ACUTE}"
QUIET = {"decode_config": {"processes": 0}, "batch_size": 4}


def refs_of(config: dict[str, Any]) -> list[SampleRef]:
    found = samples_of(config)
    assert all(isinstance(sample, SampleRef) for sample in found)
    return [sample for sample in found if isinstance(sample, SampleRef)]


def attributes_of(config: dict[str, Any]) -> list[Any]:
    return [json.loads(sample.info.attributes) for sample in refs_of(config)]


def test_values_of_every_type_become_json(tmp_path: Path) -> None:
    paths = ["a", "b"]
    columns = {
        "number": pa.array([1, None], pa.uint64()),
        "share": pa.array([0.5, float("nan")]),
        "big": pa.array([float("inf"), 1e300]),
        "half": pa.array([1.5, None], pa.float16()),
        "price": pa.array([decimal.Decimal("1.50"), None], pa.decimal128(10, 2)),
        "text": pa.array([CAFE, ""]),
        "kind": pa.array(["x", "y"]).dictionary_encode(),
        "truth": [True, None],
        "at": pa.array([1_700_000_000_123_456_789, 0], pa.timestamp("ns", "UTC")),
        "beyond": pa.array([2**62, 0], pa.timestamp("us")),
        "day": [dt.date(2024, 5, 1), None],
        "lasts": pa.array([90, None], pa.duration("s")),
        "tags": [["a", None], []],
        "boxes": [[[1.0, 2.0]], None],
        "nested": [{"a": {"b": [1]}, "at": dt.date(2024, 5, 1)}, None],
        "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int8())),
        "nothing": pa.nulls(2),
        "embedding": pa.array([np.zeros(64, np.float32)] * 2, pa.list_(pa.float32(), 64)),
        "thumbnail": [b"\xff", None],
    }
    path = write_table(tmp_path / "t.arrow", pa.table({"path": paths, **columns}))
    first, second = attributes_of(table_config(path))
    assert first | {"beyond": ""} == {
        "number": 1, "share": 0.5, "big": None, "half": 1.5, "price": 1.5, "text": CAFE,
        "kind": "x", "truth": True, "at": "2023-11-14T22:13:20.123456Z", "beyond": "", "day": "2024-05-01",
        "lasts": "PT90S", "tags": ["a", None], "boxes": [[1.0, 2.0]], "nested": {"a": {"b": [1]}, "at": "2024-05-01"},
        "map": [["k", 1]], "nothing": None,
    }  # fmt: skip
    assert first["beyond"]
    assert second["share"] is None
    assert second["beyond"] == "1970-01-01T00:00:00"
    config = table_config(path, attributes="thumbnail,embedding")
    assert attributes_of(config)[0] == {"thumbnail": "/w==", "embedding": [0.0] * 64}
    assert attributes_of(table_config(path, attributes="")) == [{}, {}]


def test_texts_that_are_not_utf8(tmp_path: Path) -> None:
    """A path is taken as it is; an attribute cannot be."""
    texts = pa.array([b"a\xff.jpg", b"b.jpg"]).view(pa.string())
    samples = refs_of(table_config(write_table(tmp_path / "t.arrow", pa.table({"path": texts, "caption": texts}))))
    assert [sample.path for sample in samples] == [f"{tmp_path}/a\udcff.jpg", f"{tmp_path}/b.jpg"]
    assert [sample.id for sample in samples] == ["a\\xff.jpg", "b.jpg"]
    assert [list(sample.flaws) for sample in samples] == [[BAD_ATTRIBUTES], []]
    assert [sample.info.attributes for sample in samples] == [b"{}", b'{"caption":"b.jpg"}']


def test_usual_names_in_any_case_and_ids(tmp_path: Path) -> None:
    rows = {"URL": ["https://h/1.jpg"], "TEXT": ["words"], "WIDTH": [3], "HEIGHT": [2], "key": ["000017"], "label": [4]}
    (sample,) = refs_of(table_config(write_table(tmp_path / "t.csv", rows)))
    assert (sample.id, sample.url) == ("000017", "https://h/1.jpg")
    assert json.loads(sample.info.attributes) == {"TEXT": "words", "label": 4}
    (sample,) = refs_of(table_config(tmp_path / "t.csv", id="label", label="HEIGHT", attributes=["WIDTH"]))
    assert (sample.id, json.loads(sample.info.attributes)) == ("4", {"WIDTH": 3, "HEIGHT": 2})


def test_masks_latents_and_further_images(tmp_path: Path) -> None:
    add_picture(tmp_path / "a.jpg", 40, 60)
    Image.new("L", (60, 40), 7).save(tmp_path / "mask.png")
    np.save(tmp_path / "vae.npy", np.arange(4, dtype=np.float16))
    (tmp_path / "joined").write_bytes(b"..." + (tmp_path / "a.jpg").read_bytes())
    struct = {"path": "joined", "offset": 3, "length": (tmp_path / "a.jpg").stat().st_size}
    held = {"bytes": (tmp_path / "vae.npy").read_bytes(), "path": None}
    path = write_table(
        tmp_path / "t.parquet",
        {
            "image": ["a.jpg", "a.jpg", "a.jpg", "a.jpg"],
            "m": ["mask.png", None, "gone.png", "mask.png"],
            "depth": [struct, struct, struct, None],
            "z": [held] * 4,
        },
    )
    source = {
        "masks": {"segmentation": "m"},
        "additional_images": ["depth"],
        "latents": "vae=z",
        "optional": "segmentation",
    }
    with Loader(table_config(path, **source, top=QUIET), device="cpu", backend="pillow") as loader:
        (batch,) = loader
        assert loader.stats().skipped == {"no-additional-image": 1}
    assert batch.present["segmentation"].tolist() == [True, False, False]
    assert batch[0].masks["segmentation"].max() == 7
    assert batch[0].latents["vae"].tolist() == [0, 1, 2, 3]
    assert batch[1].additional_images["depth"].shape == (40, 60, 3)


def test_a_dataset_written_by_the_package_datasets(tmp_path: Path) -> None:
    """As Parquet with the images' bytes, and as `save_to_disk` keeps it: Arrow streams."""
    datasets = needs("datasets")
    paths = [str(add_picture(tmp_path / "pictures" / f"{number}.jpg", color=number)) for number in range(6)]
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "caption": datasets.Value("string"),
        }
    )
    rows = {"image": paths, "label": [0, 1] * 3, "caption": [f"no. {number}" for number in range(6)]}
    made = datasets.Dataset.from_dict(rows, features=features)
    held = made.with_format("arrow").map(datasets.table.embed_table_storage, batched=True)  # as push_to_hub does
    held.to_parquet(tmp_path / "set" / "data" / "train.parquet", batch_size=2)
    made.save_to_disk(tmp_path / "disk")
    for path in (tmp_path / "set", tmp_path / "disk"):
        samples = refs_of(table_config(path, random_sampling=True, filter="label == 1"))
        assert sorted(Path(sample.id).name for sample in samples) == ["1.jpg", "3.jpg", "5.jpg"]
        assert all(sample.payload for sample in samples)
    with Loader(table_config(tmp_path / "set", top=QUIET), device="cpu", backend="pillow") as loader:
        batches = list(loader)
        assert loader.stats().skipped == {}
    wanted = [{"label": number % 2, "caption": f"no. {number}"} for number in range(6)]
    assert [each for batch in batches for each in batch.attributes] == wanted


def test_an_index_is_read_without_further_settings(tmp_path: Path) -> None:
    rows = [
        IndexRow("a", path="a.jpg", width=30, height=20, attributes='{"caption": "x"}', source="s", tags=["t"]),
        IndexRow("b", url="https://h/1.tar", offset=512, length=9, bytes=9, width=3, height=2, digest='"e1"'),
        IndexRow("c", path="c.jpg", reason="truncated", detail="after 3 bytes"),
        IndexRow("", path="0.tar", reason="bad-shard"),
        IndexRow("d", path="d.jpg", attributes="[1]", parts=[IndexPart("m", "mask", path="m.png")]),
    ]
    values = [
        {**msgspec.structs.asdict(row), "parts": [msgspec.structs.asdict(part) for part in row.parts]} for row in rows
    ]
    table = pa.Table.from_pylist(values, index_schema({ROOT: "/data"}))
    found = samples_of(table_config(write_table(tmp_path / "index.arrow", table)))
    assert [(each.id, each.reason) for each in found if isinstance(each, Skipped)][:1] == [("c", "truncated")]
    assert [each.reason for each in found if isinstance(each, Skipped)] == ["truncated", "bad-shard"]
    first, second, last = (each for each in found if isinstance(each, SampleRef))
    assert (first.path, first.info.source, first.info.tags) == ("/data/a.jpg", "s", ["t"])
    assert json.loads(first.info.attributes) == {"caption": "x"}
    assert (second.url, second.span, second.path) == ("https://h/1.tar", Span(512, 9), "")
    assert [each.version for each in (first, second, last)] == ["", '"e1"', ""]
    assert list(last.flaws) == [BAD_ATTRIBUTES]
    assert [(part.name, part.kind, part.path) for part in last.parts] == [("m", "mask", "/data/m.png")]


def test_indexes_of_several_folders_keep_their_roots(tmp_path: Path) -> None:
    for name in ("a", "b"):
        values = [{**msgspec.structs.asdict(IndexRow(name, path=f"{name}.jpg")), "parts": []}]
        write_table(tmp_path / f"{name}.arrow", pa.Table.from_pylist(values, index_schema({ROOT: f"/data/{name}"})))
    assert [ref.path for ref in refs_of(table_config(tmp_path))] == ["/data/a/a.jpg", "/data/b/b.jpg"]
    assert [ref.path for ref in refs_of(table_config(tmp_path, root="/c"))] == ["/c/a.jpg", "/c/b.jpg"]


def test_an_image_column_of_any_name_and_columns_of_one_name(tmp_path: Path) -> None:
    """The only column that holds images as Hugging Face datasets do."""
    cells = pa.array([{"bytes": b"x", "path": "x.jpg"}])
    table = pa.table([cells, pa.array([1]), pa.array([2])], names=["scan", "n", "n"])
    (ref,) = refs_of(table_config(write_table(tmp_path / "t.parquet", table)))
    assert (ref.id, ref.payload, ref.info.attributes) == ("x.jpg", b"x", b"{}")
    with pytest.raises(ConfigError, match="several columns 'n'"):
        samples_of(table_config(tmp_path / "t.parquet", attributes="n"))


def test_a_damaged_row_group_costs_only_its_rows(tmp_path: Path) -> None:
    names = [f"{number}.jpg" for number in range(20)]
    options = {"row_group_size": 5, "use_dictionary": False, "compression": "none"}
    for column in (names, [name.encode() * 100 for name in names]):
        path = write_table(tmp_path / "t.parquet", {"image": column, "id": names}, **options)
        content = bytearray(path.read_bytes())
        at = content.index(b"7.jpg")
        content[at - 40 : at + 40] = b"\xff" * 80
        path.write_bytes(content)
        for shuffled in (False, True):
            found = samples_of(table_config(path, random_sampling=shuffled))
            assert [each.index for each in found] == list(range(20))
            bad = [each for each in found if isinstance(each, Skipped)]
            assert {each.reason for each in bad} == {"bad-rows"}
            assert 1 <= len(bad) <= 5
            good = {each.id for each in found if isinstance(each, SampleRef)}
            assert {*names[:5], *names[10:]} <= good


def test_a_file_system_that_fails_for_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As NFS does: the read is tried again, and goes on where it stopped. What stays broken ends the run."""
    names = [f"{number}.jpg" for number in range(9)]
    path = write_table(
        tmp_path / "t.parquet", {"image": [name.encode() for name in names], "id": names}, row_group_size=4
    )
    left, batches = [3], readers.ParquetTable.batches

    def failing(self: readers.ParquetTable, group: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for batch in batches(self, group, columns):
            left[0] -= 1
            if left[0] in (0, 1):
                raise OSError(errno.ESTALE, "Stale file handle", str(path))
            yield batch

    monkeypatch.setattr(readers.ParquetTable, "batches", failing)
    top = {"http_config": {"max_tries": 3, "max_backoff_s": 0.01}}
    assert ids_of(table_config(path, top=top)) == names
    left[0] = 1
    with pytest.raises(SourceError, match=r"t\.parquet: Stale file handle"):
        ids_of(table_config(path, top={"http_config": {"max_tries": 1}}))


@pytest.mark.parametrize(
    ("more", "unread"),
    [
        ({"where": "width > 4"}, r"the columns for source_config\.where"),
        ({"top": {"lockstep": True, "image_config": {"crop_and_resize": True}}}, "the sizes"),
    ],
)
def test_a_file_system_that_fails_where_all_rows_are_judged(
    more: dict[str, Any], unread: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that cannot be read for the moment must not pass `where`, or count as rows without a size."""
    values = [{**msgspec.structs.asdict(IndexRow("a", path="a.jpg", width=8, height=8)), "parts": []}]
    path = write_table(tmp_path / "i.arrow", pa.Table.from_pylist(values, index_schema({ROOT: "/data"})))
    batches = tables.Group.batches

    def failing(self: tables.Group, columns: Sequence[str], *, check: bool = True) -> Iterator[pa.RecordBatch]:
        if "path" not in columns:
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return batches(self, columns, check=check)

    monkeypatch.setattr(tables.Group, "batches", failing)
    config = table_config(path, **more)
    with pytest.raises(SourceError, match=rf"cannot read {unread} of .*i\.arrow.*Stale file handle"):
        samples_of(config)


def test_a_cell_that_is_too_large_is_skipped(tmp_path: Path) -> None:
    rows = {"image": [b"x" * 2**20, b"x" * (2**20 + 1), b"x"], "m": [b"", b"", b"x" * (2**20 + 1)]}
    path = write_table(tmp_path / "t.parquet", rows)
    top = {"http_config": {"max_payload_mb": 1}}
    found = samples_of(table_config(path, masks="m", optional="m", top=top))
    assert [each.reason for each in found if isinstance(each, Skipped)] == ["empty", "too-large", "too-large"]


def test_no_room_for_rows_that_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_table(tmp_path / "t.parquet", {"path": [f"{number}.jpg" for number in range(100)]})
    monkeypatch.setattr(settled, "_MOST_IN_MEMORY", 100)
    config = table_config(path, random_sampling=True)
    assert len(ids_of(config)) == 100
    monkeypatch.setattr(tempfile, "tempdir", "/proc/self")  # where no file can be made
    with pytest.raises(SourceError, match="set TMPDIR"):
        samples_of(config)


def test_folders_are_columns_and_all_tables_need_the_image(tmp_path: Path) -> None:
    for year, more in ((2023, {}), (2024, {"caption": ["words"]})):
        write_table(tmp_path / f"set/year={year}/part=a%20b/0.parquet", {"path": [f"{year}.jpg"], **more})
    write_table(tmp_path / "set/.hidden/0.parquet", {"x": [1]})
    config = table_config(tmp_path / "set", filter="year >= 2023 and part == 'a b'", attributes="year,part")
    assert attributes_of(config) == [{"year": 2023, "part": "a b"}, {"year": 2024, "part": "a b"}]
    assert ids_of(table_config(tmp_path / "set", filter="year > 2023")) == ["2024.jpg"]
    write_table(tmp_path / "set/year=2025/0.parquet", {"x": [1]})
    with pytest.raises(ConfigError, match="lacks the column 'path'"):
        samples_of(table_config(tmp_path / "set"))


def test_a_state_is_held_to_the_rows(tmp_path: Path) -> None:
    """The same table elsewhere is the same data; other rows, or another order of them, are not."""
    names = [str(add_picture(tmp_path / f"{number}.jpg")) for number in range(9)]
    path = write_table(tmp_path / "a" / "t.parquet", {"path": names})
    top = {**QUIET, "batch_size": 2}
    with Loader(table_config(path, random_sampling=True, top=top), device="cpu", backend="pillow") as loader:
        next(loader)
        state = loader.state_dict()
        rest = [batch.ids for batch in loader]
    for folder, rows, words in (
        ("b", names, ""),
        ("c", names[::-1], "there are 9 rows of"),
    ):
        config = table_config(
            write_table(tmp_path / folder / "t.parquet", {"path": rows}), random_sampling=True, top=top
        )
        with Loader(config, device="cpu", backend="pillow", state=state) as loader:
            if not words:
                assert [batch.ids for batch in loader] == rest
                continue
            with pytest.raises(ConfigError, match=words):
                next(loader)


def test_string_views_and_compressed_batches(tmp_path: Path) -> None:
    names = [f"{number}.jpg" for number in range(9)]
    table = pa.table({"path": pa.array(names, pa.string_view()), "t": pa.array(["a", "b", None] * 3, pa.string_view())})
    path = write_table(tmp_path / "t.arrow", table)
    assert ids_of(table_config(path, filter="t == 'b'")) == names[1::3]
    assert sorted(ids_of(table_config(path, random_sampling=True))) == names
    assert ids_of(table_config(path), Position(0, 5)) == names[5:]


@pytest.mark.parametrize("text", ["n == 'b'", "n in ('b', 'c')", "n > 'a'"])
def test_a_filter_over_tables_of_other_types_of_text(tmp_path: Path, text: str) -> None:
    kinds = [pa.string(), pa.string_view(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())]
    for first, second in itertools.product(kinds, kinds):
        for name, kind in (("1", first), ("2", second)):
            columns = {"path": ["a.jpg", "b.jpg"], "n": pa.array(["a", "b"]).cast(kind)}
            write_table(tmp_path / f"{name}.parquet", columns, row_group_size=1)
        assert ids_of(table_config(tmp_path, filter=text)) == ["b.jpg", "b.jpg"], (first, second)


def test_a_filter_over_a_column_that_is_a_number_in_one_table_and_a_text_in_another(tmp_path: Path) -> None:
    for name, values in (("1", [1, 2]), ("2", ["2", "1"]), ("3", ["x", "2"])):
        write_table(tmp_path / f"{name}.parquet", {"path": ["a.jpg", "b.jpg"], "n": values})
    (tmp_path / "3.parquet").rename(tmp_path / "x.txt")
    assert ids_of(table_config(tmp_path, filter="n > 1")) == ["b.jpg", "a.jpg"]
    (tmp_path / "x.txt").rename(tmp_path / "3.parquet")
    with pytest.raises(SourceError, match=r"cannot filter the rows of .*3\.parquet"):
        ids_of(table_config(tmp_path, filter="n > 1"))


def test_a_column_that_a_folder_names_counts_and_not_the_column_of_the_file(tmp_path: Path) -> None:
    for lang in ("de", "en"):
        write_table(tmp_path / f"lang={lang}" / "t.parquet", {"path": [f"{lang}.jpg"], "lang": ["-"]})
    assert [name.split("/")[-1] for name in ids_of(table_config(tmp_path, filter="lang == 'en'"))] == ["en.jpg"]


@pytest.mark.parametrize(
    "text", ['null\n{"path": "a.jpg"}', '\n null\n{"path": "a.jpg"}\nnull', '\ufeffnull\n{"path": "a.jpg"}']
)
def test_a_line_that_is_null_is_left_out(tmp_path: Path, text: str) -> None:
    """pyarrow's reader ends the process with a segmentation fault."""
    (tmp_path / "t.jsonl").write_text(text)
    assert ids_of(table_config(tmp_path / "t.jsonl")) == ["a.jpg"]
    (tmp_path / "t.jsonl").write_text("null\n")
    with pytest.raises(SourceError, match="no line of the file is a JSON object"):
        ids_of(table_config(tmp_path / "t.jsonl"))


def test_lists_within_lists_that_are_too_deep_are_no_attributes(tmp_path: Path) -> None:
    deep = "[" * 2000 + "]" * 2000
    (tmp_path / "t.jsonl").write_text(f'{{"path": "a.jpg", "deep": {deep}, "flat": [[1]]}}\n')
    assert attributes_of(table_config(tmp_path / "t.jsonl")) == [{"flat": [[1]]}]


def test_a_local_parquet_file_that_is_replaced_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    rows = {"image": [b"x" * 1000] * 3000, "id": [f"old{at}" for at in range(3000)]}
    write_table(path, rows, row_group_size=1000)
    seen: list[str] = []

    async def read() -> None:
        loaded = LoaderConfig.load(table_config(path))
        async with HttpClient(loaded.http_config) as http, aclosing(open_source(loaded, http).refs(Position())) as refs:
            async for ref in refs:
                if not seen:
                    write_table(path, rows | {"id": [f"new{at}" for at in range(3000)]}, row_group_size=1000)
                seen.append(ref.id)

    with pytest.raises(SourceError, match=r"t\.parquet: the file was replaced while it was read"):
        asyncio.run(read())
    assert all(name.startswith("old") for name in seen)


def test_a_mapped_table_whose_content_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def take(*_: object) -> None:
        raise pa.ArrowIndexError("buffer slice would exceed buffer length")

    monkeypatch.setattr(AnyOrder, "take", take)
    path = write_table(tmp_path / "t.arrow", {"path": ["a.jpg"]})
    with pytest.raises(SourceError, match="a table was changed during the run"):
        ids_of(table_config(path))
