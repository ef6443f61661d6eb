"""Finds out whether a framework that needs something else is calling, by the functions that have called."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator

__all__ = ["preparing_class", "saves_for_lightning"]

_ACCELERATE = "accelerate.data_loader"
_PREPARING = ("DataLoaderDispatcher", "DataLoaderShard", "IterableDatasetShard")
"""Classes that accelerate puts around a DataLoader: one process iterates for all; or each iterates, one batch ahead; or
each takes a part of what it iterates over."""
_LIGHTNING = ("lightning.pytorch.utilities.combined_loader", "pytorch_lightning.utilities.combined_loader")


def preparing_class() -> str:
    """Returns the name of the class of accelerate, also used by transformers, that is calling; "" if none is."""
    if _ACCELERATE not in sys.modules:
        return ""
    classes = (function.partition(".")[0] for module, function in _callers() if module == _ACCELERATE)
    return next((name for name in classes if name in _PREPARING), "")


def saves_for_lightning() -> bool:
    """Returns whether Lightning is calling, to save the state of a Trainer's dataloaders."""
    if not any(module in sys.modules for module in _LIGHTNING):
        return False
    return any(module in _LIGHTNING and function.endswith("._state_dicts") for module, function in _callers())


def _callers() -> Iterator[tuple[str, str]]:
    """Yields the module and the qualified name of each function that has called, the innermost one first."""
    frame = inspect.currentframe()
    while frame is not None:
        yield frame.f_globals.get("__name__", ""), frame.f_code.co_qualname
        frame = frame.f_back
