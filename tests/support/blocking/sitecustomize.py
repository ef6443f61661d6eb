"""Makes packages look as if they were not installed. Python imports this file at its start: see without.py."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

NAMES = frozenset(filter(None, os.environ.get("DATAGO_GPU_TEST_WITHOUT", "").split(",")))


class Blocked:
    """Refuses imports of some packages."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.partition(".")[0] in NAMES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


if NAMES and Blocked not in sys.meta_path:
    sys.meta_path.insert(0, Blocked)
