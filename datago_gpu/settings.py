"""What all settings records share: they are frozen, and checked when they are made."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, get_args

import msgspec
from msgspec import Meta, Struct

from datago_gpu.errors import ConfigError
from datago_gpu.redact import redacted, shown_address

__all__ = ["Count", "Natural", "Settings", "shown", "told", "without_secrets"]

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

    def __hash__(self) -> int:
        """Of all values, also of those that are dicts."""
        return hash(msgspec.json.encode(self))

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
    """A value as it may be shown."""
    if name in ("api_url", "url") and isinstance(value, str):
        value = "::".join(shown_address(each) for each in value.split("::"))
    return "***" if name in ("api_key", "auth_token", "storage_options") else repr(value)


def told(settings: Settings, **shown: Any) -> list[tuple[str, Any]]:
    """Name and value of what was set, with the values of `shown` in place of those that may not be."""
    fields = msgspec.structs.fields(settings)
    values = {field.name: getattr(settings, field.name) for field in fields}
    changed = [field.name for field in fields if values[field.name] not in (field.default, {})]
    return [(name, shown.get(name, values[name])) for name in changed]


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """`text` with *** for each of them, should it be there."""
    for secret in secrets:
        text = redacted(text, secret)
    return text
