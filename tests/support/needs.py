"""Packages that only some tests need, and that not every machine can have."""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest

__all__ = ["needs"]


def needs(name: str) -> Any:
    """Imports a package that `make test` installs.

    Without the package, the test or the module that asks is skipped. Where the variable CI is set, it fails instead.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = f"{name} is not installed ({error}); make test installs it"
    if os.environ.get("CI"):
        pytest.fail(f"{missing}, and CI must not skip this", pytrace=False)
    pytest.skip(missing, allow_module_level=True)
