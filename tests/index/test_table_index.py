"""An index of tables that name their images: it adds the sizes, which lockstep needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datago_gpu.errors import ConfigError
from tests.index.test_shard_index import samples, shard_config
from tests.support.indexes import HASTY, delivered, make, read_rows, reasons, usable
from tests.support.pictures import encode, oriented_jpeg, picture
from tests.support.servers import Answer, MisbehavingServer
from tests.support.shards import tar_bytes


def table(path: Path, **source: Any) -> dict[str, Any]:
    return {"source_type": "table", "source_config": {"path": str(path), **source}, "http_config": HASTY}


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_table_of_paths_and_addresses_gets_sizes(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(oriented_jpeg(picture(30, 40), 6))
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"")
    lines, out = tmp_path / "x.jsonl", tmp_path / "x.arrow"
    with MisbehavingServer() as server:
        far = server.script("/far.png", Answer(200, encode(picture(50, 60), "PNG"), {"ETag": '"1"'}, ranges=True))
        rows = [
            {"id": "near", "image": "photos/a.jpg", "caption": "first", "mask": "photos/a.jpg"},
            {"id": "bad", "image": "photos/bad.jpg", "caption": "second", "mask": far},
            {"id": "far", "image": far, "caption": "third", "mask": far},
            {"id": "none", "image": None, "caption": "fourth", "mask": far},
        ]
        write_lines(lines, rows)
        config = table(lines, masks="mask")
        make(config, out)
        assert usable(out) == delivered(config) == delivered(table(out)) == {"near": (30, 40), "far": (50, 60)}
        assert reasons(out) == {"bad": "empty", "none": "no-image"}
        first, _, third, _ = read_rows(out)
        assert (first["attributes"], third["attributes"]) == ('{"caption":"first"}', '{"caption":"third"}')
        assert [part["path"] or part["url"] for row in (first, third) for part in row["parts"]] == [
            str(tmp_path / "photos" / "a.jpg").removeprefix("/"), far]  # fmt: skip
        rows[0]["caption"] = "changed"
        write_lines(lines, rows)
        assert make(config, out, update=True).known == 2
    assert json.loads(read_rows(out)[0]["attributes"]) == {"caption": "changed"}


def test_a_path_or_an_address_that_is_none_costs_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens belong to origins: with a token, the origin of each address is asked for."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    lines, out = tmp_path / "x.jsonl", tmp_path / "x.arrow"
    (tmp_path / "a.png").write_bytes(encode(picture(10, 20), "PNG"))
    images = {"good": "a.png", "nul": "a\0.png", "host": "http://[::1/x.png", "port": "http://example.org:99999/x.png"}
    write_lines(lines, [{"id": name, "image": image} for name, image in images.items()])
    make(table(lines), out)
    assert usable(out) == {"good": (10, 20)}
    assert reasons(out) == {"nul": "bad-path", "host": "bad-url", "port": "bad-url"}


def test_an_index_of_an_index_has_the_same_places(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes(samples(0, 4)))
    make(shard_config(tmp_path / "a.tar", masks="mask.png"), tmp_path / "one.arrow")
    make(table(tmp_path / "one.arrow"), tmp_path / "two.arrow")
    one, two = read_rows(tmp_path / "one.arrow"), read_rows(tmp_path / "two.arrow")
    same = ("id", "offset", "length", "bytes", "width", "height", "format", "attributes", "source", "digest")
    assert [[row[name] for name in same] for row in one] == [[row[name] for name in same] for row in two]
    assert [row["parts"][0]["offset"] for row in one] == [row["parts"][0]["offset"] for row in two]


def test_a_table_that_holds_bytes_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"image": [encode(picture(10, 10), "PNG")]}), tmp_path / "x.parquet")
    with pytest.raises(ConfigError, match="holds the bytes of its images"):
        make(table(tmp_path / "x.parquet"), tmp_path / "x.arrow")
