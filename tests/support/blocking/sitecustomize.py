"""Hides packages, and functions of a system, from all code. Python imports this file at its start: see without.py."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

_GIVEN = frozenset(filter(None, os.environ.get("DATAGO_GPU_TEST_WITHOUT", "").split(",")))
NAMES = frozenset(name for name in _GIVEN if "." not in name)
OF_OS = frozenset(name.removeprefix("os.") for name in _GIVEN - NAMES)


class Blocked:
    """Refuses imports of some packages."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.partition(".")[0] in NAMES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


for function in OF_OS & {*dir(os)}:
    delattr(os, function)
if NAMES and Blocked not in sys.meta_path:
    sys.meta_path.insert(0, Blocked)
