"""What a text of the settings means as a local path: `~`, variables of the environment, file:// addresses."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

__all__ = ["FILE_SCHEME", "plain_path", "shown_with"]

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
    return os.path.lexists(os.path.join(base, path))


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
