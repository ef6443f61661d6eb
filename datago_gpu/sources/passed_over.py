"""Counts the files that a listing leaves out, and why: by their extension, as hidden files, as symbolic links, ..."""

from __future__ import annotations

import logging
from typing import Literal

from datago_gpu.redact import printable
from datago_gpu.sources.reference import utf8_text

__all__ = ["Kind", "PassedOver", "log_passed_over"]

log = logging.getLogger("datago_gpu")

Kind = Literal["hidden", "extension", "link", "no-class", "no-image"]

_TOLD: dict[Kind, tuple[str, str]] = {
    "hidden": ("hidden", "source_config.hidden includes them"),
    "extension": ("with other extensions", "source_config.extensions sets which are loaded"),
    "link": ("symbolic links", "source_config.follow_links is false"),
    "no-class": ("images outside of class folders", "source_config.labels is 'folder'"),
    "no-image": ("captions without an image", "source_config.captions is set"),
}
"""The name of each kind in messages, and what decides about it."""

_BESIDE_IMAGES = (
    *(".json", ".jsonl", ".txt", ".caption", ".tags", ".md", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".npy"),
    *(".npz", ".pt", ".pth", ".safetensors", ".parquet", ".db", ".sqlite", ".log", ".html", ".py", ".sh", ".ini"),
)
"""Extensions of files that are stored beside images on purpose, and that nobody takes for images."""


class PassedOver:
    """Counts files by kind. A hidden folder counts as one file, whatever it holds.

    counts: kind -> number of files."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.surprising = False
        """Whether a file that may be an image was left out."""
        self._examples: dict[str, str] = {}

    def add(self, kind: Kind, path: str) -> None:
        """Counts one file. path: its place; the first one by name is the example of its kind."""
        self._count(kind, 1, path)
        if not self.surprising:
            named = path.lower().endswith(_BESIDE_IMAGES)
            self.surprising = kind in ("hidden", "no-class") or (kind == "extension" and not named)

    def join(self, other: PassedOver) -> None:
        """Adds the counts of another object."""
        for kind, count in other.counts.items():
            self._count(kind, count, other._examples[kind])
        self.surprising = self.surprising or other.surprising

    def _count(self, kind: str, count: int, example: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + count
        self._examples[kind] = min(self._examples.get(kind, example), example)

    def description(self, root: str) -> str:
        """Returns the counts in words, with an example of each kind by its path below the root; "" if all are zero."""
        lines = []
        for kind, (name, why) in _TOLD.items():
            if kind in self.counts:
                example = printable(utf8_text(self._examples[kind].removeprefix(root).lstrip("/")))
                lines.append(f"{self.counts[kind]:,} {name}, such as {example!r} ({why})")
        return "; ".join(lines)


def log_passed_over(passed: PassedOver, root: str, shown: str) -> None:
    """Logs what was passed over: as a warning if there may be images among it. shown: the root for messages."""
    told = passed.description(root)
    if told:
        log.log(logging.WARNING if passed.surprising else logging.INFO, "passed over below %s: %s", shown, told)
