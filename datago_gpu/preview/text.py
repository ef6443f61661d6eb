"""Makes texts of a sample printable: on one line and of limited length, whatever the attributes contain."""

from __future__ import annotations

import unicodedata
from typing import Any

__all__ = ["caption_of", "shorten", "shorten_middle", "single_line"]

_CAPTIONS = ("caption", "captions", "description", "text", "prompt", "alt_text", "txt", "alt", "title")
_CONTROLS = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
_LONGEST = 2000


def single_line(text: str) -> str:
    """Puts text on one line and removes control characters and lone surrogates, which no font or UTF-8 supports."""
    kept = (" " if unicodedata.category(letter) in _CONTROLS else letter for letter in text[:_LONGEST])
    return " ".join("".join(kept).split())


def shorten(text: str, length: int) -> str:
    """Shortens a text to `length` characters, at the end."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def shorten_middle(text: str, length: int) -> str:
    """Shortens a text to `length` characters, in the middle, because names differ at their ends."""
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


def caption_of(attributes: dict[str, Any]) -> str:
    """Returns the first attribute with a usual name for captions; else one whose name contains one; else ""."""
    known = [name for word in _CAPTIONS for name in attributes if name.lower() == word]
    alike = [name for name in attributes if any(word in name.lower() for word in ("caption", "description", "text"))]
    for name in known + alike:
        value = attributes[name]
        if isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, str) and value.strip():
            return single_line(value)
    return ""
