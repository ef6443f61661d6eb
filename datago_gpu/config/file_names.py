"""Which files are images, and which are hidden, by their names: in folders, object storage, shards and `serve`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["EXTENSIONS", "Selection", "hidden_part", "is_hidden"]

EXTENSIONS = (
    *(".jpg", ".jpeg", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff", ".jfif", ".jpe", ".mpo", ".apng"),
    *(".jp2", ".j2k", ".jpx", ".jpf", ".jpc", ".j2c", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".dds"),
    *(".avifs", ".blp", ".bw", ".cur", ".dcx", ".dib", ".flc", ".fli", ".ftc", ".ftu", ".gbr", ".icb", ".icns", ".ico"),
    *(".im", ".msp", ".pcd", ".pcx", ".psd", ".pxr", ".qoi", ".ras", ".rgb", ".rgba", ".sgi", ".vda", ".vst", ".xbm"),
    ".xpm",
)
"""Of the formats that are decoded: all that Pillow knows of them. The usual ones come first, which are found sooner."""

_USUAL = 9
"""Of them, that a message names."""

_KEPT_BY_SYSTEMS = frozenset(("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information"))
"""Folders of copies, thumbnails or deleted files, as macOS, network storage and Windows keep them; in lower case."""
_THEIR_FIRST_LETTERS = frozenset("_@#$sS")


def is_hidden(name: str) -> bool:
    """Whether a file or a folder of this name is hidden: the name begins with a dot, or a system keeps such folders."""
    first = name[:1]
    if first == ".":
        return name not in (".", "..")
    return first in _THEIR_FIRST_LETTERS and name.lower() in _KEPT_BY_SYSTEMS


def hidden_part(parts: Iterable[str]) -> str:
    """The first hidden name of a path; empty where no name is hidden."""
    return next(filter(is_hidden, parts), "")


class Selection(NamedTuple):
    """Which files of a folder are its images."""

    extensions: tuple[str, ...] = EXTENSIONS
    """What their names end in, in lower case."""
    hidden: bool = False
    """Whether hidden files and folders are taken as well."""
    follow_links: bool = True
    """Whether symbolic links are followed."""

    def takes(self, name: str) -> bool:
        """Whether a file of this name is an image, by its ending."""
        return name.lower().endswith(self.extensions)

    @property
    def told(self) -> str:
        """The endings in words; of the default only the usual ones."""
        if self.extensions == EXTENSIONS:
            usual = ", ".join(extension[1:] for extension in EXTENSIONS[:_USUAL])
            return f"{usual} and {len(EXTENSIONS) - _USUAL} rarer endings"
        return ", ".join(extension[1:] for extension in self.extensions)
