"""The setting `classes`: the names of the classes, in the order of their labels."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

__all__ = ["Classes", "classes_in", "classes_problem"]

Classes = Annotated[str, Meta(extra={"separator": "\n"})]
"""One name on each line; a list of names becomes such a text. Names may contain commas."""


def classes_in(text: str) -> list[str]:
    """Returns the names; none if the setting is empty."""
    return text.removesuffix("\n").split("\n") if text else []


def classes_problem(text: str) -> str | None:
    """Returns what is wrong with the setting, in words, or None."""
    seen = set[str]()
    for name in classes_in(text):
        if not name:
            return "source_config.classes has an empty name"
        if name in seen:
            return f"source_config.classes names {name!r} twice"
        seen.add(name)
    return None
