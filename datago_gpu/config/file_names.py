"""Decides by names which files are images and which are hidden: in folders, object storage, shards and `serve`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

__all__ = ["EXTENSIONS", "METADATA_FILES", "Captions", "Selection", "hidden_part", "is_hidden"]

EXTENSIONS = (
    *(".jpg", ".jpeg", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff", ".jfif", ".jpe", ".mpo", ".apng"),
    *(".jp2", ".j2k", ".jpx", ".jpf", ".jpc", ".j2c", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".dds"),
    *(".avifs", ".blp", ".bw", ".cur", ".dcx", ".dib", ".flc", ".fli", ".ftc", ".ftu", ".gbr", ".icb", ".icns", ".ico"),
    *(".im", ".msp", ".pcd", ".pcx", ".psd", ".pxr", ".qoi", ".ras", ".rgb", ".rgba", ".sgi", ".vda", ".vst", ".xbm"),
    ".xpm",
)
"""All extensions that Pillow knows for the formats that are decoded. The usual ones come first, to be found sooner."""

_USUAL = 9
"""The number of extensions that a message names."""

_KEPT_BY_SYSTEMS = frozenset(("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information"))
"""Folders that macOS, network storage and Windows make for copies, thumbnails and deleted files; in lower case."""
_THEIR_FIRST_LETTERS = frozenset("_@#$sS")


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder is hidden: its name begins with a dot, or is one of `_KEPT_BY_SYSTEMS`."""
    first = name[:1]
    if first == ".":
        return name not in (".", "..")
    return first in _THEIR_FIRST_LETTERS and name.lower() in _KEPT_BY_SYSTEMS


def hidden_part(parts: Iterable[str]) -> str:
    """Returns the first hidden name of a path; "" if no name is hidden."""
    return next(filter(is_hidden, parts), "")


Captions = Literal["", "txt", "json", "metadata"]
"""Where the attributes of images are: NAME.txt or NAME.json beside NAME.jpg, or one of METADATA_FILES in a folder above
the images."""
METADATA_FILES = ("metadata.jsonl", "metadata.csv")


class Selection(NamedTuple):
    """Selects the images among the files of a folder."""

    extensions: tuple[str, ...] = EXTENSIONS
    """The extensions of images, in lower case."""
    hidden: bool = False
    """Whether hidden files and folders are taken as well."""
    follow_links: bool = True
    """Whether symbolic links are followed."""
    captions: Captions = ""
    """Which other files say something about the images."""

    def takes(self, name: str) -> bool:
        """Returns whether a file is an image, by its extension."""
        return name.lower().endswith(self.extensions)

    def is_beside(self, name: str) -> bool:
        """Returns whether a file, which is no image, says something about images. name: with or without its folders."""
        if self.captions == "metadata":
            return name.rpartition("/")[2] in METADATA_FILES
        return bool(self.captions) and name.lower().endswith(f".{self.captions}")

    @property
    def description(self) -> str:
        """Returns the extensions in words; for the default, only the usual ones."""
        if self.extensions == EXTENSIONS:
            usual = ", ".join(extension[1:] for extension in EXTENSIONS[:_USUAL])
            return f"{usual} and {len(EXTENSIONS) - _USUAL} rarer extensions"
        return ", ".join(extension[1:] for extension in self.extensions)
