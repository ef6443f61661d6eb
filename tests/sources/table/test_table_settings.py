"""Settings of tables: forms of columns, what a state holds, secrets, and the package that is missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from datago_gpu import ConfigError, LoaderConfig, SourceError, TableSource, UserSource
from datago_gpu.feeder.wire import Resume
from datago_gpu.loader.state import resume_from, state_of
from datago_gpu.sources.authorization import headers_by_origin
from datago_gpu.sources.reference import ListingDigest, Position
from tests.support.tables import samples_of, table_config, write_table

RESUME = Resume(Position(1, 8), [(3, 4)], 22, listed=ListingDigest(9, "00", whole=True))


@pytest.mark.parametrize("masks", [{"m": "m", "n": "column 2"}, ["m", "n=column 2"], "m,n=column 2"])
def test_columns_of_parts_are_a_dict_or_names(masks: Any) -> None:
    source = TableSource(path="/a.parquet", masks=masks, latents="z", optional="m,z")
    assert source.part_columns == {"m": "m", "n": "column 2", "z": "z"}
    assert source.parts == {"m": "mask", "n": "mask", "z": "latent"}
    assert source.optional_parts == {"m": "mask", "z": "latent"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"path": " "}, "path is empty"),
        ({"masks": "m", "latents": {"m": "z"}}, "'m' occurs twice"),
        ({"optional": "m"}, "optional names 'm'"),
        ({"masks": 3}, "masks must be a dict of texts or text or a list of texts, got 3"),
        ({"masks": {"a": 1}}, "masks must be"),
        ({"filter": "width >"}, "filter: it cannot be read"),
        ({"auth_token": "a b"}, "not allowed in a token"),
        ({"storage_options": {"endpoint": "localhost"}}, "endpoint must begin with"),
        ({"shuffle_buffer": 0}, "shuffle_buffer must be a whole number of at least 1"),
        ({"pathh": "x"}, "did you mean source_config.path?"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LoaderConfig.load({"source_type": "table", "source_config": {"path": "/a.parquet", **settings}})
    assert words in str(caught.value)


@pytest.mark.parametrize("shuffled", [False, True])
def test_which_settings_a_state_is_held_to(shuffled: bool) -> None:
    base = {"random_sampling": shuffled, "world_size": 2, "rank": 0, "masks": "m", "root": "/r"}
    state = state_of(LoaderConfig.load(table_config("/a.parquet", **base)), RESUME)
    state = json.loads(json.dumps(state))
    other: dict[str, Any] = {
        "path": "/b.parquet", "image": "x", "id": "x", "width": "x", "height": "x", "label": "x", "attributes": "x",
        "masks": "n", "additional_images": "n", "latents": "n", "optional": "m", "root": "/x", "auth_token": "x",
        "storage_options": {"a": "b"}, "shuffle_buffer": 7, "rank_split": "listed", "filter": "a > 3",
        "random_sampling": not shuffled, "min_short_edge": 7, "where": "a > 3", "classes": ["x"],
    }  # fmt: skip
    assert other.keys() == {*TableSource.__struct_fields__} - {"rank", "world_size"}
    in_a_shuffle = {"image", "masks", "additional_images", "latents", "shuffle_buffer", "rank_split"}
    refused = {"filter", "random_sampling", *(in_a_shuffle if shuffled else ())}
    for name, value in other.items():
        config = LoaderConfig.load(table_config(**{"path": "/a.parquet", **base, name: value}))
        if name not in refused:
            assert resume_from(config, state) == RESUME, name
            continue
        with pytest.raises(ConfigError, match=rf"source_config\.{name} is "):
            resume_from(config, state)


def test_no_secret_is_shown() -> None:
    path = "https://me:pa55word@h/a.parquet?sig=pa55word::s3://b/c.parquet"
    config = LoaderConfig.load(
        table_config(path, auth_token="pa55word", storage_options={"key": "pa55word"}, root="http://h/?k=pa55word")
    )
    for shown in (repr(config), repr(config.source_config), json.dumps(state_of(config, RESUME))):
        assert "pa55word" not in shown
        assert "a.parquet" in shown
    assert "pa55word" not in config.redacted("cannot read https://me:pa55word@h")
    with pytest.raises(ConfigError) as caught:
        LoaderConfig.load({"source_type": "table", "source_config": {"path": ["https://me:pa55word@h", 3]}})
    assert "pa55word" not in str(caught.value)


def test_which_headers_go_to_which_origin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Those of Hugging Face also where a local table, such as an index, names files there."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example.org/")
    of = "https://me:pw@h/a.parquet::hf://datasets/a/b/c.parquet::/d.parquet"
    login = {"https://h": {"Authorization": "Basic bWU6cHc="}}
    assert headers_by_origin(TableSource(path=of)) == login
    given = {"Authorization": "Bearer t0ken"}
    token = {"https://h": given, "https://hub.example.org": given, "http://r:8": given}
    assert headers_by_origin(TableSource(path=of, auth_token="t0ken", root="http://r:8/x")) == token
    monkeypatch.setenv("HF_TOKEN", "hf_1")
    of_hub = {"https://hub.example.org": {"Authorization": "Bearer hf_1"}}
    assert headers_by_origin(TableSource(path="/index.arrow")) == of_hub
    assert headers_by_origin(UserSource()) == of_hub
    assert headers_by_origin(TableSource(path=of)) == login | of_hub
    monkeypatch.setenv("HF_ENDPOINT", "hub.example.org")
    with pytest.raises(ConfigError, match="HF_ENDPOINT"):
        headers_by_origin(TableSource(path=of))
    with pytest.raises(SourceError, match="port"):
        headers_by_origin(TableSource(path="http://h:99999/a.parquet", auth_token="t"))


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = write_table(tmp_path / "t.csv", {"path": ["a"]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'datago_gpu\[table\]'"):
        samples_of(table_config(table))


def test_settings_survive_the_way_to_the_feeder() -> None:
    config = LoaderConfig.load(table_config(["/a.parquet", "b.csv"], masks={"m": "x"}, filter="a in (1, 2)"))
    assert LoaderConfig.load(msgspec.to_builtins(config)) == config
