"""Runs tests as if some packages were not installed.

    DATAGO_GPU_TEST_WITHOUT=cykooz_resizer,simplejpeg make test

The named modules cannot be imported by the tests, nor by the processes that they start. `os.NAME` is a function or a
constant of `os` that is missing there; MACOS are those that macOS lacks.
"""

from __future__ import annotations

import os
import runpy
from pathlib import Path

__all__ = ["MACOS", "VARIABLE", "block_packages"]

VARIABLE = "DATAGO_GPU_TEST_WITHOUT"
MACOS = "os.memfd_create,os.MFD_CLOEXEC,os.sched_getaffinity,os.posix_fallocate,os.posix_fadvise,os.RWF_NOWAIT,os.pipe2"
_FOLDER = Path(__file__).parent / "blocking"


def block_packages() -> None:
    """Blocks the packages that the environment names, here and in processes started later. Does nothing without names.

    Called before any test imports the package.
    """
    if os.environ.get(VARIABLE):
        runpy.run_path(str(_FOLDER / "sitecustomize.py"))
        paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(_FOLDER), *filter(None, paths)])
