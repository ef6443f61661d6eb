"""Makes the flags for settings from the settings' definitions, so that no flag is missing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
import msgspec

from datago_gpu.config import (
    CacheConfig,
    DataroomSource,
    DecodeConfig,
    FileSource,
    HttpConfig,
    ImageConfig,
    LoaderConfig,
    TableSource,
    WebDatasetSource,
)
from datago_gpu.config.settings import separator_of

__all__ = ["SECTIONS", "Setting", "load_config", "members", "setting_flags", "setting_of"]

SECTIONS: list[tuple[str, str, type[msgspec.Struct]]] = [
    ("Loader", "", LoaderConfig),
    ("A folder of images (source_config of source_type file)", "source_config", FileSource),
    ("A Dataroom (source_config of source_type db)", "source_config", DataroomSource),
    ("WebDataset shards (source_config of source_type webdataset)", "source_config", WebDatasetSource),
    ("Tables (source_config of source_type table)", "source_config", TableSource),
    ("Images (image_config)", "image_config", ImageConfig),
    ("Decoding (decode_config)", "decode_config", DecodeConfig),
    ("Requests (http_config)", "http_config", HttpConfig),
    ("Cache (cache_config)", "cache_config", CacheConfig),
]
"""Title, place in the config, and record."""
_BY_PLACE = sorted(((section, kind) for _, section, kind in SECTIONS), key=lambda each: each[0] == "source_config")
"""A source's setting whose name another section has is called `--source-NAME`."""
_TYPES = {"root_path": "file", "url": "webdataset", "path": "table"}
"""Setting that names a source -> source type."""
_NAMES = {
    ("image_config", "buckets"): "bucket_sizes",
    ("cache_config", "path"): "cache_path",
    ("cache_config", "size_gb"): "cache_size_gb",
    ("cache_config", "ignored_parameters"): "cache_ignored_parameters",
}
"""Flags of another name than their setting: `preview --buckets` shows what the buckets hold, `--path` names a table."""
NOT_FLAGS = {
    "source_config",
    "image_config",
    "http_config",
    "decode_config",
    "cache_config",
    "api_key",
    "auth_token",
    "storage_options",
    "proxy",
    "views",
}
"""No flag for keys: every user of the machine sees a command line. Keys come from the environment or the JSON file."""


class Setting(click.Option):
    """A flag for one setting; `path` says where it stands in the config, `wanted` is its type."""

    def __init__(self, name: str, path: tuple[str, str], field: msgspec.structs.FieldInfo) -> None:
        flag = "--" + name.replace("_", "-")
        super().__init__([f"{flag}/--no-{flag[2:]}" if field.type is bool else flag], default=None)
        self.path, self.wanted = path, field.type

    @property
    def separator(self) -> str | None:
        """The separator between several names, if the setting accepts several."""
        return separator_of(self.wanted)

    def value(self, given: str | bool) -> Any:
        """Converts the text of a command line to the setting's type. The config refuses invalid values."""
        return given if isinstance(given, bool) else _value(given, list(members(self.wanted)))


def setting_flags() -> list[click.Parameter]:
    """Returns a flag for each setting, for `click.command(params=...)`."""
    made: dict[str, Setting] = {}
    for section, kind in _BY_PLACE:
        for field in msgspec.structs.fields(kind):
            if field.name not in NOT_FLAGS and setting_of(made, section, field) is None:
                name = _NAMES.get((section, field.name), field.name)
                name = f"{section.removesuffix('_config')}_{name}" if name in made else name
                made[name] = Setting(name, (section, field.name), field)
    return list(made.values())


def setting_of(flags: Mapping[Any, Setting], section: str, field: msgspec.structs.FieldInfo) -> Setting | None:
    """Returns the flag that sets a field; None if there is none."""
    return next((flag for flag in flags.values() if flag.path == (section, field.name)), None)


def load_config(ctx: click.Context, file: Path | None) -> dict[str, Any]:
    """Merges the settings of a file and of the flags; flags win. Raises UsageError if neither says what to load."""
    config: dict[str, Any] = {}
    if file:
        config = msgspec.to_builtins(LoaderConfig.load(file))
    for option in ctx.command.params:
        if isinstance(option, Setting) and option.name and ctx.params[option.name] is not None:
            section, name = option.path
            place = config.setdefault(section, {}) if section else config
            place[name] = option.value(ctx.params[option.name])
    if "source_type" not in config:
        source = config.get("source_config", {})
        if not source and not os.environ.get("DATAROOM_API_URL"):
            raise click.UsageError(
                "no source is given: name a folder (--root-path ~/photos), shards (--url 'train-{000..127}.tar'), "
                "a table (--path train.parquet), a Dataroom (--api-url, or DATAROOM_API_URL), or a config file"
            )
        config["source_type"] = next((kind for key, kind in _TYPES.items() if key in source), "db")
    config.setdefault("source_config", {})
    return config


def members(wanted: Any) -> Iterator[Any]:
    """Yields the types and the literal words that a setting accepts."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin is Annotated:
        yield from members(arguments[0])
    elif origin in (Union, UnionType):
        for each in arguments:
            yield from members(each)
    elif origin is Literal:
        yield from arguments
    else:
        yield origin or wanted


def _value(text: str, members: list[Any]) -> Any:
    """Returns text if the setting accepts any text; else one of its words, or a number or list parsed as JSON."""
    if str in members or text in members:
        return text
    if NoneType in members and text.lower() in ("null", "none"):
        return None
    listed = tuple in members and not text.startswith("[")
    try:
        return json.loads(f"[{text}]" if listed else text)
    except (ValueError, RecursionError):
        return text
