"""An IterableDataset that yields batches of tensors: a Loader for each pass over the data."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from torch.utils.data import IterableDataset, get_worker_info

from datago_gpu.batch import Batch
from datago_gpu.config import ConfigLike, LoaderConfig
from datago_gpu.errors import ConfigError
from datago_gpu.feeder.wire import Resume
from datago_gpu.loader import Loader
from datago_gpu.loader.class_names import ClassNames
from datago_gpu.loader.pass_stats import PassStats
from datago_gpu.loader.planning import Plans
from datago_gpu.loader.row_setup import load_config
from datago_gpu.loader.state import check_on_change, resume_from, state_of
from datago_gpu.sources.reference import Position
from datago_gpu.torch.callers import preparing_class, saves_for_lightning
from datago_gpu.torch.tensors import TensorBatch, as_tensors

if TYPE_CHECKING:
    from datago_gpu.loader.given_rows import GivenRows
    from datago_gpu.loader.stats import Stats

__all__ = ["LoaderDataset"]

_log = logging.getLogger("datago_gpu")


class LoaderDataset(Plans, ClassNames, IterableDataset):  # type: ignore[misc]  # torch need not be there where types are checked
    """Yields batches of tensors. Each iteration is one pass over the source by a new Loader.

    config, device, backend: as for a Loader, with `epochs` 1 (the default): iterate once per pass; every pass is
        shuffled differently. With `epochs` None one iteration never ends. `limit` is of each iteration, on each rank.
    transform: is called with each TensorBatch; the dataset yields its result.
    source: rows of the program's own, as for a Loader. Every pass reads them anew.
    on_change: as for a Loader: whether a state is refused if the data has changed, or resumed with the changed data.
    taken_ahead: number of batches that the consumer prefetches. `state_dict` does not count them as done.

    Tensors share the batch's memory, on the CPU and on a GPU. Rank and world size are taken from `source_config`, else
    found at each pass, as for a Loader: in torch.distributed if it is initialised, else in what the launcher has set.

    Ranks may yield different numbers of batches, and a training step that waits for all ranks then hangs. A warning
    says so once, if torch.distributed is initialised. `lockstep` gives each rank the same number of full batches, and
    so does `epochs` None with `limit` and `drop_last`. With `epochs` None alone, count the steps.

    Lightning and the Trainer of transformers need datago_gpu.lightning.DataModule and datago_gpu.huggingface.
    accelerate takes the dataset as it is, without a DataLoader around it.

    With `lockstep`, and rows that are known before the start, len() is the number of batches of a pass. Otherwise the
    dataset has no length: the number of batches depends on which images turn out bad. A DataLoader needs
    `batch_size=None` and `num_workers=0`, because the dataset already loads in its own process. The Loader is closed
    when an iteration ends or fails, or when its iterator is dropped.

    Raises ConfigError if the settings cannot work. Iterating raises what a Loader raises.

    >>> from torch.utils.data import DataLoader
    >>> images = {"crop_and_resize": True, "default_image_size": 256, "layout": "CHW", "dtype": "float32"}
    >>> config = {"source_type": "file", "source_config": {"root_path": "photos"}, "image_config": images}
    >>> dataset = LoaderDataset(config | {"batch_size": 4}, device="cpu")
    >>> for epoch in range(2):
    ...     seen = sum(len(batch["ids"]) for batch in DataLoader(dataset, batch_size=None))
    >>> seen, epoch
    (16, 1)
    """

    def __init__(
        self,
        config: ConfigLike,
        device: object = "auto",
        backend: str | None = "auto",
        *,
        transform: Callable[[TensorBatch], Any] | None = None,
        taken_ahead: int = 0,
        source: object = None,
        on_change: str = "refuse",
    ) -> None:
        super().__init__()
        loaded, self._source = load_config(config, source)
        self.config = loaded.anchor_paths()
        if self.config.epochs not in (1, None):
            raise ConfigError(
                f"epochs is {self.config.epochs}, but a LoaderDataset makes one pass for each iteration: "
                "leave epochs out and iterate several times, as Trainer(max_epochs=...) does"
            )
        if taken_ahead < 0:
            raise ConfigError(f"taken_ahead must be 0 or more, got {taken_ahead}")
        self._on_change = check_on_change(on_change)
        self.device, self.backend, self.transform, self.taken_ahead = device, backend, transform, taken_ahead
        self.loader: Loader | None = None
        """The Loader of the current pass, else of the last one; None before the first one."""
        self._passes = PassStats()
        self._next = Resume()
        """Where the next pass begins."""
        self._state: dict[str, Any] | None = None
        """State of the current pass, or of a pass that was left early."""
        self._warned = self._told_of_lightning = False

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        if worker is not None:
            raise ConfigError(
                f"num_workers must be 0 in a DataLoader of a LoaderDataset, got {worker.num_workers}: the dataset "
                "already loads in its own process and decodes outside the GIL"
            )
        self._refuse_accelerate()
        return self._pass()

    def set_epoch(self, epoch: int) -> None:
        """Sets the number of the next pass. It begins at its start, or resumes if a state of this pass was loaded."""
        self._refuse_accelerate()
        if epoch != self._next.position.epoch:
            self._next = Resume(Position(epoch))
        self._state = None

    def stats(self) -> Stats:
        """Returns the counts of all passes so far, and the time that each stage waited in them. Any thread may call it,
        also before the first pass."""
        return self._passes.stats(self.config)

    def state_dict(self) -> dict[str, Any]:
        """Returns the position in plain values. Batches yielded, less `taken_ahead`, are done. A Loader can load it."""
        if not self.taken_ahead and not self._told_of_lightning and saves_for_lightning():
            self._told_of_lightning = True
            _log.warning(
                "Lightning saves the state of a LoaderDataset, but it may have fetched a batch that it has not trained "
                "on, and it keeps the state of rank 0 only: a resumed run then leaves out samples. Pass "
                "datago_gpu.lightning.DataModule(config) to the Trainer in place of the dataset"
            )
        return self._state or state_of(self._config(), self._next)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Makes the next iteration resume from a state. The iteration after that is the next pass.

        Raises ConfigError if the state belongs to another order of samples, or is not a state. If the data has changed
        since, the next iteration raises ConfigError, unless `on_change` is "accept".
        """
        self._next = resume_from(self._config(), state_dict, self._on_change)
        self._state = None

    def __getstate__(self) -> dict[str, Any]:
        """Copies or pickles the dataset without its Loader and its counts, which belong to this object."""
        return {**self.__dict__, "loader": None, "_planner": None, "_passes": PassStats()}

    def _planned(self) -> tuple[LoaderConfig, GivenRows | None]:
        return self._config(), self._source

    def _begin(self) -> Resume:
        return self._next

    def _current_epoch(self) -> int:
        return self._next.position.epoch

    def _pass(self) -> Iterator[Any]:
        config, begin = self._config(), self._next
        self._warn_of_uneven_ranks(config)
        epoch = begin.position.epoch
        state = state_of(config, begin)
        # `epochs` is the end of the range of passes, not their number: a Loader that resumes at pass 4 has done four.
        epochs = None if config.epochs is None else epoch + 1
        loader = Loader(
            msgspec.structs.replace(config, epochs=epochs),
            device=self.device,
            backend=self.backend,
            state=state,
            source=self._source,
            on_change=self._on_change,
        )
        self.loader, self._state, self._next = loader, state, Resume(Position(epoch + 1))
        states, whole = deque([state], self.taken_ahead + 1), False
        self._passes.begin(loader)
        try:
            with loader:
                # Not a `for` loop: its variable would keep a batch alive while the next one is loaded.
                yield from map(partial(self._convert, loader, states), loader)
            whole = True
        finally:
            self._passes.end(loader, whole=whole)
        if self.loader is loader:
            self._state = None

    def _convert(self, loader: Loader, states: deque[dict[str, Any]], batch: Batch) -> Any:
        tensors = as_tensors(batch)
        given = tensors if self.transform is None else self.transform(tensors)
        # A batch whose transform has raised is not done.
        states.append(loader.state_dict())
        if self.loader is loader:
            self._state, self._next = states[0], Resume(Position(batch.epoch + 1))
        return given

    def _refuse_accelerate(self) -> None:
        """Raises ConfigError if accelerate would share out, merge or prefetch the batches of this rank."""
        if name := preparing_class():
            rank, world_size = self.config.rank_and_world_size()
            raise ConfigError(
                f"accelerate has put its {name} around a LoaderDataset. That shares out or merges batches, but the "
                f"dataset already loads only the share of its rank (here {rank} of {world_size}); and it fetches a "
                "batch ahead, which a resumed run would leave out. Pass the LoaderDataset itself to "
                "accelerator.prepare, without a DataLoader around it, or do not prepare it; with a Trainer of "
                "transformers, use datago_gpu.huggingface.Trainer"
            )

    def _warn_of_uneven_ranks(self, config: LoaderConfig) -> None:
        even = config.epochs is None and (config.limit is None or config.drop_last)
        if self._warned or even or config.lockstep or not _is_distributed() or config.rank_and_world_size()[1] == 1:
            return
        self._warned = True
        _log.warning(
            "ranks may yield different numbers of batches, since samples and shapes differ: a step that waits for all "
            "ranks (DDP, all_reduce) then hangs at the end of a pass. Set lockstep to true; or epochs to None, and end "
            "each rank after the same number of steps; or use torch's Join. docs/several-gpus.md has recipes"
        )

    def _config(self) -> LoaderConfig:
        """Returns the settings with this process's rank and world size."""
        return self.config.with_ranks()


def _is_distributed() -> bool:
    return bool(torch.distributed.is_available() and torch.distributed.is_initialized())
