"""Tables of every format become samples: their order, their columns, their cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datago_gpu import ConfigError, Loader, SourceError
from datago_gpu.sources.reference import Position, SampleRef, Skipped, Span
from tests.support.images import add_picture
from tests.support.tables import FORMATS, ids_of, samples_of, table_config, write_table

NAMES = [f"{number}.jpg" for number in range(10)]
PATHS: dict[str, list[Any]] = {"path": NAMES, "width": list(range(10)), "caption": [f"no. {n}" for n in range(10)]}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for name in NAMES:
        add_picture(root / name)
    return root


def one(config: dict[str, Any]) -> SampleRef:
    (sample,) = samples_of(config)
    assert isinstance(sample, SampleRef)
    return sample


@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_in_order_and_shuffled(tmp_path: Path, ending: str) -> None:
    config = table_config(write_table(tmp_path / f"t.{ending}", PATHS))
    samples = samples_of(config)
    assert [sample.id for sample in samples] == NAMES
    assert [sample.path for sample in samples if isinstance(sample, SampleRef)] == [str(tmp_path / n) for n in NAMES]
    assert [sample.info.attributes for sample in samples if isinstance(sample, SampleRef)][3] == b'{"caption":"no. 3"}'
    config["source_config"]["random_sampling"] = True
    shuffled = ids_of(config)
    assert sorted(shuffled) == NAMES != shuffled
    assert ids_of(config, Position(0, 4)) == shuffled[4:]
    assert ids_of(config, Position(1)) not in (NAMES, shuffled)


def test_a_loader_loads_bytes_and_files(pictures: Path, tmp_path: Path) -> None:
    cells = [{"bytes": (pictures / name).read_bytes(), "path": name} for name in NAMES]
    held = write_table(tmp_path / "held.parquet", {"image": cells, "label": list(range(10))}, row_group_size=4)
    listed = write_table(tmp_path / "listed.csv", PATHS)
    top = {"batch_size": 5, "decode_config": {"processes": 0}}
    for config in (
        table_config(held, random_sampling=True, top=top),
        table_config(listed, root=str(pictures), top=top),
    ):
        with Loader(config, device="cpu", backend="pillow") as loader:
            batches = list(loader)
        ids = [name for batch in batches for name in batch.ids]
        assert sorted(ids) == NAMES
        assert (ids == NAMES) != config["source_config"].get("random_sampling", False)
        assert loader.stats().skipped == {}
    assert batches[0].attributes[0] == {"caption": "no. 0"}


def test_a_cell_can_be_an_address_a_path_or_a_part_of_a_file(tmp_path: Path) -> None:
    rows = [
        {"url": "https://h/a.jpg?sig=x", "offset": None, "length": None},
        {"url": "shards/0.tar", "offset": 512, "length": 99},
        {"url": "S3://bucket/b.jpg", "offset": 0, "length": 7},
        {"url": "/data/c.jpg", "offset": None, "length": None},
        {"url": "file:///data/d%20e.jpg", "offset": None, "length": None},
        {"url": "hf://datasets/me/set/a/e.jpg", "offset": None, "length": None},
    ]
    found = samples_of(table_config(write_table(tmp_path / "t.jsonl", rows)))
    assert all(isinstance(sample, SampleRef) for sample in found)
    assert [(sample.url, sample.path, sample.span) for sample in found if isinstance(sample, SampleRef)] == [
        ("https://h/a.jpg?sig=x", "", None),
        ("", str(tmp_path / "shards/0.tar"), Span(512, 99)),
        ("s3://bucket/b.jpg", "", Span(0, 7)),
        ("", "/data/c.jpg", None),
        ("", "/data/d e.jpg", None),
        ("https://huggingface.co/datasets/me/set/resolve/main/a/e.jpg", "", None),
    ]
    assert [sample.id for sample in found][:3] == ["https://h/a.jpg#0", "shards/0.tar@512", "S3://bucket/b.jpg@0"]


def test_relative_paths_begin_at_the_base_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table(tmp_path / "a" / "t[1].csv", {"path": ["x.jpg"]})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLACE", "a")
    for path, source, folder in (
        ("a/t[1].csv", {}, tmp_path / "a"),
        ("$PLACE/t*.csv", {"root": "photos"}, tmp_path / "photos"),
        (f"file://{tmp_path}/a", {"root": "~"}, Path.home()),
    ):
        assert one(table_config(path, **source)).path == str(folder / "x.jpg")
    config = table_config("t[[]1].csv", root=".", top={"base_folder": str(tmp_path / "a")})
    assert one(config).path == str(tmp_path / "a" / "x.jpg")


def test_bad_cells_are_skips(tmp_path: Path) -> None:
    image = pa.array(
        [None, {"bytes": b"", "path": "a"}, {"bytes": None, "path": None}, {"bytes": None, "path": "ftp://h/b.jpg"}]
    )
    found = samples_of(table_config(write_table(tmp_path / "t.parquet", pa.table({"image": image}))))
    assert [(each.index, each.reason) for each in found if isinstance(each, Skipped)] == [
        (0, "no-image"),
        (1, "empty"),
        (2, "no-image"),
        (3, "bad-url"),
    ]


def test_no_message_says_the_login_of_an_address(tmp_path: Path) -> None:
    address = "https://name:secret@host/a#1.jpg?sig=secret"
    table = write_table(tmp_path / "t.jsonl", {"url": [address, address], "mask": ["https://host/m.png", "ftp://m"]})
    sample, skipped = samples_of(table_config(table, masks={"m": "mask"}))
    assert isinstance(skipped, Skipped)
    assert sample.where == skipped.where == "https://host/a#1.jpg"


def test_a_column_that_is_missing_or_of_another_type_is_a_config_error(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.parquet", {"picture_url": ["a"], "width": ["wide"]})
    for source, words in (
        ({}, "no column of a usual name for images"),
        ({"image": "url"}, "'url'"),
        ({"image": "picture_url", "masks": {"m": "mask"}}, "'mask'"),
        ({"image": "picture_url", "attributes": ["tags"]}, "'tags'"),
        ({"image": "picture_url", "width": "width"}, "has the type string"),
        ({"image": "picture_url", "filter": "height > 3"}, "'height'"),
        ({"image": "picture_url", "filter": "width > 3"}, "'width' has the type string"),
    ):
        with pytest.raises(ConfigError) as caught:
            samples_of(table_config(table, **source))
        assert words in str(caught.value)
        assert "picture_url" in str(caught.value) or "type" in str(caught.value)
    with pytest.raises(ConfigError, match="must hold bytes"):
        samples_of(table_config(write_table(tmp_path / "n.parquet", {"image": [1]}), image="image"))


def test_what_is_no_table_is_a_source_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "b.jsonl").write_text('{"path": ')
    (tmp_path / "c.arrow").write_bytes(b"x" * 100)
    for name in ("empty", "a.parquet", "b.jsonl", "c.arrow", "gone.csv", "*.tsv", "photo.jpg"):
        with pytest.raises(SourceError, match=r"check source_config\.path"):
            samples_of(table_config(tmp_path / name))
