"""The extension of griffe, which reads the package for the site: each docstring becomes Markdown."""

from __future__ import annotations

from typing import Any

import griffe

from tools.docs_site.plain_text import markdown

__all__ = ["PlainText"]

_LONG = 40
"""A default with more characters is not shown."""


class PlainText(griffe.Extension):  # type: ignore[misc]  # griffe need not be there where types are checked
    """Rewrites the docstrings once griffe has read the package."""

    def on_class(self, *, cls: Any, **_: Any) -> None:
        """Hides the constructors of dataclasses, which only a Loader makes. griffe calls this for each class."""
        cls.decorators.clear()

    def on_package(self, *, pkg: Any, **_: Any) -> None:
        """griffe calls this when the whole package is there, so that a record's inherited fields are known."""
        _rewrite(pkg)


def _rewrite(obj: Any) -> None:
    if obj.is_alias:
        return
    if obj.docstring:
        known = {parameter.name for parameter in getattr(obj, "parameters", ())} | set(obj.all_members)
        obj.docstring.value = markdown(obj.docstring.value, known, lambda name: _default(obj, name))
    for member in obj.members.values():
        _rewrite(member)


def _default(obj: Any, name: str) -> str:
    """Returns the default of a field; "" for what has none, and for parameters, whose signature is shown."""
    member = obj.all_members.get(name)
    if not obj.is_class or member is None or not member.has_labels("class-attribute"):
        return ""
    value = str(member.value or "")
    constant = member.module.members.get(value)
    if constant is not None and not constant.is_alias:
        value = str(constant.value)
    return "" if len(value) > _LONG or value.startswith("field(") else value
