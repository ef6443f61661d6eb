"""Starts modules in a Python of their own that imports what this one imports, however this one came by it."""

from __future__ import annotations

import os
import sys

import datago_gpu
from datago_gpu.errors import FeederError

__all__ = ["WANTED", "command"]

WANTED = f"set sys.executable to a Python {sys.version_info[0]}.{sys.version_info[1]} that can import datago_gpu"

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(datago_gpu.__file__)))
"""Where this package lies, also where it was found by a path relative to a folder that the program has left."""

_PROGRAM = (
    "import sys; end = 3 + int(sys.argv[2]); sys.path[:] = sys.argv[end:]; del sys.argv[end:], sys.argv[2]; "
    "import runpy; runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)
"""Arguments: the module, how many arguments it gets, those, and then sys.path. Not PYTHONPATH: that stands before the
standard library, and processes that the new one starts would inherit it."""


def command(module: str, *arguments: str) -> list[str]:
    """A command line that runs `python -m module`, with the modules of this process to import from.

    Raises FeederError where no Python is known to run it with.
    """
    given = [str(len(arguments)), *arguments]
    return [_executable(), *_flags(), "-P", "-c", _PROGRAM, module, *given, *_search_path()]


def _executable() -> str:
    """sys.executable; where that is none, what multiprocessing was told to use (`set_executable`)."""
    spawn = sys.modules.get("multiprocessing.spawn")
    for given in (sys.executable, spawn.get_executable() if spawn else None):
        path = os.fsdecode(given) if given else ""
        if os.path.isfile(path) and os.access(path, os.X_OK) and not _is_this_program(path):
            return path
    raise FeederError(f"no Python to start a process with: sys.executable is {sys.executable!r}; {WANTED}")


def _is_this_program(path: str) -> bool:
    """Whether it is a frozen program, as of PyInstaller: it is no Python, and would start itself, again and again."""
    return bool(getattr(sys, "frozen", False)) and os.path.samefile(path, "/proc/self/exe")


def _flags() -> list[str]:
    """Those of this Python that say what the environment and the site packages may change."""
    flags = {"-E": sys.flags.ignore_environment, "-s": sys.flags.no_user_site, "-S": sys.flags.no_site}
    encoding = [f"-Xutf8={sys.flags.utf8_mode}"] if "utf8" in getattr(sys, "_xoptions", {}) else []
    if sys.getfilesystemencoding() == "ascii":  # the locale C, with PYTHONUTF8=0: names are UTF-8 all the same
        encoding = ["-Xutf8=1"]
    return [flag for flag, given in flags.items() if given] + encoding


def _search_path() -> list[str]:
    """sys.path as absolute paths, the standard library first, this package last where it would not be found.

    First, since a backport in site-packages, or a file beside the user's script, may have the name of a standard module
    that this process imported before, and the new one has not.
    """
    paths = list(dict.fromkeys(path for entry in sys.path if (path := _absolute(entry))))
    standard = [path for path in paths if _is_standard(path)]
    return list(dict.fromkeys([*standard, *paths, _PACKAGE]))


def _absolute(entry: object) -> str:
    """The entry of sys.path as an absolute path; empty for one that Python passes over."""
    try:
        path = os.path.abspath(entry) if isinstance(entry, str) and "\0" not in entry else ""
        os.fsencode(path)
    except (FileNotFoundError, UnicodeEncodeError):  # the working folder is gone; a path that no function takes here
        return ""
    return path


def _is_standard(path: str) -> bool:
    library = os.path.dirname(getattr(os, "__file__", ""))
    archive = f"python{sys.version_info[0]}{sys.version_info[1]}.zip"
    return path == library or os.path.basename(path) in ("lib-dynload", archive)
