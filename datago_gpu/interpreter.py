"""Builds command lines that run a module in a new Python process with the same import path as this process."""

from __future__ import annotations

import os
import sys

import datago_gpu
from datago_gpu.errors import FeederError

__all__ = ["WANTED", "command"]

WANTED = f"set sys.executable to a Python {sys.version_info[0]}.{sys.version_info[1]} that can import datago_gpu"

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(datago_gpu.__file__)))
"""Absolute path of the folder that holds this package: a relative entry of sys.path fails once the program has changed
its working folder."""

_PROGRAM = (
    "import sys; end = 3 + int(sys.argv[2]); sys.path[:] = sys.argv[end:]; del sys.argv[end:], sys.argv[2]; "
    "import runpy; runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)
"""Arguments: the module, the number of its arguments, its arguments, and then sys.path. PYTHONPATH is not used: Python
searches it before the standard library, and further child processes would inherit it."""


def command(module: str, *arguments: str) -> list[str]:
    """Returns a command line that runs `python -m module` with the import path of this process.

    Raises FeederError if no Python executable is known.
    """
    given = [str(len(arguments)), *arguments]
    return [_executable(), *_flags(), "-P", "-c", _PROGRAM, module, *given, *_search_path()]


def _executable() -> str:
    """Returns sys.executable; if it is not a Python, the one given to multiprocessing's `set_executable`."""
    spawn = sys.modules.get("multiprocessing.spawn")
    for given in (sys.executable, spawn.get_executable() if spawn else None):
        path = os.fsdecode(given) if given else ""
        if os.path.isfile(path) and os.access(path, os.X_OK) and not _is_this_program(path):
            return path
    raise FeederError(f"no Python was found to start a process with: sys.executable is {sys.executable!r}; {WANTED}")


def _is_this_program(path: str) -> bool:
    """Returns whether `path` is this frozen program (PyInstaller). It is no Python and would start itself for ever."""
    program = "/proc/self/exe" if sys.platform == "linux" else sys.executable
    return bool(getattr(sys, "frozen", False)) and os.path.samefile(path, program)


def _flags() -> list[str]:
    """Returns the flags of this Python about the environment, site packages and text encoding."""
    flags = {"-E": sys.flags.ignore_environment, "-s": sys.flags.no_user_site, "-S": sys.flags.no_site}
    encoding = [f"-Xutf8={sys.flags.utf8_mode}"] if "utf8" in getattr(sys, "_xoptions", {}) else []
    if sys.getfilesystemencoding() == "ascii":  # the locale C, with PYTHONUTF8=0: names are UTF-8 all the same
        encoding = ["-Xutf8=1"]
    return [flag for flag, given in flags.items() if given] + encoding


def _search_path() -> list[str]:
    """Returns sys.path as absolute paths, with the standard library first and this package last if it is missing.

    The standard library is first because a backport in site-packages, or a file next to the user's script, may have the
    name of a standard module that this process has imported already, but the new process has not.
    """
    paths = list(dict.fromkeys(path for entry in sys.path if (path := _absolute(entry))))
    standard = [path for path in paths if _is_standard(path)]
    return list(dict.fromkeys([*standard, *paths, _PACKAGE]))


def _absolute(entry: object) -> str:
    """Returns an entry of sys.path as an absolute path; empty if Python ignores the entry."""
    try:
        path = os.path.abspath(entry) if isinstance(entry, str) and "\0" not in entry else ""
        os.fsencode(path)
    except (FileNotFoundError, UnicodeEncodeError):  # no working folder; a path that cannot be encoded
        return ""
    return path


def _is_standard(path: str) -> bool:
    library = os.path.dirname(getattr(os, "__file__", ""))
    archive = f"python{sys.version_info[0]}{sys.version_info[1]}.zip"
    return path == library or os.path.basename(path) in ("lib-dynload", archive)
