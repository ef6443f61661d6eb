"""The interface for the Trainer of transformers, which goes on exactly where a checkpoint was saved.

Trainer(model, arguments, train_dataset=LoaderDataset(config, transform=inputs_of_the_model)).train()

class MyTrainer(LoaderMixin, Seq2SeqTrainer): ...                    # for a Trainer of your own
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from itertools import repeat
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from torch.utils.data import DataLoader, IterableDataset
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint

from datago_gpu.errors import ConfigError
from datago_gpu.torch.first_pass import FirstPass
from datago_gpu.torch.loader_dataset import LoaderDataset
from datago_gpu.torch.rank_states import refuse_other_world_size
from datago_gpu.torch.tensors import Bucket

if TYPE_CHECKING:
    from transformers import Trainer as _Base
else:
    _Base = object

__all__ = ["LoaderMixin", "Trainer"]


class LoaderMixin(_Base):  # type: ignore[misc]  # transformers need not be there where types are checked
    """Makes a Trainer take a LoaderDataset for training, evaluation and prediction. It is to be the first base class.

    The model gets what the dataset's `transform` returns: a dict of its arguments. The batch size is that of the
    config, and no data collator is called. Other datasets are treated as before.

    `num_train_epochs` needs a length, which `lockstep` with a table has. Otherwise set `max_steps`. On several ranks,
    training needs `lockstep`, or `epochs` None with `max_steps`; evaluation, which always shows the first pass, needs
    `lockstep`. Each rank adds a file with its position to each checkpoint: "datago_RANK.json".
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._position: dict[str, Any] | None = None
        super().__init__(*args, **kwargs)
        self.add_callback(_SavePosition(self))

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Trains. resume_from_checkpoint: the folder of a checkpoint, or True for the last one.

        Raises ConfigError if the checkpoint has no position of this rank, or does not fit the settings.
        """
        is_last = resume_from_checkpoint is True
        folder = get_last_checkpoint(self.args.output_dir) if is_last else resume_from_checkpoint
        is_ours = isinstance(self.train_dataset, LoaderDataset)
        self._position = self._read_position(Path(str(folder))) if folder and is_ours else None
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def get_train_dataloader(self) -> Any:
        dataset = self.train_dataset
        if not isinstance(dataset, LoaderDataset):
            return super().get_train_dataloader()
        refuse_other_world_size(dataset.config, self.args.world_size)
        if self.args.world_size > 1 and not dataset.config.lockstep and dataset.config.epochs is not None:
            raise ConfigError(
                f"{self.args.world_size} ranks may have different numbers of batches in a pass, and then wait for each "
                "other for ever: set lockstep to true in the config; or epochs to None, and max_steps in the "
                "TrainingArguments"
            )
        if self._position:
            dataset.load_state_dict(self._position["state"])
        return _TrainLoader(_TrainBatches(dataset, self._position["batches"] if self._position else 0))

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(eval_dataset, str):
            dataset = self.eval_dataset[eval_dataset]
        if isinstance(dataset, LoaderDataset):
            return self._first_pass(dataset)
        return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        if isinstance(test_dataset, LoaderDataset):
            return self._first_pass(test_dataset)
        return super().get_test_dataloader(test_dataset)

    def _prepare_input(self, data: Any) -> Any:
        # transformers makes tuples anew of an iterator, which a named tuple is not made of.
        return data if isinstance(data, Bucket) else super()._prepare_input(data)

    def num_examples(self, dataloader: Any) -> int:
        """Returns the number of samples of all ranks. Every batch counts as a full one."""
        if not isinstance(dataloader, _TrainLoader | FirstPass):
            return int(super().num_examples(dataloader))
        return len(dataloader) * int(dataloader.config.batch_size) * int(self.args.world_size)

    def position(self) -> dict[str, Any]:
        """Returns where this rank is, and the number of batches that a resumed Trainer will skip."""
        dataset, steps, each = self.train_dataset, self.state.global_step, self.args.gradient_accumulation_steps
        with suppress(TypeError):  # without a length, the trainer's epoch goes on until max_steps
            steps %= max(1, ceil(len(dataset) / each))
        return {"run": self._run(), "batches": steps * each, "state": dataset.state_dict()}

    def _run(self) -> dict[str, int]:
        """Returns the settings by which a Trainer counts its batches."""
        return {
            "ranks": self.args.world_size,
            "batch_size": self.train_dataset.config.batch_size,
            "gradient_accumulation_steps": self.args.gradient_accumulation_steps,
        }

    def _read_position(self, folder: Path) -> dict[str, Any]:
        files = [position_file(folder, self.args.process_index)]
        if self.train_dataset.config.lockstep:  # all ranks have the same position
            files += sorted(folder.glob("datago_*.json"))
        file = next((file for file in files if file.exists()), None)
        if file is None:
            raise ConfigError(
                f"{files[0]} does not exist, so where this rank was is not known: the checkpoint was saved on fewer "
                "ranks, or by a Trainer without datago_gpu.huggingface.LoaderMixin. Train without "
                "resume_from_checkpoint, from the checkpoint's model"
            )
        try:
            found: dict[str, Any] = json.loads(file.read_text())
            saved_with = found["run"]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{file} holds no position ({error!r}), as a full disk or a killed program leaves it: resume from an "
                "earlier checkpoint"
            ) from error
        if saved_with != self._run():
            raise ConfigError(
                f"{file} was saved with {saved_with}, but here is {self._run()}, and a Trainer counts its steps by "
                "these settings: use those of the checkpoint"
            )
        return found

    def _first_pass(self, dataset: LoaderDataset) -> FirstPass:
        refuse_other_world_size(dataset.config, self.args.world_size)
        if self.args.world_size > 1 and not dataset.config.lockstep:
            raise ConfigError(
                f"{self.args.world_size} ranks may have different numbers of batches to evaluate, and then wait for "
                "each other for ever: set lockstep to true in the config of the evaluation"
            )
        return FirstPass(dataset, self.train_dataset)


class Trainer(LoaderMixin, transformers.Trainer):  # type: ignore[misc]  # as above
    """The Trainer of transformers, which also takes a LoaderDataset: see LoaderMixin."""


def position_file(folder: Path, rank: int) -> Path:
    """Returns the file in the folder of a checkpoint that has the position of a rank."""
    return folder / f"datago_{rank}.json"


class _SavePosition(transformers.TrainerCallback):  # type: ignore[misc]  # as above
    """Adds the position of each rank to a checkpoint."""

    def __init__(self, trainer: LoaderMixin) -> None:
        self._trainer = trainer

    def on_save(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        if isinstance(self._trainer.train_dataset, LoaderDataset) and folder.exists():
            text = json.dumps(self._trainer.position())
            position_file(folder, args.process_index).write_text(text)


class _TrainBatches(IterableDataset):  # type: ignore[misc]  # as above
    """Yields the batches of an epoch of the Trainer.

    A resumed Trainer does not know that the dataset goes on where it was: it drops as many batches as it has trained
    on. So that many empty ones come first. to_drop: how many.
    """

    def __init__(self, dataset: LoaderDataset, to_drop: int) -> None:
        self.dataset, self.to_drop = dataset, to_drop

    def __iter__(self) -> Iterator[Any]:
        to_drop, self.to_drop = self.to_drop, 0
        yield from repeat(None, to_drop)
        yield from self.dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __bool__(self) -> bool:
        return True


class _TrainLoader(DataLoader):  # type: ignore[misc]  # as above
    """What a Trainer iterates over, once in each of its epochs.

    To drop batches, a Trainer does not iterate over this, but makes a DataLoader of its own around the dataset.
    """

    def __init__(self, batches: _TrainBatches) -> None:
        super().__init__(batches, batch_size=None, collate_fn=_unchanged)
        self.config = batches.dataset.config

    def __iter__(self) -> Any:
        self.dataset.to_drop = 0
        return super().__iter__()

    def set_epoch(self, epoch: int) -> None:
        """Begins the pass of this number, if the trainer's epochs are passes: that is, if there is a length."""
        try:
            len(self.dataset)
        except TypeError:
            return
        self.dataset.dataset.set_epoch(epoch)


def _unchanged(batch: Any) -> Any:
    return batch
