"""Writes docs/settings.md, a table of all settings, from the docstrings of their records and from setting_examples.py.

`python -m tools.docs_site.settings` writes the page. tests/test_settings_page.py says when it is out of date.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from datago_gpu.cli.settings_help import setting_texts
from datago_gpu.config import (
    CacheConfig,
    DataroomSource,
    DecodeConfig,
    FileSource,
    HttpConfig,
    ImageConfig,
    LoaderConfig,
    MixPart,
    MixSource,
    TableSource,
    UserSource,
    WebDatasetSource,
)
from datago_gpu.config.settings import describe_type, fields_of
from datago_gpu.config.view_config import ViewConfig
from tools.docs_site.setting_examples import EXAMPLES, NEEDED

__all__ = ["PAGE", "SECTIONS", "page", "table"]

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"

SECTIONS: list[tuple[str, type[msgspec.Struct]]] = [
    ("Top level", LoaderConfig),
    ('`source_config` of "file"', FileSource),
    ('`source_config` of "db"', DataroomSource),
    ('`source_config` of "webdataset"', WebDatasetSource),
    ('`source_config` of "table"', TableSource),
    ('`source_config` of "rows"', UserSource),
    ('`source_config` of "mix"', MixSource),
    ('A source of a "mix"', MixPart),
    ("`image_config`", ImageConfig),
    ("A view of `image_config`", ViewConfig),
    ("`decode_config`", DecodeConfig),
    ("`http_config`", HttpConfig),
    ("`cache_config`", CacheConfig),
]
"""Heading and record of each table."""

_INTRODUCTIONS: dict[type[msgspec.Struct], str] = {
    DataroomSource: 'Several names are comma-separated text, or a list: `"a,b"` or `["a", "b"]`. '
    "[Dataroom](sources/dataroom.md) shows them in use.",
    TableSource: "[Tables](sources/tables.md) has more about columns, filters and the order.",
    UserSource: "Rows of your own need none of these settings, and no `source_type`: "
    "[A source of your own](sources/own-rows.md).",
    MixPart: "The entries of `sources`. Their `image_config` may have some settings: [Mixtures](sources/mixtures.md).",
    ViewConfig: "The entries of `views`: [Crops, flips and views](training/crops.md).",
    HttpConfig: "[Proxies](sources/proxies.md) has more about `trust_env` and `proxy`.",
    CacheConfig: "[A cache](sources/cache.md) says what is kept, and when.",
}
"""What stands between a heading and its table."""

_HEAD = """\
# Settings

Every setting with its type, its default, its meaning and an example: the keys of a config, section by section.

```python
from datago_gpu import Loader

config = {"source_type": "file", "source_config": {"root_path": "/data/photos"}, "batch_size": 4}
with Loader(config) as loader:
    loader.config.batch_size, loader.config.seed     # 4, 0: what is not set has its default
```

Settings are a `LoaderConfig`, a dict (or another mapping), JSON text, or the path of a JSON file:
`Loader("config.json")`. Files that end in `.yaml` or `.yml` are read if PyYAML is installed. Paths, numpy numbers and
arrays, and sections as dicts may replace the plain values. `datago-gpu bench` has a flag for each setting. The examples
are JSON.

`device` and `backend` are arguments, not settings: `Loader(config, device="cuda:1")`. A device is `"auto"` (also
`None`), `"cpu"`, `"cuda"`, `"cuda:1"`, the index of a GPU, or a `torch.device`.
"""

_TAIL = """\
**Read next:** [the records of settings](api/config.md) in Python, and [Doctor and preview](operations/doctor.md), which
check a config.
"""

_TYPES = {(ImageConfig, "views"): "list of dicts or None", (MixSource, "sources"): "list of dicts"}
"""Types that hold records."""


def page() -> str:
    """Returns the text of docs/settings.md."""
    return "\n".join([_HEAD, *(_section(*each) for each in SECTIONS), _TAIL])


def _section(heading: str, kind: type[msgspec.Struct]) -> str:
    paragraphs = [f"## {heading}", _INTRODUCTIONS.get(kind, ""), table(kind)]
    return "\n\n".join(each for each in paragraphs if each) + "\n"


def table(kind: type[msgspec.Struct]) -> str:
    """Returns the table of a record: one row for each setting, in the order of its docstring.

    Raises KeyError for a setting that has no example.
    """
    fields = {field.name: field for field in fields_of(kind)}
    head = ["| key | type | default | meaning | example |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*head, *(_row(kind, fields[name], text) for name, text in setting_texts(kind).items())])


def _row(kind: type[msgspec.Struct], field: msgspec.structs.FieldInfo, text: str) -> str:
    meaning = text[:1].upper() + text[1:]
    cells = [f"`{field.name}`", _type(kind, field), _default(field), meaning, _example(kind, field.name)]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _type(kind: type[msgspec.Struct], field: msgspec.structs.FieldInfo) -> str:
    """Returns what a setting accepts, in the words of the errors; the words that it accepts are JSON."""
    if _is_section(field):
        return "dict"
    text = _TYPES.get((kind, field.name)) or describe_type(field.type)
    words = re.sub(r"'([^']*)'", r'`"\1"`', text)
    return re.sub(r"^an? (?=whole|number|list|dict)", "", words)


def _is_section(field: msgspec.structs.FieldInfo) -> bool:
    return field.name.endswith("_config")


def _default(field: msgspec.structs.FieldInfo) -> str:
    """Returns the default as JSON; "" for a section, whose keys have defaults of their own."""
    if field.required:
        return "required"
    if field.default is None:
        return "none"
    return "" if _is_section(field) else f"`{_json(_plain_default(field))}`"


def _plain_default(field: msgspec.structs.FieldInfo) -> Any:
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    return [round(each, 4) for each in value] if isinstance(value, tuple) else value


def _example(kind: type[msgspec.Struct], name: str) -> str:
    """Returns the example of a setting, and what else it needs."""
    needed = ", ".join(_items(NEEDED.get(kind, {}).get(name, {})))
    return f"`{_json(EXAMPLES[kind][name])}`" + (f" with {needed}" if needed else "")


def _items(settings: dict[str, Any]) -> Iterator[str]:
    for name, value in settings.items():
        yield f"`{_json(name)}: {_json(value)}`"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    PAGE.write_text(page())
