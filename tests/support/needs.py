"""Packages that only some tests need, and that not every machine can have."""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import Any

import pytest

__all__ = ["needs", "needs_installed"]


def needs(name: str) -> Any:
    """Imports a package that `make test` installs.

    Without the package, the test or the module that asks is skipped. Where the variable CI is set, it fails instead.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        _miss(f"{name} is not installed ({error}); make test installs it")


def needs_installed(*names: str) -> None:
    """Is `needs` for packages that only other processes of the test import, since an import of some takes seconds."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            _miss(f"{name} is not installed; make test installs it")


def _miss(missing: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"{missing}, and CI must not skip this", pytrace=False)
    pytest.skip(missing, allow_module_level=True)
