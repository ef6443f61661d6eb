"""Turns a docstring, which is plain text, into Markdown.

A list of "name: meaning" becomes a definition list, in which a setting also has its default. An example with ">>>"
becomes a block of code. The name of an error, and the path of a page, become links.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

__all__ = ["markdown"]

_FEW = 3
"""Fewer names that are not known make no list: a sentence may have a colon."""

_NAMES = r"[a-z_]\w*(?:, [a-z_]\w*)*"
_ITEM = re.compile(rf"({_NAMES}): ")
_FURTHER_ITEM = re.compile(rf"(?<=\. )({_NAMES}): ")
_ERRORS = "|".join(f"{kind}Error" for kind in ("Config", "Datago", "Decode", "Feeder", "Source")) + "|TooManyErrors"


def markdown(text: str, known: set[str], default: Callable[[str], str] = lambda _: "") -> str:
    """Returns a docstring as Markdown.

    known: the names of parameters and fields. default: gives the default of a name as Python, or "".
    """
    text = re.sub(r"^Attributes:\n((?:    .*\n?|\n)+)", lambda found: _outdent(found[1]), text, flags=re.MULTILINE)
    paragraphs = [each.strip("\n") for each in re.split(r"\n\s*\n", text) if each.strip()]
    return "\n\n".join(_paragraph(each, known, default) for each in paragraphs)


def _outdent(text: str) -> str:
    return re.sub(r"^    ", "", text, flags=re.MULTILINE)


def _paragraph(text: str, known: set[str], default: Callable[[str], str]) -> str:
    if text.startswith(">>> "):
        return f"```pycon\n{text}\n```"
    if text.startswith("    "):
        return text
    listed, text = _split_list(text, known)
    entries = [_definition(names, meaning, default) for names, meaning in _items(listed, known)] if listed else []
    return "\n\n".join([*entries, *([_linked(text)] if text else [])])


def _split_list(text: str, known: set[str]) -> tuple[str, str]:
    """Splits a paragraph into the list with which it begins, and the rest. Names of the list are known, or each of its
    lines has some: those of a dict are nowhere else."""
    lines = text.split("\n")
    found = [_ITEM.match(line) for line in lines]
    is_item = [bool(match) or line.startswith(" ") for match, line in zip(found, lines, strict=True)]
    end = is_item.index(False) if False in is_item else len(lines)
    names = {name for match in found[:end] if match for name in match[1].split(", ")}
    if known.isdisjoint(names) and (end < len(lines) or len(names) < _FEW):
        return "", text
    return "\n".join(lines[:end]), "\n".join(lines[end:])


def _items(text: str, known: set[str]) -> Iterator[tuple[str, str]]:
    """Yields names and meaning. A line may have several: "id: the name. where: its path"."""
    for item in re.split(r"\n(?! )", text):
        line = re.sub(r"\s*\n\s+", " ", item)
        further = [found.start() for found in _FURTHER_ITEM.finditer(line) if known.issuperset(found[1].split(", "))]
        for begin, end in zip([0, *further], [*further, None], strict=True):
            names, _, meaning = line[begin:end].strip().partition(": ")
            yield names, meaning


def _definition(names: str, meaning: str, default: Callable[[str], str]) -> str:
    """Returns an entry of a definition list."""
    terms = ", ".join(f"`{name}`" for name in names.split(", "))
    value = "" if "," in names else default(names)
    return f"{terms}{f' = `{value}`' if value else ''}\n:   {_linked(meaning[:1].upper() + meaning[1:])}"


def _linked(text: str) -> str:
    text = re.sub(rf"(?<![`\w.])({_ERRORS})(?![`\w])", r"[\1][datago_gpu.errors.\1]", text)
    return re.sub(r"(?<![`\w/])docs/([\w/-]+)\.md", r"[docs/\1.md](../\1.md)", text)
