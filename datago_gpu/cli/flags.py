"""The flags that stand for settings, made from the settings themselves, so that none is ever missing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
import msgspec

from datago_gpu.config import (
    DataroomSource,
    DecodeConfig,
    FileSource,
    HttpConfig,
    ImageConfig,
    LoaderConfig,
    WebDatasetSource,
)

__all__ = ["SECTIONS", "given_config", "setting_flags"]

SECTIONS: list[tuple[str, type[msgspec.Struct]]] = [
    ("", LoaderConfig),
    ("image_config", ImageConfig),
    ("decode_config", DecodeConfig),
    ("http_config", HttpConfig),
    ("source_config", FileSource),
    ("source_config", DataroomSource),
    ("source_config", WebDatasetSource),
]
NOT_FLAGS = {
    "source_config",
    "image_config",
    "http_config",
    "decode_config",
    "api_key",
    "auth_token",
    "storage_options",
}
"""A key on a command line is seen by every user of the machine: it comes by the environment or the JSON file."""


class Setting(click.Option):
    """A flag for one setting; `path` says where it stands in the config."""

    def __init__(self, name: str, path: tuple[str, str], field: msgspec.structs.FieldInfo, help_: str) -> None:
        flag = "--" + name.replace("_", "-")
        if field.type is bool:
            super().__init__([f"{flag}/--no-{flag[2:]}"], default=None, help=help_)
        else:
            super().__init__([flag], default=None, metavar="VALUE", help=help_)
        self.path, self._type = path, field.type

    def value(self, given: str | bool) -> Any:
        """What the words of the command line mean, by the type of the setting. A config refuses what means nothing."""
        return given if isinstance(given, bool) else _value(given, list(_members(self._type)))


def setting_flags() -> list[click.Parameter]:
    """A flag for each setting, for `click.command(params=...)`."""
    made: dict[str, Setting] = {}
    for section, kind in SECTIONS:
        described = _described(kind)
        for field in msgspec.structs.fields(kind):
            name = field.name
            if name in NOT_FLAGS or (name in made and made[name].path[0] == section):
                continue
            if name in made:
                name = f"{section.removesuffix('_config')}_{name}"
            made.setdefault(name, Setting(name, (section, field.name), field, described.get(field.name, "")))
    return list(made.values())


def given_config(ctx: click.Context, file: Path | None) -> dict[str, Any]:
    """The settings of a JSON file and of the flags; flags win."""
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
        config["source_type"] = "file" if "root_path" in source else "webdataset" if "url" in source else "db"
    config.setdefault("source_config", {})
    return config


def _described(kind: type[msgspec.Struct]) -> dict[str, str]:
    """Setting -> its text, from the class's own documentation."""
    texts: dict[str, str] = {}
    names: list[str] = []
    for line in (kind.__doc__ or "").partition("Attributes:")[2].splitlines():
        head, colon, text = line.strip().partition(": ")
        heads = head.split(", ")
        if colon and line.startswith(" " * 8) and line[8] != " " and all(map(str.isidentifier, heads)):
            names = heads
            texts |= dict.fromkeys(names, text)
        elif line.strip():
            texts |= {name: f"{texts[name]} {line.strip()}" for name in names}
    return texts


def _members(wanted: Any) -> Iterator[Any]:
    """The types, and the words, that a setting takes."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin is Annotated:
        yield from _members(arguments[0])
    elif origin in (Union, UnionType):
        for each in arguments:
            yield from _members(each)
    elif origin is Literal:
        yield from arguments
    else:
        yield origin or wanted


def _value(text: str, members: list[Any]) -> Any:
    """Text where the setting takes any text; else one of its words, or numbers and lists as JSON has them."""
    if str in members or text in members:
        return text
    if NoneType in members and text.lower() in ("null", "none"):
        return None
    listed = tuple in members and not text.startswith("[")
    try:
        return json.loads(f"[{text}]" if listed else text)
    except (ValueError, RecursionError):
        return text
