"""What a text of the settings means as a local path: `~`, variables of the environment, file:// addresses."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

__all__ = ["FILE_SCHEME", "openable", "plain_path", "shown_with", "true_text"]

FILE_SCHEME = "file://"
_VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)\})", re.ASCII)


def plain_path(text: str, base: str) -> str:
    """The path that a text means; relative ones stay relative to the folder `base`.

    A path that exists as it stands means itself. Else %XX of a file:// address are decoded, `~` and `~user` become
    home folders, and `$NAME` and `${NAME}` the values of the environment; an unknown user or name stays as it is.
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
    """The text that a name has in UTF-8, where this process has read its bytes in a locale without UTF-8, such as C."""
    if text.isascii():
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        return text


def openable(path: str) -> str:
    """A path as the functions of this process take it, where its locale does not know UTF-8."""
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return os.fsdecode(path.encode("utf-8", "surrogateescape"))
    return path


def shown_with(shown: str, given: str) -> str:
    """A path for messages, with what was given for it where that holds `~`, a variable or an address.

    shown: the path as it may be shown.
    """
    if given[: len(FILE_SCHEME)].lower() != FILE_SCHEME and not given.startswith("~") and "$" not in given:
        return shown
    names = [name or braced for name, braced in _VARIABLE.findall(given)]
    unset = [f"${name}" for name in names if name not in os.environ]
    why = f"; {', '.join(unset)} is not set in the environment" if unset else ""
    return f"{shown} (given as {given!r}{why})"
