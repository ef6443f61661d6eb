"""The interface for Lightning: a data module that trains, validates, and goes on exactly where a checkpoint was saved.

data = DataModule(train=config, val=other_config)
Trainer(max_epochs=3).fit(model, datamodule=data, ckpt_path="last")

Lightning calls its passes over the data epochs, too: here "the trainer's epoch" is Lightning's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from datago_gpu.config import ConfigLike
from datago_gpu.decoders.select import choose
from datago_gpu.errors import ConfigError
from datago_gpu.torch.first_pass import FirstPass
from datago_gpu.torch.lightning_rules import (
    is_endless,
    lightning_package,
    refuse_limit,
    refuse_package,
    refuse_uneven_ranks,
)
from datago_gpu.torch.loader_dataset import LoaderDataset
from datago_gpu.torch.rank_states import gather_states, own_state, refuse_other_world_size
from datago_gpu.torch.tensors import TensorBatch

_PACKAGE = lightning_package()
if _PACKAGE == "pytorch_lightning":
    from pytorch_lightning import LightningDataModule
else:
    from lightning.pytorch import LightningDataModule

__all__ = ["DataModule"]

_MOST_AHEAD = 4
"""States that are kept: Lightning takes one batch ahead, and one may be under way when a checkpoint is saved."""


class DataModule(LightningDataModule):  # type: ignore[misc]  # Lightning need not be there where types are checked
    """Gives a Trainer its batches, and keeps the position of the training data in the Trainer's checkpoints.

    train, val, test, predict: each a config, as for a Loader, or a LoaderDataset. val, test and predict may also be
        lists of these. What is not given, the Trainer cannot run.
    device, backend, transform, on_change: as for a LoaderDataset, for what is given as a config. With "auto" the device
        is that of the Trainer, if it is a GPU on which this package can decode.

    Each of the trainer's epochs is a pass over the training data, numbered like the epoch, and ends early with
    `limit_train_batches`. If the config of train has `epochs` None, the data is one stream without end instead:
    `limit_train_batches` ends an epoch, and the next one continues the stream. Validation always shows the first pass.

    On several ranks, each epoch must have as many batches on all ranks: set `lockstep`, or `limit_train_batches`.

    Raises ConfigError if the settings cannot work.
    """

    def __init__(
        self,
        train: ConfigLike | LoaderDataset | None = None,
        val: Any = None,
        test: Any = None,
        predict: Any = None,
        *,
        device: object = "auto",
        backend: str | None = "auto",
        transform: Callable[[TensorBatch], Any] | None = None,
        on_change: str = "refuse",
    ) -> None:
        super().__init__()
        self._device, self._backend, self._made = device, backend, list[LoaderDataset]()
        make = partial(self._dataset, device=device, backend=backend, transform=transform, on_change=on_change)
        self.train = None if train is None else make(train)
        """The LoaderDataset of the training, for `train.stats()`."""
        others = {"val": val, "test": test, "predict": predict}
        first = partial(self._first_pass, make)
        self._others = {name: _each(first, value) for name, value in others.items() if value is not None}
        self._batches = None if self.train is None else TrainBatches(self, self.train)

    @property
    def trainer(self) -> Any:
        """The Trainer, which sets this; None before."""
        return self._trainer

    @trainer.setter
    def trainer(self, trainer: Any) -> None:
        refuse_package(trainer, _PACKAGE)
        self._trainer = trainer

    def setup(self, stage: str) -> None:
        """Chooses the device of the datasets that were given as configs. The Trainer calls this.

        Raises ConfigError if the Trainer has another number of processes than the data is shared out among.
        """
        if self.trainer is not None:
            others = [each.config for found in self._others.values() for each in _listed(found)]
            for config in others if self.train is None else [self.train.config, *others]:
                refuse_other_world_size(config, self.trainer.world_size)
        if self._device == "auto" and self.trainer is not None:
            root = self.trainer.strategy.root_device
            is_gpu = root.type == "cuda" and choose("auto", self._backend).device_id is not None
            for dataset in self._made:
                dataset.device = root if is_gpu else "cpu"
        if stage == "fit" and self._batches is not None:
            self._batches.begin()

    def teardown(self, stage: str) -> None:
        """Ends the loading. The Trainer calls this."""
        if stage == "fit" and self._batches is not None:
            self._batches.close()

    def train_dataloader(self) -> TrainBatches:
        if self._batches is None or self.train is None:
            raise ConfigError("the DataModule has nothing to train on: DataModule(train=config)")
        refuse_limit(self.trainer, "train", self.train)
        return self._batches

    def val_dataloader(self) -> Any:
        is_fitting = self.trainer is not None and self.trainer.state.fn == "fit"
        return [] if is_fitting and "val" not in self._others else self._other("val")

    def test_dataloader(self) -> Any:
        return self._other("test")

    def predict_dataloader(self) -> Any:
        return self._other("predict")

    def state_dict(self) -> dict[str, Any]:
        """Returns the position of the training data on all ranks. The Trainer calls this on all ranks."""
        if self.train is None or self._batches is None:
            return {}
        return gather_states(self._batches.position(), same_on_all=self.train.config.lockstep)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Makes the training resume from the position of this rank. Raises ConfigError if the state does not fit."""
        if self._batches is not None:
            self._batches.load(own_state(state_dict))

    def _dataset(self, given: Any, **settings: Any) -> LoaderDataset:
        if not isinstance(given, LoaderDataset):
            self._made.append(LoaderDataset(given, **settings))
            return self._made[-1]
        if given.taken_ahead:
            raise ConfigError(
                f"taken_ahead is {given.taken_ahead}, but a DataModule finds out what the Trainer has taken ahead: "
                "leave taken_ahead out"
            )
        return given

    def _first_pass(self, make: Callable[[Any], LoaderDataset], given: Any) -> FirstPass:
        return FirstPass(make(given), self.train)

    def _other(self, name: str) -> Any:
        if name not in self._others:
            raise ConfigError(f"the DataModule has no data for this: DataModule({name}=config)")
        found = self._others[name]
        for each in _listed(found):
            refuse_limit(self.trainer, name, each.source_dataset)
        return found


class TrainBatches:
    """What the Trainer iterates over, once in each of its epochs."""

    def __init__(self, module: DataModule, dataset: LoaderDataset) -> None:
        self._module, self._dataset = module, dataset
        self._stream: Iterator[Any] | None = None
        """The iterator of a stream without end, which all of the trainer's epochs share."""
        self.begin()

    def begin(self) -> None:
        """Forgets what was loaded for an earlier run."""
        self.close()
        self._loaded: dict[str, Any] | None = None
        # A Trainer that has trained before goes on with its next epoch.
        self._epoch = self._pass_number = self._trainer_epoch() - 1
        self._has_ended = False
        self._states = deque([self._dataset.state_dict()], _MOST_AHEAD)
        before = {"epoch": self._epoch, "pass": self._pass_number, "has_ended": False, "state": self._states[-1]}
        self._before: dict[str, Any] = before
        """The position before the current iteration."""
        self._yielded = self._processed_before = 0
        self._looks_ahead = False

    def close(self) -> None:
        """Closes the stream without end. Its position is kept."""
        if self._stream is not None:
            self._stream.close()  # type: ignore[attr-defined]  # a generator
        self._stream = None

    def __iter__(self) -> Iterator[Any]:
        refuse_uneven_ranks(self._module.trainer, self._dataset.config)
        if not self._is_endless():
            return self._pass()
        if self._stream is None:
            self._stream = self._endless()
        return self._stream

    def __len__(self) -> int:
        """Returns the number of batches of a pass. Raises TypeError if it is not known."""
        if self._is_endless():
            raise TypeError("a stream without end has no length")
        return len(self._dataset)

    def __bool__(self) -> bool:
        return True

    def state_dict(self) -> dict[str, Any]:
        """Returns nothing, but tells Lightning that a resumed run does not begin anew. The module keeps the state."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Does nothing: see `state_dict`."""

    def position(self) -> dict[str, Any]:
        """Returns where this rank is, without the batches that the Trainer has taken but not processed."""
        trained = self._trained()
        if not trained:
            return self._before
        ahead = self._yielded - trained
        has_ended = self._has_ended and not ahead
        state = self._dataset.state_dict() if has_ended else self._states[-1 - ahead]
        return {"epoch": self._epoch, "pass": self._pass_number, "has_ended": has_ended, "state": state}

    def load(self, position: dict[str, Any]) -> None:
        """Goes to a position. Raises ConfigError if it is none, or belongs to another order of samples."""
        if not isinstance(position, dict) or not position.keys() >= self._before.keys():
            raise ConfigError("this is not the state of a DataModule: it has no position of the Trainer's epoch")
        self.begin()
        self._dataset.load_state_dict(position["state"])
        self._loaded = self._before = position

    def _pass(self) -> Iterator[Any]:
        """Yields the batches of the next pass: all, or if a position within it was loaded, the rest.

        A generator does not run before its first batch is wanted.
        """
        self._before, trained = self.position(), self._trained()
        loaded = None if trained else self._loaded
        if loaded and not loaded["has_ended"] and loaded["epoch"] == self._trainer_epoch():
            self._pass_number = loaded["pass"]
            self._dataset.load_state_dict(loaded["state"])
        else:
            # Lightning may begin an iteration, and drop it for another one before it trains.
            self._pass_number = self._before["pass"] + 1
            self._dataset.set_epoch(self._first_or(self._pass_number))
        self._has_ended = False
        yield from self._noted()
        self._has_ended = True

    def _endless(self) -> Iterator[Any]:
        yield from self._noted()

    def _noted(self) -> Iterator[Any]:
        """Yields batches, and keeps the last few states."""
        loop = None if self._module.trainer is None else self._module.trainer.fit_loop
        # A training_step with the parameter dataloader_iter takes batches itself: those are not taken ahead.
        self._looks_ahead = hasattr(getattr(loop, "_data_fetcher", None), "batches")
        self._yielded, self._processed_before = 0, self._processed()
        self._states.append(self._dataset.state_dict())
        yield from map(self._note, self._dataset)

    def _note(self, batch: Any) -> Any:
        self._yielded, self._epoch = self._yielded + 1, self._trainer_epoch()
        self._states.append(self._dataset.state_dict())
        return batch

    def _trained(self) -> int:
        """Returns how many batches of the current iteration the Trainer has trained on."""
        return self._processed() - self._processed_before if self._looks_ahead else self._yielded

    def _processed(self) -> int:
        """Returns how many batches the Trainer has trained on, in all of its epochs."""
        trainer = self._module.trainer
        return 0 if trainer is None else int(trainer.fit_loop.epoch_loop.batch_progress.total.processed)

    def _trainer_epoch(self) -> int:
        return 0 if self._module.trainer is None else int(self._module.trainer.current_epoch)

    def _first_or(self, number: int) -> int:
        """Returns the number of a pass, or with `overfit_batches` that of the first, which is shown in each epoch."""
        trainer = self._module.trainer
        return 0 if trainer is not None and trainer.overfit_batches else number

    def _is_endless(self) -> bool:
        """Returns whether all epochs share one stream. With `overfit_batches`, each of them has its first batches."""
        trainer = self._module.trainer
        is_overfit = trainer is not None and trainer.overfit_batches
        return is_endless(self._dataset.config) and not is_overfit


def _each(make: Callable[[Any], FirstPass], given: Any) -> FirstPass | list[FirstPass]:
    return [make(one) for one in given] if isinstance(given, list | tuple) else make(given)


def _listed(found: FirstPass | list[FirstPass]) -> list[FirstPass]:
    return found if isinstance(found, list) else [found]
