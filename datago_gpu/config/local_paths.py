"""Turns texts of the settings into local paths: `~`, environment variables, file:// addresses."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

__all__ = ["FILE_SCHEME", "openable", "plain_path", "shown_with", "true_text"]

FILE_SCHEME = "file://"
_VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)\})", re.ASCII)


def plain_path(text: str, base: str) -> str:
    """Returns the path that a text means. A relative path stays relative to the folder `base`.

    A path that exists is returned unchanged. Otherwise %XX of a file:// address is decoded, `~` and `~user` become home
    folders, and `$NAME` and `${NAME}` become the values of the environment. An unknown user or name stays unchanged.
    """
    path = text
    if path[: len(FILE_SCHEME)].lower() == FILE_SCHEME:
        path = path[len(FILE_SCHEME) :].removeprefix("localhost")
        if not _exists(path, base):
            path = unquote(path)
    if (path.startswith("~") or "$" in path) and not _exists(path, base):
        path = os.path.expanduser(os.path.expandvars(path))
    return path


def _exists(path: str, base: str) -> bool:
    return os.path.lexists(openable(os.path.join(base, path)))


def true_text(text: str) -> str:
    """Returns a name as UTF-8 text, if this process has read the name in a locale without UTF-8, such as C."""
    if text.isascii():
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        return text


def openable(path: str) -> str:
    """Returns a path in the form that functions of this process accept, also in a locale without UTF-8."""
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return os.fsdecode(path.encode("utf-8", "surrogateescape"))
    return path


def shown_with(shown: str, given: str) -> str:
    """Returns a path for messages. If the given text holds `~`, a variable or an address, the text is added.

    shown: the path in printable form.
    """
    if given[: len(FILE_SCHEME)].lower() != FILE_SCHEME and not given.startswith("~") and "$" not in given:
        return shown
    names = [name or braced for name, braced in _VARIABLE.findall(given)]
    unset = [f"${name}" for name in names if name not in os.environ]
    why = f"; {', '.join(unset)} is not set in the environment" if unset else ""
    return f"{shown} (given as {given!r}{why})"
