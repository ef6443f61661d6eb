"""What all settings records share: they are frozen, and checked when they are made."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, get_args

import msgspec
from msgspec import Meta, Struct

from datago_gpu.errors import ConfigError
from datago_gpu.redact import shown_address

__all__ = ["Count", "Natural", "Settings", "shown"]

_LARGEST = 2**63 - 1
Count = Annotated[int, Meta(ge=1, le=_LARGEST)]
Natural = Annotated[int, Meta(ge=0, le=_LARGEST)]


def _no_json(value: Any) -> str | None:
    """Why the feeder process, which gets the settings as JSON, could not be told this value."""
    if isinstance(value, float) and not math.isfinite(value):
        return "must be a finite number"
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        return "must be UTF-8 text (for a folder with another name, give a symbolic link to it)"
    return None


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A record of settings: making one with a wrong value raises ConfigError, as reading it from JSON does."""

    place: ClassVar[str] = ""
    """Where the settings stand in the config, for messages."""

    def __post_init__(self) -> None:
        for field in msgspec.structs.fields(type(self)):
            self._check(field.name, field.type)
        problem = self._problem()
        if problem:
            raise ConfigError(problem)

    def _check(self, name: str, wanted: Any) -> None:
        """Hold a value given to the constructor to the same rules as one read from JSON."""
        value = getattr(self, name)
        records = [kind for kind in (get_args(wanted) or (wanted,)) if isinstance(kind, type(Settings))]
        if records and not isinstance(value, tuple(records)):
            names = " or ".join(kind.__name__ for kind in records)
            raise ConfigError(f"{self.place}{name} must be a {names}, got {type(value).__name__}")
        if records:
            return
        try:
            msgspec.structs.force_setattr(self, name, msgspec.convert(value, wanted))  # a list becomes a tuple
        except msgspec.ValidationError as error:
            raise ConfigError(f"{self.place}{name}: {error}, got {shown(name, value)}") from None
        problem = _no_json(value)
        if problem:
            raise ConfigError(f"{self.place}{name} {problem}, got {shown(name, value)}")

    def _problem(self) -> str | None:
        """What is wrong with the values taken together, or None."""
        return None


def shown(name: str, value: Any) -> str:
    if name == "api_url" and isinstance(value, str):
        value = shown_address(value)
    return "***" if name == "api_key" else repr(value)
