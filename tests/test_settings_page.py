"""docs/settings.md has every setting, and each of its examples is one that the loader accepts."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from datago_gpu.cli.flags import SECTIONS as FLAGS
from datago_gpu.config import (
    SOURCES,
    CacheConfig,
    DataroomSource,
    DecodeConfig,
    HttpConfig,
    ImageConfig,
    LoaderConfig,
    MixPart,
    MixSource,
)
from datago_gpu.config.view_config import ViewConfig
from tools.docs_site.setting_examples import EXAMPLES, NEEDED
from tools.docs_site.settings import PAGE, SECTIONS, page

PLACES = {ImageConfig: "image_config", DecodeConfig: "decode_config", HttpConfig: "http_config",
          CacheConfig: "cache_config"}  # fmt: skip
KEYS = [(kind, field.name) for *_, kind in SECTIONS for field in msgspec.structs.fields(kind)]
NOT_FOR_A_MIX = ("where", "min_short_edge", "classes")
"""A mix refuses all values of these but their defaults."""


def config_with(kind: type[Any], settings: dict[str, Any]) -> dict[str, Any]:
    """A config in which a record of this kind has these settings, and what else it cannot do without."""
    if kind is LoaderConfig:
        return {"source_config": {}, **settings}
    if kind is ViewConfig:
        return config_with(ImageConfig, {"crop_and_resize": True, "views": [settings]})
    if kind is MixPart:
        part = {name: EXAMPLES[MixPart][name] for name in ("name", "source_type", "source_config")}
        return config_with(MixSource, {"sources": [{**part, **settings}]})
    if kind in PLACES:
        return {"source_config": {}, PLACES[kind]: settings}
    required = {each.name: EXAMPLES[kind][each.name] for each in msgspec.structs.fields(kind) if each.required}
    source_type = next(name for name, source in SOURCES.items() if source is kind)
    limit = {"limit": 1000} if kind is DataroomSource else {}  # draws of the server need an end
    return {"source_type": source_type, "source_config": required | settings, **limit}


def test_the_page_is_up_to_date() -> None:
    assert page() == PAGE.read_text(), "run: python -m tools.docs_site.settings"


def test_each_record_of_settings_has_a_table() -> None:
    tables = [kind for *_, kind in SECTIONS]
    assert len(set(tables)) == len(tables)
    assert set(tables) == {kind for *_, kind in FLAGS} | set(SOURCES.values()) | {MixPart, ViewConfig}


def test_each_key_has_an_example_and_a_row() -> None:
    missing = [f"{kind.__name__}.{name}" for kind, name in KEYS if name not in EXAMPLES[kind]]
    assert not missing, "add an example to tools/docs_site/setting_examples.py"
    unknown = [(kind.__name__, name) for kind in EXAMPLES for name in EXAMPLES[kind] if (kind, name) not in KEYS]
    assert not unknown
    assert page().count("\n| `") == len(KEYS)


@pytest.mark.parametrize("kind", [kind for *_, kind in SECTIONS], ids=lambda kind: kind.__name__)
def test_the_loader_accepts_each_example_and_it_changes_something(kind: type[Any]) -> None:
    for name, value in EXAMPLES[kind].items():
        needed = NEEDED.get(kind, {}).get(name, {})
        config = LoaderConfig.load(json.dumps(config_with(kind, {**needed, name: value})))
        if needed.keys() & {"source_type", "source_config", "path", "size_gb"}:  # these need each other
            continue
        other = LoaderConfig.load(config_with(kind, needed))
        required = any(each.name == name and each.required for each in msgspec.structs.fields(kind))
        default = kind is MixSource and name in NOT_FOR_A_MIX
        assert (config == other) == (required or default), name
