"""Logs the statistics of a loader with the loggers of a Lightning Trainer. Only this module here imports Lightning."""

from __future__ import annotations

from typing import Any

from datago_gpu.metrics.meter import Meter, check_interval
from datago_gpu.metrics.watched import HasStats
from datago_gpu.torch.lightning_rules import lightning_package

if lightning_package() == "pytorch_lightning":
    from pytorch_lightning import Callback
else:
    from lightning.pytorch import Callback

__all__ = ["LightningCallback"]


class LightningCallback(Callback):  # type: ignore[misc]  # Lightning need not be there where types are checked
    """Logs the flat statistics of the last steps: `Trainer(callbacks=[LightningCallback(dataset)])`.

    loader: the LoaderDataset, or the Loader, that trains. every_n_steps: batches between two logs, each of which
        has the counts and rates since the one before. prefix: stands before each name.

    As all loggers of Lightning do, they log on rank 0, and so these are the statistics of rank 0. Raises ConfigError if
    `every_n_steps` is below 1.
    """

    def __init__(self, loader: HasStats, every_n_steps: int = 50, prefix: str = "data/") -> None:
        self._meter, self._every = Meter(loader, prefix), check_interval(every_n_steps)
        self._batches = 0

    def on_train_batch_end(self, trainer: Any, *_: Any, **__: Any) -> None:
        """Logs, if it is time."""
        self._batches += 1
        if self._batches % self._every == 0:
            values = self._meter.read()
            for logger in trainer.loggers:
                logger.log_metrics(values, step=trainer.global_step)
