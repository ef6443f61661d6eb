"""Reads a config from text or from a file: JSON, or YAML if PyYAML is installed. Errors name the line."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from datago_gpu.config.local_paths import openable, plain_path
from datago_gpu.errors import ConfigError

__all__ = ["Document", "read_config"]

T = TypeVar("T")

_YAML = (".yaml", ".yml")
_ENDINGS = (".json", *_YAML)
_KEY_OF_A_MESSAGE = re.compile(r"(?:unknown key )?(?:\w+\.)?(\w+)")
_NOT_JSON = {"//": "JSON has no comments", "/*": "JSON has no comments", "#": "JSON has no comments",
             "'": "JSON needs double quotes"}  # fmt: skip


class Document:
    """Holds the content of a text or a file. file: the given path; "" for a text."""

    def __init__(self, values: Any, file: str = "", text: str = "") -> None:
        self._values, self._file, self._text = values, file, text

    def convert(self, make: Callable[[Any], T]) -> T:
        """Returns `make` of the values. Adds the file's name, and the line of the key, to its ConfigErrors."""
        try:
            return make(self._values)
        except ConfigError as error:
            if not self._file:
                raise
            raise ConfigError(f"{self._file}{self._line_of(str(error))}: {error}") from error.__cause__

    def _line_of(self, message: str) -> str:
        """Returns the place of the key at the start of a message, if only one place has a key of that name."""
        key = _KEY_OF_A_MESSAGE.match(message)
        name = re.escape(key[1]) if key else "$"
        places = list(re.finditer(rf"""(?m)(?:"{name}"|^\s*{name}|[{{,]\s*{name})\s*:""", self._text))
        return f", line {_line(self._text, places[0].end())}" if len(places) == 1 else ""


def read_config(config: str | bytes | os.PathLike[str]) -> Document:
    """Parses JSON text, or the file at a path. A str that ends like a config file is a path. Raises ConfigError."""
    if isinstance(config, bytes):
        return Document(_parse_json(_decode(config, "the config"), "the config"))
    if isinstance(config, os.PathLike) or config.strip().lower().endswith(_ENDINGS):
        return _read_file(plain_path(os.fsdecode(config), ""))
    return Document(_parse_json(config, "the config"))


def _read_file(name: str) -> Document:
    try:
        with open(openable(name), "rb") as file:
            text = _decode(file.read(), name)
    except OSError as error:
        raise ConfigError(f"cannot read the config {name!r}: {error.strerror}") from error
    except ValueError as error:  # a NUL in the name
        raise ConfigError(f"cannot read the config {name!r}: {error}") from None
    return Document(_parse_yaml(text, name) if name.lower().endswith(_YAML) else _parse_json(text, name), name, text)


def _decode(content: bytes, name: str) -> str:
    """Decodes a text, with or without a byte order mark."""
    try:
        return content.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name}, line {line}: the text is not UTF-8: save it as UTF-8") from None


def _parse_json(text: str, name: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except UnicodeEncodeError:
        raise ConfigError(f"{name} is not UTF-8 text") from None
    except (msgspec.DecodeError, RecursionError) as error:
        where, problem = _json_problem(text, error)
    hint = " (to load a file, pass its path as a pathlib.Path)" if name == "the config" and _is_file(text) else ""
    raise ConfigError(f"{name}{where}: not JSON: {problem}{hint}")


def _json_problem(text: str, error: Exception) -> tuple[str, str]:
    """Returns place and kind of a mistake, in the words of Python's parser, which knows lines and quotes nothing."""
    import json  # here, since the feeder process needs it for nothing else

    try:
        json.loads(text)
    except json.JSONDecodeError as found:
        at = text[found.pos : found.pos + 2]
        hint = _NOT_JSON.get(at) or _NOT_JSON.get(at[:1], "")
        return f", line {found.lineno}", found.msg + (f"; {hint}" if hint else "")
    except (ValueError, RecursionError):
        pass
    return "", str(error)


def _parse_yaml(text: str, name: str) -> Any:
    try:
        import yaml  # type: ignore[import-untyped]
    except ImportError:
        raise ConfigError(f"{name} is YAML, which needs PyYAML: pip install pyyaml, or use JSON") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{name}{where}: not YAML: {problem or type(error).__name__}") from None
    except (ValueError, RecursionError) as error:  # a date that is none
        raise ConfigError(f"{name}: not YAML: {error}") from None


def _is_file(text: str) -> bool:
    try:
        return os.path.isfile(text)
    except ValueError:
        return False


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
