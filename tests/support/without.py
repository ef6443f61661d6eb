"""Runs tests as if some packages were not installed.

    DATAGO_GPU_TEST_WITHOUT=cykooz_resizer,simplejpeg make test

The named modules cannot be imported by the tests, nor by the processes that they start.
"""

from __future__ import annotations

import os
import runpy
from pathlib import Path

__all__ = ["VARIABLE", "block_packages"]

VARIABLE = "DATAGO_GPU_TEST_WITHOUT"
_FOLDER = Path(__file__).parent / "blocking"


def block_packages() -> None:
    """Blocks the packages that the environment names, here and in processes started later. Does nothing without names.

    Called before any test imports the package.
    """
    if os.environ.get(VARIABLE):
        runpy.run_path(str(_FOLDER / "sitecustomize.py"))
        paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(_FOLDER), *filter(None, paths)])
