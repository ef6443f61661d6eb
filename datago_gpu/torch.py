"""The PyTorch interface: an IterableDataset that yields batches of tensors. Only this module imports torch.

dataset = LoaderDataset(config)
for batch in dataset: ...                                            # by itself,
for batch in DataLoader(dataset, batch_size=None): ...               # behind a DataLoader,
Trainer(max_epochs=3).fit(model, train_dataloaders=dataset)          # or in Lightning
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info
from torch.utils.data._utils.collate import default_collate_fn_map

from datago_gpu.batch import COLUMNS, ON_DEVICE, Batch
from datago_gpu.batch_sample import generator_of
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

if TYPE_CHECKING:
    from datago_gpu.loader.given_rows import GivenRows
    from datago_gpu.loader.stats import Stats

__all__ = ["Bucket", "LoaderDataset", "TensorBatch", "as_tensors"]

_log = logging.getLogger("datago_gpu")

_PLAIN = frozenset(COLUMNS.values()) - ON_DEVICE
"""Fields that hold no arrays. `as_tensors` does not search them, because they can be large."""


_SHARING = ("DataLoaderDispatcher", "IterableDatasetShard")
"""Classes of accelerate: one process iterates for all; or each takes a part of what it iterates over."""


class Bucket(NamedTuple):
    """Height and width in pixels of all images of a batch. Equal to the plain tuple, but a DataLoader keeps it as it is
    (it turns plain tuples into lists)."""

    height: int
    width: int


class TensorBatch(dict[str, Any]):
    """Maps the field names of a `Batch` to their values, with tensors in place of arrays.

    image: (N, H, W, 3) or (N, 3, H, W), of the dtype set in `image_config`, on the loader's device; a list of N
        tensors without `crop_and_resize`; None without `require_images`.
    masks, additional_images, latents: name -> tensor, list or None, as in a Batch.
    embeddings: float32 (N, D), or None. labels: int64 (N,), or None.
    original_sizes, image_sizes, crops, flipped, present, real, sample_epochs: on the host: int32 (N, 2) twice,
        float32 (N, 4), bool (N,), name -> bool (N,), bool (N,), and int64 (N,).
    views, view_crops, view_flipped: with `image_config.views` only: for each view what `image`, `crops` and `flipped`
        are for the first one.
    bucket: a Bucket (height, width), or None. epoch: number of the pass, counted from 0. seed, lockstep: the settings.
    ids, sources, attributes, tags, duplicate_states, mix, pass_numbers: lists of N.
    """

    def rng(self, index: int, view: int = 0) -> np.random.Generator:
        """Returns a generator of random numbers that belongs to one sample: see `Batch.rng`."""
        epoch, pass_number = self["sample_epochs"][index], self["pass_numbers"][index]
        return generator_of(self["seed"], epoch, pass_number, self["ids"][index], view)


class LoaderDataset(Plans, ClassNames, IterableDataset):  # type: ignore[misc]  # torch need not be there where types are checked
    """Yields batches of tensors, for torch and Lightning. Each iteration is one pass over the source by a new Loader.

    config, device, backend: as for a Loader, with `epochs` 1 (the default): iterate once per pass; every pass is
        shuffled differently. With `epochs` None one iteration never ends. `limit` is of each iteration, on each rank.
    transform: is called with each TensorBatch; the dataset yields its result.
    source: rows of the program's own, as for a Loader. Every pass reads them anew.
    on_change: as for a Loader: whether a state is refused if the data has changed, or resumed with the changed data.
    taken_ahead: number of batches that the consumer prefetches: 1 for a Lightning Trainer, which looks one batch ahead,
        but not where the dataset has a length. `state_dict` does not count these batches as done.

    Tensors share the batch's memory, on the CPU and on a GPU. Rank and world size are taken from `source_config`, else
    found at each pass, as for a Loader: in torch.distributed if it is initialised, else in what the launcher has set.

    Ranks may yield different numbers of batches, and a training step that waits for all ranks then hangs. A warning
    says so once, if torch.distributed is initialised. `lockstep` gives each rank the same number of full batches, and
    so does `epochs` None with `limit` and `drop_last`.

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
        self._warned = False

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        if worker is not None:
            raise ConfigError(
                f"num_workers must be 0 in a DataLoader of a LoaderDataset, got {worker.num_workers}: the dataset "
                "already loads in its own process and decodes outside the GIL"
            )
        self._refuse_second_share()
        return self._pass()

    def set_epoch(self, epoch: int) -> None:
        """Sets the number of the next pass. It begins at its start, or resumes if a state of this pass was loaded."""
        if epoch != self._next.position.epoch:
            self._next = Resume(Position(epoch))
            self._state = None

    def stats(self) -> Stats:
        """Returns the counts of all passes so far, and the time that each stage waited in them. Any thread may call it,
        also before the first pass."""
        return self._passes.stats(self.config)

    def state_dict(self) -> dict[str, Any]:
        """Returns the position in plain values. Batches yielded, less `taken_ahead`, are done. A Loader can load it."""
        return self._state or state_of(self._config(), self._next)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Makes the next iteration resume from a state. The iteration after that is the next pass.

        Raises ConfigError if the state belongs to another order of samples, or is not a state. If the data has changed
        since, the next iteration raises ConfigError, unless `on_change` is "accept".
        """
        self._next = resume_from(self._config(), state_dict, self._on_change)
        self._state = None

    def __getstate__(self) -> dict[str, Any]:
        """Pickles the dataset without its Loader, which belongs to this process."""
        return {**self.__dict__, "loader": None, "_planner": None}

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
        states.append(loader.state_dict())
        if self.loader is loader:
            self._state, self._next = states[0], Resume(Position(batch.epoch + 1))
        tensors = as_tensors(batch)
        return tensors if self.transform is None else self.transform(tensors)

    def _refuse_second_share(self) -> None:
        """Raises ConfigError if accelerate would share out the batches of one rank: the others' would not be seen."""
        rank, world_size = self.config.rank_and_world_size()
        if world_size > 1 and (name := _sharing_class()):
            raise ConfigError(
                f"accelerate's {name} shares out the batches of one process, but a LoaderDataset already loads only "
                f"the share of its rank (here {rank} of {world_size}), so most samples would never be seen. Pass the "
                "LoaderDataset itself to accelerator.prepare, or nothing; in a Trainer of transformers, return it from "
                "get_train_dataloader"
            )

    def _warn_of_uneven_ranks(self, config: LoaderConfig) -> None:
        even = config.epochs is None and config.limit is not None and config.drop_last
        if self._warned or even or config.lockstep or not _is_distributed() or config.rank_and_world_size()[1] == 1:
            return
        self._warned = True
        _log.warning(
            "ranks may yield different numbers of batches, since samples and shapes differ: a step that waits for all "
            "ranks (DDP, all_reduce) then hangs at the end of a pass. Set lockstep to true; or epochs to None, limit "
            "to the samples of each rank and pass (a multiple of batch_size), and drop_last to true; or use torch's "
            "Join. docs/several-gpus.md has recipes"
        )

    def _config(self) -> LoaderConfig:
        """Returns the settings with this process's rank and world size."""
        return self.config.with_ranks()


def _sharing_class() -> str:
    """Returns the name of the class of accelerate, also used by transformers, that shares out what it iterates over; ""
    if none of them is calling."""
    frame = inspect.currentframe() if "accelerate.data_loader" in sys.modules else None
    while frame is not None:
        name, _, _ = frame.f_code.co_qualname.partition(".")
        if name in _SHARING and frame.f_globals.get("__name__") == "accelerate.data_loader":
            return name
        frame = frame.f_back
    return ""


def _is_distributed() -> bool:
    return bool(torch.distributed.is_available() and torch.distributed.is_initialized())


def as_tensors(batch: Batch) -> TensorBatch:
    """Returns the fields of a batch, with tensors that share the memory of its arrays."""
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    values |= {name: _tensors(value) for name, value in values.items() if name not in _PLAIN}
    if values.pop("further_views"):  # otherwise `image` would be copied twice by whoever moves the tensors
        views = {name: _tensors(getattr(batch, name)[1:]) for name in ("views", "view_crops", "view_flipped")}
        first = {"views": "image", "view_crops": "crops", "view_flipped": "flipped"}
        values |= {name: [values[first[name]], *further] for name, further in views.items()}
    if batch.bucket is not None:
        values["bucket"] = Bucket(*batch.bucket)
    return TensorBatch(values)


def _tensors(value: Any) -> Any:
    """Converts arrays to tensors, also within dicts and lists. Other values stay unchanged."""
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype.name == "bfloat16":
            return _tensors(array.view(np.int16)).view(torch.bfloat16)
        try:
            return torch.from_numpy(array if array.flags.writeable else array.copy())
        except TypeError:  # torch has no such dtype, such as "|V2" (numpy's dtype for bfloat16)
            return array
    if isinstance(value, dict):
        return {name: _tensors(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_tensors(each) for each in value]
    return torch.from_dlpack(value) if hasattr(value, "__dlpack__") else value


def _refuse_collation(*_: Any, **__: Any) -> Any:
    raise ConfigError(
        "a LoaderDataset yields whole batches: set batch_size=None in the DataLoader, and LoaderConfig's batch_size"
    )


default_collate_fn_map[TensorBatch] = _refuse_collation
