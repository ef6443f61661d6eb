"""What must hold of a Trainer of Lightning: of which package it is, and that its limits go with the data."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

from datago_gpu.config import LoaderConfig
from datago_gpu.errors import ConfigError
from datago_gpu.torch.loader_dataset import LoaderDataset

__all__ = ["is_endless", "lightning_package", "refuse_limit", "refuse_package", "refuse_uneven_ranks"]

_NEW, _OLD = "lightning.pytorch", "pytorch_lightning"
"""Both packages have the same classes, but neither takes those of the other one."""


def lightning_package() -> str:
    """Returns the name of the package that the program has imported; if it has none, or both, "lightning.pytorch"."""
    if _NEW in sys.modules or (_OLD not in sys.modules and find_spec("lightning")):
        return _NEW
    return _OLD


def is_endless(config: LoaderConfig) -> bool:
    """Returns whether the data has no end."""
    return config.epochs is None and config.limit is None


def refuse_package(trainer: Any, own: str) -> None:
    """Raises ConfigError if a Trainer is of another package than `own`."""
    other = _OLD if own == _NEW else _NEW
    if any(each.__module__.startswith(f"{other}.") for each in type(trainer).__mro__):
        raise ConfigError(
            f"the Trainer is of the package {other}, but the DataModule of {own}, and neither package takes classes of "
            f"the other one: import {other} before datago_gpu.lightning, and {own} nowhere; or use {own} throughout"
        )


def refuse_uneven_ranks(trainer: Any, config: LoaderConfig) -> None:
    """Raises ConfigError if several ranks may have different numbers of batches in an epoch of the training."""
    is_even = config.lockstep or config.epochs is None
    if trainer is None or trainer.world_size == 1 or is_even:
        return
    if not isinstance(trainer.limit_train_batches, int):
        raise ConfigError(
            f"{trainer.world_size} ranks may have different numbers of batches in a pass, and then wait for each "
            "other for ever: set lockstep to true in the config; or give the Trainer limit_train_batches, the "
            "number of batches of the rank that has the fewest; or set epochs to None in the config, and give the "
            "Trainer limit_train_batches or max_steps"
        )


def refuse_limit(trainer: Any, stage: str, dataset: LoaderDataset) -> None:
    """Raises ConfigError if a limit of batches is a share of an unknown length, or if data without end has no limit.

    stage: "train", "val", "test" or "predict". Only training may go on without end.
    """
    if trainer is None:
        return
    is_overfit = trainer.overfit_batches and stage in ("train", "val")
    name = "overfit_batches" if is_overfit else f"limit_{stage}_batches"
    limit = getattr(trainer, f"limit_{stage}_batches")
    if isinstance(limit, int):
        return
    if limit != 1.0 and not _has_length(dataset):
        raise ConfigError(
            f"{name} is {limit}, a share of a length that is not known: give a whole number of batches; or a table "
            "with lockstep set to true, which has a length"
        )
    if is_endless(dataset.config) and (stage != "train" or is_overfit):
        raise ConfigError(
            f"the data for {stage} has no end, since epochs is None: leave epochs out of its config, or set {name} to "
            "a whole number of batches"
        )


def _has_length(dataset: LoaderDataset) -> bool:
    try:
        len(dataset)
    except TypeError:
        return False
    return True
