"""Makes settings records of dicts, and refuses keys that are unknown or missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from msgspec import Struct

from datago_gpu.config.settings import Settings, fields_of, printable_key
from datago_gpu.errors import ConfigError

__all__ = ["make_record", "refuse_unknown_keys"]

S = TypeVar("S", bound=Settings)

RightPlace = Callable[[object], str]
"""Says where a key belongs that stands in the wrong place, in words; "" if nobody knows the key."""


def make_record(kind: type[S], name: str, given: Any, right_place: RightPlace) -> S:
    """Makes the record of a section. Raises ConfigError, which names the section and the key.

    name: of the section; "" if the record is no section. given: a dict.
    """
    if not isinstance(given, Mapping):  # the value is not in the message: the value may hold a key
        raise ConfigError(f"{name} must be a dict or {kind.__name__}, got {type(given).__name__}")
    where = f"{name}." if name else ""
    refuse_unknown_keys(given, kind, where, right_place)
    for field in fields_of(kind):
        if field.required and field.name not in given:
            raise ConfigError(f"{where}{field.name} is missing")
    return kind(**given)


def refuse_unknown_keys(given: Mapping[Any, Any], kind: type[Struct], where: str, right_place: RightPlace) -> None:
    """Raises ConfigError for a key that the record does not have; the message names the nearest known key.

    where: of the section, ending in a dot; "" for the top level.
    """
    known = kind.__struct_fields__
    for key in given:
        if key not in known:
            import difflib  # for this message only: it would delay the start of the feeder

            place = right_place(key)
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.8 if place else 0.5)
            hints = [place] if place else []
            hints += [f"did you mean {where}{near[0]}?"] if near else []
            hint = "; ".join(hints) or f"the known keys are {', '.join(known)}"
            raise ConfigError(f"unknown key {where}{printable_key(key)}; {hint}")
