"""Logs the statistics of a loader with a Trainer of transformers. Only this module here imports transformers."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from datago_gpu.metrics.meter import Meter, check_interval
from datago_gpu.metrics.watched import HasStats

__all__ = ["HuggingFaceCallback"]


class HuggingFaceCallback(TrainerCallback):  # type: ignore[misc]  # transformers may be absent
    """Logs the flat statistics of the last steps: `trainer.add_callback(HuggingFaceCallback(trainer, dataset))`.

    trainer: the Trainer, whose `log` sends them wherever it reports to. A callback is not given the Trainer otherwise.
    loader: the LoaderDataset, or the Loader, that trains. every_n_steps: optimizer steps from log to log, of which each
        has the counts and rates since the one before. prefix: stands before each name.

    A Trainer reports on rank 0, and so these are the statistics of rank 0. Raises ConfigError if `every_n_steps` is
    below 1.
    """

    def __init__(self, trainer: Any, loader: HasStats, every_n_steps: int = 50, prefix: str = "data/") -> None:
        self._trainer, self._meter = trainer, Meter(loader, prefix)
        self._every = check_interval(every_n_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002 - given by name
        """Logs, if it is time."""
        if state.global_step % self._every == 0:
            self._trainer.log(self._meter.read())
