"""The base of all settings records: they are frozen, and checked when they are made."""

from __future__ import annotations

import datetime as dt
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import FieldInfo

from datago_gpu.config.local_paths import true_text
from datago_gpu.errors import ConfigError
from datago_gpu.redact import redacted, shown_address

__all__ = [
    "Count",
    "Kind",
    "Names",
    "Natural",
    "RankSplit",
    "Settings",
    "changed_settings",
    "describe_type",
    "fields_of",
    "json_value",
    "names_in",
    "printable_key",
    "printable_value",
    "separator_of",
    "without_secrets",
]

_LARGEST = 2**63 - 1
_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "None"}
_SEPARATORS = {",": "a comma, and commas", "\n": "a line break, and line breaks"}
"""Separators that no name may contain, in words."""
Count = Annotated[int, Meta(ge=1, le=_LARGEST)]
Natural = Annotated[int, Meta(ge=0, le=_LARGEST)]
Names = Annotated[str, Meta(extra={"separator": ","})]
"""Comma-separated text; a list of names becomes such a text."""
Kind = Literal["mask", "image", "latent"]
"""What a part of a sample, beside its image, is."""
RankSplit = Literal["shuffled", "listed"]
"""What the ranks share in a shuffle."""


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A record of settings. Wrong values raise ConfigError, in the constructor as in JSON."""

    place: ClassVar[str] = ""
    """The section of the config that holds the settings, for messages."""

    def __post_init__(self) -> None:
        for field in fields_of(type(self)):
            if getattr(self, field.name) is not field.default:
                self._check(field.name, field.type)
        problem = self._problem()
        if problem:
            raise ConfigError(problem)

    def __hash__(self) -> int:
        """Hashes all values, including dicts."""
        return hash(msgspec.json.encode(self))

    def _check(self, name: str, wanted: Any) -> None:
        """Converts the value to the field's form and checks it against the field's rules."""
        given = getattr(self, name)
        records = [kind for kind in (get_args(wanted) or (wanted,)) if isinstance(kind, type(Settings))]
        if records:
            value: Any = self._record(name, given, records)
        else:
            value = _join_names(f"{self.place}{name}", json_value(given), wanted)
            value = true_text(value) if isinstance(value, str) else value
            problem = _encoding_problem(value)
            if problem:
                hint = (
                    " (if the name of a folder is not UTF-8, use a symbolic link to it)" if name == "root_path" else ""
                )
                raise ConfigError(f"{self.place}{name} {problem}{hint}, got {printable_value(name, value)}")
            try:
                value = msgspec.convert(value, wanted)  # a list becomes a tuple
            except msgspec.ValidationError:
                raise ConfigError(
                    f"{self.place}{name} must be {describe_type(wanted)}, got {printable_value(name, value)}"
                ) from None
        msgspec.structs.force_setattr(self, name, value)

    def _record(self, name: str, given: Any, kinds: list[type[Settings]]) -> Settings:
        """Returns the record for a section. For records that hold others. kinds: the allowed types."""
        raise NotImplementedError

    def _problem(self) -> str | None:
        """Returns what is wrong with the combination of values, or None."""
        return None


@cache
def fields_of(kind: type[Struct]) -> tuple[FieldInfo, ...]:
    """Returns the fields of a record. Cached, since msgspec needs longer to look them up than to check them."""
    return msgspec.structs.fields(kind)


def json_value(value: Any) -> Any:
    """Returns a value in the form of JSON: converts paths, dates, numpy numbers and mappings."""
    if value is None or type(value) in (bool, int, float, str) or isinstance(value, Struct):
        return value
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, dt.date):  # YAML makes them of unquoted text
        return value.isoformat()
    if hasattr(value, "dtype") and hasattr(value, "tolist"):  # numpy, torch
        return value.tolist()
    if isinstance(value, str):  # of a subclass, as the members of enums are
        return str.__str__(value)
    if isinstance(value, int | float):
        return int(value) if isinstance(value, int) else float(value)
    if isinstance(value, Mapping):
        return {key: json_value(each) for key, each in value.items()}
    if isinstance(value, AbstractSet):
        return sorted(map(json_value, value), key=str)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [json_value(each) for each in value]
    return value


def names_in(*lists: str) -> list[str]:
    """Returns the names of comma-separated lists, each once."""
    return list(dict.fromkeys(name.strip() for text in lists for name in text.split(",") if name.strip()))


def printable_key(key: object) -> str:
    """Returns a key in printable form, for a message."""
    text = str(key)
    return text if text.isprintable() else ascii(text)


def printable_value(name: str, value: Any) -> str:
    """Returns a value in a form that may be shown."""
    if name in ("api_url", "url", "path", "root"):
        if not isinstance(value, str):
            return f"a {type(value).__name__}"  # it may hold a password
        value = "::".join(shown_address(each) for each in value.split("::"))
    return "***" if name in ("api_key", "auth_token", "storage_options", "proxy") else repr(value)


def changed_settings(settings: Settings, **shown: Any) -> list[tuple[str, Any]]:
    """Returns name and value of each setting that differs from its default. `shown` replaces secret values."""
    fields = fields_of(type(settings))
    values = {field.name: getattr(settings, field.name) for field in fields}
    changed = [field.name for field in fields if values[field.name] not in (field.default, {})]
    return [(name, shown.get(name, values[name])) for name in changed]


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """Returns `text` with *** in place of each secret."""
    for secret in secrets:
        text = redacted(text, secret)
    return text


def separator_of(wanted: Any) -> str | None:
    """Returns the separator of a field that holds several names, such as `Names`."""
    kinds = get_args(wanted) if get_origin(wanted) in (Union, UnionType) else (wanted,)
    metas = (meta for kind in kinds if get_origin(kind) is Annotated for meta in get_args(kind)[1:])
    given = (meta.extra for meta in metas if isinstance(meta, Meta) and meta.extra)
    return next((extra["separator"] for extra in given), None)


def _join_names(where: str, value: Any, wanted: Any) -> Any:
    """Joins a list of names to one text, for a field that accepts both."""
    separator = separator_of(wanted)
    if separator is None or not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        return value
    for each in value:
        if separator in _SEPARATORS and separator in each:
            raise ConfigError(f"{where}: {each!r} contains {_SEPARATORS[separator]} separate names")
    return separator.join(value)


def _encoding_problem(value: Any) -> str | None:
    """Returns why a value cannot be sent to the feeder process as JSON, or None."""
    if isinstance(value, float) and not math.isfinite(value):
        return "must be a finite number"
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        return "must be UTF-8 text"
    if isinstance(value, dict):
        return next(filter(None, map(_encoding_problem, (*value, *value.values()))), None)
    return next(filter(None, map(_encoding_problem, value)), None) if isinstance(value, list) else None


def describe_type(wanted: Any) -> str:
    """Returns what a field accepts, in words that follow "must be"."""
    kinds = sorted(_describe_kinds(wanted, ()), key=lambda kind: (kind == "None", kind.startswith("'")))
    *others, last = dict.fromkeys(kinds)
    return f"{', '.join(others)} or {last}" if others else last


def _describe_kinds(wanted: Any, rules: tuple[Meta, ...]) -> Iterator[str]:
    """Yields each kind of value that a field accepts, in words."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin is Annotated:
        yield from _describe_kinds(arguments[0], tuple(each for each in arguments[1:] if isinstance(each, Meta)))
    elif origin is Literal:
        yield from map(repr, arguments)
    elif origin in (Union, UnionType):
        for each in arguments:
            yield from _describe_kinds(each, rules)
    elif origin is tuple:
        yield _describe_list(arguments)
    elif origin is dict:
        yield "a dict of texts"
    elif any(rule.extra for rule in rules):
        yield "text or a list of texts"
    else:
        yield _NAMES[wanted] + _describe_bounds(rules)


def _describe_list(members: tuple[Any, ...]) -> str:
    if members[-1] is not Ellipsis:
        rules = tuple(each for each in get_args(members[0]) if isinstance(each, Meta))
        return f"a list of {len(members)} numbers" + _describe_bounds(rules)
    if get_origin(members[0]) is tuple:
        return "a list of pairs of numbers, such as [[512, 512], [448, 576]]"
    return f"a list of {next(_describe_kinds(members[0], ())).removeprefix('a ').replace('number', 'numbers', 1)}"


def _describe_bounds(rules: tuple[Meta, ...]) -> str:
    """Returns the bounds of a number, in words. The largest 64-bit number does not count as a bound."""
    for rule in rules:
        least, most = rule.ge, rule.le if rule.le != _LARGEST else None
        if least is not None and most is not None:
            return f" from {least} to {most}"
        below = f" and below {rule.lt}" if rule.lt is not None else ""
        if least is not None:
            return f" of at least {least}{below}"
        if rule.gt is not None:
            return f" above {rule.gt}" + (f" and up to {most}" if most is not None else "")
    return ""
