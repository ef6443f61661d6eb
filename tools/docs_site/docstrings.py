"""The extension of griffe, which reads the package for the site: each docstring becomes Markdown."""

from __future__ import annotations

from typing import Any

import griffe

from tools.docs_site.plain_text import markdown

__all__ = ["PlainText"]

_LONG = 40
"""A default with more characters is not shown."""


class PlainText(griffe.Extension):  # type: ignore[misc]  # griffe need not be there where types are checked
    """Rewrites each docstring once griffe has read the object that it belongs to."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """griffe calls this for each module, class, function and attribute."""
        if obj.docstring:
            known = {parameter.name for parameter in getattr(obj, "parameters", ())} | set(obj.members)
            obj.docstring.value = markdown(obj.docstring.value, known, lambda name: _default(obj, name))


def _default(obj: Any, name: str) -> str:
    """Returns the default of a field; "" for what has none, and for parameters, whose signature is shown."""
    member = obj.members.get(name)
    if not obj.is_class or member is None or not member.has_labels("class-attribute"):
        return ""
    value = str(member.value or "")
    return "" if len(value) > _LONG or value.startswith("field(") else value
