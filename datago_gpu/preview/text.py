"""Words about a sample, fit to be printed: whatever was in its attributes, on one line and of bounded length."""

from __future__ import annotations

import unicodedata
from typing import Any

__all__ = ["caption_of", "middle_cut", "plain", "shortened"]

_CAPTIONS = ("caption", "captions", "description", "text", "prompt", "alt_text", "txt", "alt", "title")
_CONTROLS = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
_LONGEST = 2000


def plain(text: str) -> str:
    """On one line, without control characters and halves of surrogate pairs, which no font and no UTF-8 has."""
    kept = (" " if unicodedata.category(letter) in _CONTROLS else letter for letter in text[:_LONGEST])
    return " ".join("".join(kept).split())


def shortened(text: str, length: int) -> str:
    """Not more letters than `length`, cut at the end."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def middle_cut(text: str, length: int) -> str:
    """Not more letters than `length`, cut in the middle: names differ at their ends."""
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


def caption_of(attributes: dict[str, Any]) -> str:
    """The first attribute that is named as captions are; else one whose name has such a word in it; else nothing."""
    known = [name for word in _CAPTIONS for name in attributes if name.lower() == word]
    alike = [name for name in attributes if any(word in name.lower() for word in ("caption", "description", "text"))]
    for name in known + alike:
        value = attributes[name]
        if isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, str) and value.strip():
            return plain(value)
    return ""
