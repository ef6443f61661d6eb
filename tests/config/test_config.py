"""Settings that cannot be wrong: what is refused, with which words, and that a key is shown nowhere."""

from __future__ import annotations

import json
import math
import traceback
from collections import UserList
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.pretty import pretty_repr

from datago_gpu.config import (
    CacheConfig,
    DataroomSource,
    DecodeConfig,
    FileSource,
    HttpConfig,
    ImageConfig,
    LoaderConfig,
    WebDatasetSource,
)
from datago_gpu.errors import ConfigError
from datago_gpu.sources.dataroom.api import api_address

KEY = "5ecret5ecret5ecret5ecret5ecret5ecret5ecr"
FILES: dict[str, Any] = {"source_type": "file", "source_config": {"root_path": "/images"}}
DATABASE: dict[str, Any] = {"source_type": "db", "source_config": {"sources": "a,b", "api_key": KEY}}


def files(**more: Any) -> dict[str, Any]:
    return {**FILES, **more}


def database(**source: Any) -> dict[str, Any]:
    return {"source_type": "db", "source_config": source}


def test_a_dict_json_text_bytes_a_path_and_a_record_mean_the_same(tmp_path: Path) -> None:
    settings = files(image_config={"crop_and_resize": True, "mean": [0.5, 0.5, 0.5], "dtype": "float32"}, limit=10)
    text = json.dumps(settings)
    path = tmp_path / "config.json"
    path.write_text(text)
    config = LoaderConfig.load(settings)
    assert LoaderConfig.load(text) == LoaderConfig.load(text.encode()) == LoaderConfig.load(path) == config
    assert LoaderConfig.load(config) is config
    assert config == LoaderConfig(
        source_type="file",
        source_config=FileSource(root_path="/images"),
        image_config=ImageConfig(crop_and_resize=True, mean=(0.5, 0.5, 0.5), dtype="float32"),
        limit=10,
    )


def test_records_may_stand_inside_a_dict() -> None:
    config = LoaderConfig.load({"source_type": "file", "source_config": FileSource(root_path="/images")})
    assert config == LoaderConfig.load(FILES)


def test_a_section_of_a_record_may_be_a_dict() -> None:
    config = LoaderConfig(
        source_type="file",
        source_config={"root_path": "/images"},  # type: ignore[arg-type]
        image_config={"layout": "CHW"},  # type: ignore[arg-type]
        http_config=None,  # type: ignore[arg-type]
    )
    assert config == LoaderConfig.load(files(image_config={"layout": "CHW"}))


class Mine(Mapping[str, Any]):
    """A config of another library's, which is no dict."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def __getitem__(self, key: str) -> Any:
        value = self._values[key]
        return Mine(value) if isinstance(value, dict) else UserList(value) if isinstance(value, list) else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class Layout(StrEnum):
    CHW = "CHW"


def test_values_of_other_types_stand_for_what_they_mean(tmp_path: Path) -> None:
    given = Mine(
        {
            "source_type": "file",
            "source_config": {"root_path": tmp_path, "storage_options": {"region": np.str_("x")}, "rank": np.uint8(1)},
            "image_config": {
                "layout": Layout.CHW,
                "dtype": "float32",
                "mean": np.array([0.5, 0.25, 0]),
                "std": [1, 1, 1],
            },
            "decode_config": {"hw_decoder_load": np.float32(0.5), "draft": np.bool_(False)},
            "batch_size": np.int64(4),
            "skipped_file": tmp_path / "skipped.jsonl",
        }
    )
    given._values["source_config"]["world_size"] = 2
    config = LoaderConfig.load(given)
    assert config == LoaderConfig.load(
        {
            "source_type": "file",
            "source_config": {
                "root_path": str(tmp_path), "storage_options": {"region": "x"}, "rank": 1, "world_size": 2,
            },
            "image_config": {"layout": "CHW", "dtype": "float32", "mean": [0.5, 0.25, 0.0], "std": [1.0, 1.0, 1.0]},
            "decode_config": {"hw_decoder_load": 0.5, "draft": False},
            "batch_size": 4,
            "skipped_file": str(tmp_path / "skipped.jsonl"),
        }
    )  # fmt: skip
    assert LoaderConfig.load(msgspec.json.encode(config)) == config
    assert FileSource(root_path=tmp_path) == FileSource(root_path=str(tmp_path))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [list, tuple, set, UserList])
def test_a_list_of_names_is_comma_separated_text(kind: Callable[[list[str]], Any]) -> None:
    config = LoaderConfig.load(database(sources=kind(["b", "a"]), has_masks=kind(["fg"]), tags=kind([])))
    assert isinstance(config.source_config, DataroomSource)
    assert sorted(config.source_config.sources.split(",")) == ["a", "b"]
    assert (config.source_config.has_masks, config.source_config.tags) == ("fg", "")
    assert DataroomSource(created_after=date(2024, 1, 31)).created_after == "2024-01-31"  # type: ignore[arg-type]


def test_lists_of_shards_and_of_their_parts() -> None:
    source = {"url": ["/a/{0..3}.tar", Path("/b.tar")], "masks": ["mask.png"], "latents": ["a.npy", "b.npy"]}
    config = LoaderConfig.load({"source_type": "webdataset", "source_config": source}).source_config
    assert isinstance(config, WebDatasetSource)
    assert (config.url, config.masks, config.latents) == ("/a/{0..3}.tar::/b.tar", "mask.png", "a.npy,b.npy")


def test_a_list_of_addresses_that_is_none_shows_no_password() -> None:
    for url in (["https://me:pa55word@host/a.tar", 3], {"https://me:pa55word@host/a.tar": 1}):
        with pytest.raises(ConfigError) as caught:
            LoaderConfig.load({"source_type": "webdataset", "source_config": {"url": url}})
        assert "pa55word" not in str(caught.value)


def test_datago_s_own_configuration_is_understood() -> None:
    config = LoaderConfig.load(
        {
            "source_config": {"sources": "SOURCE", "page_size": 500, "require_images": True},
            "image_config": {
                "crop_and_resize": True,
                "default_image_size": 1024,
                "downsampling_ratio": 32,
                "min_aspect_ratio": 0.5,
                "max_aspect_ratio": 2.0,
                "image_to_rgb8": True,
            },
            "limit": 200,
            "samples_buffer_size": 64,
            "prefetch_buffer_size": 128,
        }
    )
    assert isinstance(config.source_config, DataroomSource)
    assert config.source_type == "db"


REFUSED: list[tuple[Any, str]] = [
    (files(btach_size=1), "unknown key btach_size; did you mean batch_size?"),
    (files(zzz=1), "unknown key zzz; the known keys are source_type, source_config, "),
    ({7: 1}, "unknown key 7; the known keys are"),
    (files(source_config={"rootpath": "x"}), "unknown key source_config.rootpath; did you mean source_config.root_pa"),
    (files(image_config={"default_size": 1}), "unknown key image_config.default_size; did you mean image_config.def"),
    (files(http_config={"retries": 1}), "unknown key http_config.retries"),
    (files(decode_config={"thread": 1}), "unknown key decode_config.thread; did you mean decode_config.threads?"),
    (files(backend="dali"), "unknown key backend; it is an argument, not a setting: Loader(config, backend=...)"),
    (files(decode_config={"device": "cpu"}), "unknown key decode_config.device; it is an argument, not a setting: Lo"),
    (files(default_image_size=224), "unknown key default_image_size; it belongs in image_config"),
    (files(image_config={"batch_size": 8}), "unknown key image_config.batch_size; batch_size belongs at the top"),
    (files(page_size=10), "unknown key page_size; it belongs in the source_config of source_type 'db'"),
    (files(shuffle=True), "unknown key shuffle; here, this is source_config.random_sampling"),
    (
        files(source_config={"root_path": "x", "label": "folder"}),
        (
            "unknown key source_config.label; it belongs in the source_config of source_type 'db' or 'webdataset' or "
            "'table'; did you mean source_config.labels?"
        ),
    ),
    (files(rank=1), "unknown key rank; it belongs in the source_config of source_type 'file' or 'd"),
    (files(source_config={"root_path": "x", "page_size": 1}), "unknown key source_config.page_size; it belongs in the"),
    ({}, "source_config is missing: source_type 'db' needs it"),
    ({"source_type": "file", "source_config": None}, "source_config is missing: source_type 'file' needs it"),
    ({"source_type": "file", "source_config": {}}, "source_config.root_path is missing"),
    (files(source_type="tar"), "source_type must be 'db', 'file', 'webdataset'"),
    (files(source_type=["file"]), "source_type must be 'db', 'file', 'webdataset'"),
    (files(source_config=[1]), "source_config must be a dict or FileSource, got list"),
    (files(image_config="big"), "image_config must be a dict or ImageConfig, got str"),
    (files(source_config={"root_path": 3}), "source_config.root_path must be text, got 3"),
    (files(source_config={"root_path": ""}), "source_config.root_path is empty: set it to a folder of images"),
    (
        files(source_config={"root_path": "/x\udcff"}),
        "source_config.root_path must be UTF-8 text (if the name of a folder",
    ),
    (files(source_config={"root_path": ["/x"]}), "source_config.root_path must be text, got ['/x']"),
    (files(source_config={"root_path": "/x", "a\udcff": 1}), "unknown key source_config.'a\\udcff'; "),
    (
        files(source_config={"root_path": "s3://x", "storage_options": {"key": "\udcff"}}),
        "source_config.storage_options must be UTF-8 text, got ***",
    ),
    (
        files(source_config={"root_path": "s3://x", "storage_options": {"\udcff": "a"}}),
        "source_config.storage_options ",
    ),
    ('{"source_type": "\udcff"}', "the config is not UTF-8 text"),
    (
        files(source_config={"root_path": "/x", "rank": -1}),
        "source_config.rank must be a whole number of at least 0 or None, got -1",
    ),
    (files(source_config={"root_path": "/x", "rank": 2, "world_size": 2}), "rank (2) must be below world_size (2)"),
    (files(source_config={"root_path": "/x", "rank": 1}), "rank (1) must be below world_size (1); ranks count from 0"),
    (
        files(source_config={"root_path": "/x", "world_size": 0}),
        "source_config.world_size must be a whole number of at least 1 or None, got 0",
    ),
    (files(batch_size=0), "batch_size must be a whole number from 1 to 4096, got 0"),
    (files(batch_size=4097), "batch_size must be a whole number from 1 to 4096, got 4097"),
    (files(batch_size="8"), "batch_size must be a whole number from 1 to 4096, got '8'"),
    (files(batch_size=True), "batch_size must be a whole number from 1 to 4096, got True"),
    (files(limit=0), "limit must be a whole number of at least 1 or None, got 0"),
    (files(epochs=0), "epochs must be a whole number of at least 1 or None, got 0"),
    (files(seed=-1), "seed must be a whole number of at least 0, got -1"),
    (files(seed=2**70), f"seed must be a whole number of at least 0, got {2**70}"),
    (
        files(max_failures=1.5),
        "max_failures must be a whole number of at least 0, a number of at least 0 and below 1 or None, got 1.5",
    ),
    (
        files(max_failures=-1),
        "max_failures must be a whole number of at least 0, a number of at least 0 and below 1 or None, got -1",
    ),
    (files(ordered="yes"), "ordered must be true or false, got 'yes'"),
    (
        files(arena_mb=100),
        "arena_mb (100) must be at least twice http_config.max_payload_mb (64): raise arena_mb or lo",
    ),
    (files(http_config={"stall_timeout_s": 0}), "http_config.stall_timeout_s must be a number above 0, got 0"),
    (files(http_config={"max_tries": 0}), "http_config.max_tries must be a whole number of at least 1, got 0"),
    (files(http_config={"total_timeout_s": math.inf}), "http_config.total_timeout_s must be a finite number, got inf"),
    (
        files(cache_config={"path": "/cache", "size_gb": 1}),
        "cache_config keeps what is downloaded, but source_config.root_path is a local folder: leave out cache_config",
    ),
    (
        {**DATABASE, "cache_config": {"path": "/cache"}},
        "cache_config.size_gb is missing: set how many GiB the folder cache_config.path may take",
    ),
    (
        {**DATABASE, "cache_config": {"size_gb": 1}},
        "cache_config has no path: set cache_config.path to a folder, or leave cache_config out",
    ),
    (
        {**DATABASE, "cache_config": {"path": "/cache", "size_gb": 0}},
        "cache_config.size_gb must be a number above 0 and up to 1000000 or None, got 0",
    ),
    ({**DATABASE, "cache_config": {"folder": "/cache", "size_gb": 1}}, "unknown key cache_config.folder; "),
    (
        files(decode_config={"hw_decoder_load": 1.5}),
        "decode_config.hw_decoder_load must be a number from 0 to 1 or None, got 1.5",
    ),
    (
        files(image_config={"crop": "random"}),
        "image_config.crop 'random' needs crop_and_resize: set crop_and_resize to",
    ),
    (
        files(image_config={"crop": "center"}),
        "image_config.crop must be 'centre', 'random' or 'random_resized', got 'ce",
    ),
    (
        files(image_config={"crop_and_resize": True, "crop": "random_resized", "crop_scale": [0, 1]}),
        "image_config.crop_scale must be a list of 2 numbers above 0 and up to 1, got [0",
    ),
    (
        files(image_config={"crop_and_resize": True, "crop": "random_resized", "crop_scale": [0.5, 1.5]}),
        "image_config.crop_scale must be a list of 2 numbers above 0 and up to 1, got [0",
    ),
    (
        files(image_config={"crop_and_resize": True, "crop": "random_resized", "crop_aspect": [0, 1]}),
        "image_config.crop_aspect must be a list of 2 numbers from 0.001 to 1000, got [0, 1]",
    ),
    (
        files(image_config={"crop_and_resize": True, "crop": "random_resized", "crop_aspect": [2, 0.5]}),
        "image_config.crop_aspect must be the least and the largest value, got [2.0, 0.5]: swap them",
    ),
    (
        files(image_config={"crop_and_resize": True, "crop": "random", "crop_scale": [0.5, 1]}),
        "image_config.crop_scale and crop_aspect need crop 'random_resized', got 'random'",
    ),
    (files(image_config={"flip": 1.5}), "image_config.flip must be a number from 0 to 1, got 1.5"),
    (files(image_config={"flip": -0.1}), "image_config.flip must be a number from 0 to 1, got -0.1"),
    (files(image_config={"layout": "NHWC"}), "image_config.layout must be 'HWC' or 'CHW', got 'NHWC'"),
    (
        files(image_config={"default_image_size": 10**6}),
        "image_config.default_image_size must be a whole number from 1 to 65535",
    ),
    (
        files(image_config={"max_aspect_ratio": math.inf}),
        "image_config.max_aspect_ratio must be a finite number, got inf",
    ),
    (files(image_config={"max_aspect_ratio": math.nan}), "image_config.max_aspect_ratio"),
    (
        files(image_config={"min_aspect_ratio": 0}),
        "image_config.min_aspect_ratio must be a number from 0.001 to 1000, got 0",
    ),
    (
        files(image_config={"min_aspect_ratio": 3}),
        "image_config.min_aspect_ratio (3.0) is above max_aspect_ratio (2.0): swap them",
    ),
    (
        files(image_config={"crop_and_resize": True, "default_image_size": 16}),
        "image_config: no bucket of 16 px in steps of 32 has an aspect ratio in [0.5, 2.0]; widen the aspect range or",
    ),
    (
        files(image_config={"crop_and_resize": True, "resolutions": []}),
        "image_config.resolutions is empty: name at least one, or leave it out",
    ),
    (
        files(image_config={"crop_and_resize": True, "resolutions": [512, 0]}),
        "image_config.resolutions must be a list of whole numbers from 1 to 65535 or None, got [512, 0",
    ),
    (
        files(image_config={"crop_and_resize": True, "resolutions": [512, 512]}),
        "image_config.resolutions: 512 occurs twice",
    ),
    (
        files(image_config={"crop_and_resize": True, "resolutions": [512], "default_image_size": 256}),
        "image_config.resolutions replaces default_image_size, but default_image_size is set to 256: leave one of the",
    ),
    (files(image_config={"resolutions": [512]}), "image_config.resolutions needs buckets: set crop_and_resize to true"),
    (
        files(image_config={"crop_and_resize": True, "upscale": False, "crop": "random_resized"}),
        "image_config.crop 'random_resized' draws regions that have to be enlarged, which upscale false forbids: set c",
    ),
    (files(image_config={"upscale": False}), "image_config.upscale false needs buckets: set crop_and_resize to true"),
    (
        files(image_config={"crop_and_resize": True, "resolutions": [512, 16]}),
        "image_config: no bucket of 16 px in steps of 32 has an aspect ratio in [0.5, 2.0]",
    ),
    (
        files(image_config={"crop_and_resize": True, "buckets": [[512, 512], [500, 360]]}),
        "image_config.buckets: the sides of [500, 360] are not multiples of downsampling_ratio (32): set",
    ),
    (
        files(image_config={"crop_and_resize": True, "buckets": [[512]]}),
        "image_config.buckets must be a list of pairs of numbers, such as [[512, 512], [448, 576]] or None, got",
    ),
    (
        files(image_config={"crop_and_resize": True, "buckets": [[512, 512], [512, 512]]}),
        "image_config.buckets: [512, 512] occurs twice",
    ),
    (
        files(image_config={"crop_and_resize": True, "buckets": [[512, 512]], "resolutions": [512]}),
        "image_config.resolutions and buckets both say what the buckets are: leave one of the two out",
    ),
    (
        files(batch_pixels=1000, batch_size=4, image_config={"crop_and_resize": True}),
        "batch_pixels (1000) and batch_size (4) both say how many samples a batch has: leave one of the two out",
    ),
    (
        files(batch_pixels=1000),
        "batch_pixels counts samples by the bucket of a batch, and with image_config.crop_and_re",
    ),
    (
        files(batch_pixels=1000, image_config={"crop_and_resize": True, "mixed_buckets": True}),
        "batch_pixels counts samples by the bucket of a batch, and with image_config.mixed_buckets true a batch",
    ),
    (files(batch_pixels=0), "batch_pixels must be a whole number of at least 1 or None, got 0"),
    (
        {"source_type": "file", "source_config": {"root_path": "x", "min_short_edge": -1}},
        "source_config.min_short_edge must be a whole number of at least 0, got -1",
    ),
    (
        files(image_config={"mean": [0.5, 0.5, 0.5]}),
        "image_config.mean and std need dtype 'float16', 'bfloat16' or 'float32', got 'uint8'",
    ),
    (files(image_config={"mean": [1, 2]}), "image_config.mean must be a list of 3 numbers or None, got [1, 2]"),
    (
        files(image_config={"mean": [127, 127, 127], "dtype": "float32"}),
        "image_config.mean must be in units of [0, 1], got (127.0, 127.0, 127.0): divide by 255",
    ),
    (
        files(image_config={"std": [0, 1, 1], "dtype": "float32"}),
        "image_config.std must be above 0, in units of [0, 1], got (0.0, 1.0, 1.0)",
    ),
    (database(duplicate_state=3), "source_config.duplicate_state must be -1 to 2 or 'unprocessed', got 3"),
    (database(api_url="dataroom.local"), "source_config.api_url must begin with http:// or https://, got 'dataroom.lo"),
    (
        database(duplicate_state="twice"),
        "source_config.duplicate_state must be a whole number or 'unprocessed', got 't",
    ),
    (database(embedding_empty=True), "source_config.embedding_empty must be '', 'true' or 'false', got True"),
    (database(tags=["a,b", "c"]), "source_config.tags: 'a,b' contains a comma, and commas separate names"),
    (database(tags=["a", 3]), "source_config.tags must be text or a list of texts, got ['a', 3]"),
    (database(tags_empty=["true"]), "source_config.tags_empty must be text, got ['true']"),
    (database(tags_empty="maybe"), "source_config.tags_empty must be 'true' or 'false', got 'maybe'"),
    (database(sources=3), "source_config.sources must be text or a list of texts, got 3"),
    (database(duplicate_state="x"), "source_config.duplicate_state must be a whole number or 'unprocessed', got 'x'"),
    (database(random_method="x"), "source_config.random_method must be 'shuffle' or 'server', got 'x'"),
    (
        files(image_config={"dtype": "float64"}),
        "image_config.dtype must be 'uint8', 'float16', 'bfloat16' or 'float32', got 'float64'",
    ),
    (database(page_size=2001), "source_config.page_size must be a whole number from 1 to 2000, got 2001"),
    (
        database(random_sampling=True, random_method="server"),
        "source_config.random_method 'server' draws samples without end: set limit",
    ),
    (
        {"source_type": "file", "source_config": DataroomSource()},
        "source_type 'file' needs a FileSource, got a DataroomSource",
    ),
    ([1], "the config must be a LoaderConfig, a dict, JSON text or the path of a JSON file, got list"),
    ("[1]", "the config must be a LoaderConfig, a dict, JSON text or the path of a JSON file, got list"),
    (3, "the config must be a LoaderConfig, a dict, JSON text or the path of a JSON file, got int"),
    ("{", "the config, line 1: not JSON: Expecting property name enclosed in double quotes"),
    (b"\xff", "the config, line 1: the text is not UTF-8: save it as UTF-8"),
    (Path("/no/such/config.json"), "cannot read the config '/no/such/config.json': No such file or directory"),
]


@pytest.mark.parametrize(("given", "words"), REFUSED, ids=[words[:60] for _, words in REFUSED])
def test_what_cannot_work_is_a_config_error_naming_key_and_value(given: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LoaderConfig.load(given)
    assert str(caught.value).startswith(words)


def test_a_constructor_is_as_strict_as_json() -> None:
    for wrong, words in [
        (lambda: HttpConfig(max_tries=0), "http_config.max_tries must be a whole number of at least 1, got 0"),
        (
            lambda: DecodeConfig(threads=1.5),
            "decode_config.threads must be a whole number of at least 1 or None, got 1.5",
        ),  # type: ignore[arg-type]
        (
            lambda: ImageConfig(dtype="int8"),
            "image_config.dtype must be 'uint8', 'float16', 'bfloat16' or 'float32', got 'int8'",
        ),  # type: ignore[arg-type]
        (
            lambda: LoaderConfig(source_config={"root_path": "/x"}),  # type: ignore[arg-type]
            "unknown key source_config.root_path; it belongs in the source_config of source_type 'file'",
        ),
        (
            lambda: LoaderConfig(source_config=DataroomSource(), image_config=3),  # type: ignore[arg-type]
            "image_config must be a dict or ImageConfig, got int",
        ),
    ]:
        with pytest.raises(ConfigError) as caught:
            wrong()
        assert str(caught.value).startswith(words)


@pytest.mark.parametrize(
    ("rank", "world_size", "expected"), [("", "", (0, 1)), ("3", "4", (3, 4)), ("0", "", (0, 1)), ("", "8", (0, 8))]
)
def test_rank_and_world_size_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, rank: str, world_size: str, expected: tuple[int, int]
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world_size)
    assert LoaderConfig.load(FILES).rank_and_world_size() == expected


def test_settings_go_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "not a number")
    config = LoaderConfig.load(files(source_config={"root_path": "/x", "rank": 0, "world_size": 2}))
    assert config.rank_and_world_size() == (0, 2)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("RANK", "one", "the environment variable RANK must be a whole number of at least 0, got 'one'"),
        ("RANK", "-1", "the environment variable RANK must be a whole number of at least 0, got '-1'"),
        ("WORLD_SIZE", "0", "the environment variable WORLD_SIZE must be a whole number of at least 1, got '0'"),
        ("RANK", "1", "rank (1) must be below world_size (1); ranks count from 0"),
    ],
)
def test_an_environment_that_makes_no_sense_is_a_config_error(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        LoaderConfig.load(FILES)
    assert str(caught.value) == words


def test_the_api_key_is_shown_in_no_text() -> None:
    config = LoaderConfig.load(DATABASE)
    for text in (repr(config), str(config), f"{config}", repr(config.source_config), pretty_repr(config)):
        assert KEY not in text
        assert "***" in text
    assert KEY in msgspec.json.encode(config).decode()  # but the feeder is told


@pytest.mark.parametrize(
    "wrong",
    [
        {"source_config": {"api_key": KEY, "page_size": "x"}},
        {"source_config": {"api_key": KEY, "nonsense": 1}},
        {"source_config": {"api_key": [KEY]}},
        {"source_config": {"api_key": KEY + "\udcff"}},
        {"source_config": json.dumps({"api_key": KEY})},
        {"source_config": [{"api_key": KEY}]},
        {"source_config": {"api_key": KEY}, "batch_size": 0},
        {"source_type": "file", "source_config": {"root_path": "/x", "api_key": KEY}},
        {"source_type": "file", "source_config": DataroomSource(api_key=KEY)},
    ],
    ids=str,
)
def test_the_api_key_is_in_no_error(wrong: dict[str, Any]) -> None:
    for given_as in (wrong, json.dumps(wrong) if "DataroomSource" not in repr(wrong) else wrong):
        with pytest.raises(ConfigError) as caught:
            LoaderConfig.load(given_as)
        assert "5ecret" not in "".join(traceback.format_exception(caught.value))


def test_settings_are_frozen_and_hashable() -> None:
    config = LoaderConfig.load(files(image_config={"std": [0.5, 0.5, 0.5], "dtype": "float16"}))
    with pytest.raises(AttributeError):
        config.batch_size = 3  # type: ignore[misc]
    with pytest.raises(AttributeError):
        config.source_config.rank = 3  # type: ignore[misc]
    assert hash(config) == hash(LoaderConfig.load(msgspec.to_builtins(config)))


def test_a_list_given_to_a_constructor_becomes_the_tuple_it_stands_for() -> None:
    config = ImageConfig(mean=[0, 0.5, 1], dtype="float32")  # type: ignore[arg-type]
    assert config.mean == (0.0, 0.5, 1.0)
    assert config == ImageConfig(mean=(0, 0.5, 1), dtype="float32")


def test_with_source_gives_a_copy_that_is_checked() -> None:
    config = LoaderConfig.load(FILES)
    assert config.with_source(rank=1, world_size=2).rank_and_world_size() == (1, 2)
    assert config.rank_and_world_size() == (0, 1)
    with pytest.raises(ConfigError, match="rank"):
        config.with_source(rank=2, world_size=2)


@given(
    st.builds(
        LoaderConfig,
        source_type=st.just("file"),
        source_config=st.builds(
            FileSource,
            root_path=st.text(st.characters(codec="utf-8"), min_size=1),
            random_sampling=st.booleans(),
            rank=st.integers(0, 3),
            world_size=st.integers(4, 2**40),
        ),
        image_config=st.builds(
            ImageConfig,
            default_image_size=st.integers(1, 65_535),
            min_aspect_ratio=st.floats(0.001, 1),
            max_aspect_ratio=st.floats(1, 1000),
            dtype=st.just("float16"),
            mean=st.none() | st.tuples(*[st.floats(-1, 1)] * 3),
        ),
        http_config=st.builds(HttpConfig, stall_timeout_s=st.floats(1e-6, 1e9)),
        batch_size=st.integers(1, 4096),
        limit=st.none() | st.integers(1, 2**63 - 1),
        epochs=st.none() | st.integers(1, 2**63 - 1),
        seed=st.integers(0, 2**63 - 1),
        max_failures=st.none() | st.integers(0, 10**9) | st.floats(0, 0.99),
    )
)
def test_settings_survive_the_way_to_the_feeder(config: LoaderConfig) -> None:
    assert LoaderConfig.load(msgspec.json.encode(config)) == config


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
)
"""Surrogates included."""


@given(ANYTHING)
def test_any_value_anywhere_is_accepted_or_a_config_error(value: Any) -> None:
    """Never another exception, so that a caller has one to catch; and what is accepted can be told to the feeder."""
    for name in LoaderConfig.__struct_fields__:
        accepted(files(**{name: value}))
    for section, kind in (("image_config", ImageConfig), ("http_config", HttpConfig), ("decode_config", DecodeConfig)):
        for name in kind.__struct_fields__:
            accepted(files(**{section: {name: value}}))
    for name in CacheConfig.__struct_fields__:
        accepted({**DATABASE, "cache_config": {"path": "/cache", "size_gb": 1, name: value}})
    for name in DataroomSource.__struct_fields__:
        accepted(database(**{name: value}))
    for name in WebDatasetSource.__struct_fields__:
        accepted({"source_type": "webdataset", "source_config": {"url": "/a.tar", name: value}})
    accepted(files(source_config={"root_path": "/x", "storage_options": {"a": value}}))


def accepted(given: dict[str, Any]) -> None:
    try:
        config = LoaderConfig.load(given)
    except ConfigError:
        return
    assert LoaderConfig.load(msgspec.json.encode(config)) == config


def test_only_filters_that_are_set_are_sent() -> None:
    assert DataroomSource().filters() == {}
    source = DataroomSource(
        sources="a,b", tags_ne="x", min_short_edge=300, max_aspect_ratio=1.5, duplicate_state=0, has_masks="fg"
    )
    assert source.filters() == {
        "sources": "a,b",
        "tags__ne": "x",
        "short_edge__gte": "300",
        "aspect_ratio__lte": "1.5",
        "has_masks": "fg",
    }
    assert DataroomSource(duplicate_state=-1).filters() == {}
    assert DataroomSource(duplicate_state=1).filters() == {"duplicate_state": "1"}
    assert DataroomSource(duplicate_state="unprocessed").filters() == {"duplicate_state": "None"}


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:abc/api/", "https://:443/api/", "http://[::1/api/", "http:///api/"]
)
def test_a_dataroom_address_without_a_host_or_a_port_is_named_as_such(address: str) -> None:
    with pytest.raises(
        ConfigError, match=r"(has a host that|has no host|has the port '\w+', but ports).*, got 'https?:"
    ):
        api_address(DataroomSource(api_url=address))
