"""The states of all ranks in one value, for frameworks that keep the value of one rank only."""

from __future__ import annotations

from typing import Any

from torch import distributed

from datago_gpu.config import LoaderConfig
from datago_gpu.config.ranks import find_ranks
from datago_gpu.errors import ConfigError
from datago_gpu.torch.loader_dataset import LoaderDataset

__all__ = ["StateOfAllRanks", "gather_states", "own_state", "refuse_other_world_size"]


class StateOfAllRanks:
    """Saves and loads the position of a LoaderDataset on all ranks, as one value.

    Use it where a framework writes the state of rank 0 and gives it to all ranks, as accelerate does:
    `accelerator.register_for_checkpointing(StateOfAllRanks(dataset))`.

    Without `lockstep`, the same number of ranks must load the state. In lockstep any number may.
    """

    def __init__(self, dataset: LoaderDataset) -> None:
        self._dataset = dataset

    def state_dict(self) -> dict[str, Any]:
        """Returns the states of all ranks in plain values. All ranks must call this together, except in lockstep."""
        return gather_states(self._dataset.state_dict(), same_on_all=self._dataset.config.lockstep)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Makes the next iteration resume from the state of this rank.

        Raises ConfigError if the state is of another number of ranks, or of another order of samples.
        """
        self._dataset.load_state_dict(own_state(state_dict))


def gather_states(state: dict[str, Any], *, same_on_all: bool) -> dict[str, Any]:
    """Returns a value with the states of all ranks, which must call this together unless their states are the same."""
    if same_on_all or not _is_distributed():
        return {"ranks": [state]}
    states: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(states, state)
    return {"ranks": states}


def own_state(states: dict[str, Any]) -> dict[str, Any]:
    """Returns the state of this rank, from a value of `gather_states`. Raises ConfigError if there is none."""
    ranks = states.get("ranks") if isinstance(states, dict) else None
    if not isinstance(ranks, list) or not ranks:
        shown = f"it has the keys {[*states]}" if isinstance(states, dict) else f"it is a {type(states).__name__}"
        raise ConfigError(f"this is not the state of all ranks of a LoaderDataset: {shown}")
    rank, count = (distributed.get_rank(), distributed.get_world_size()) if _is_distributed() else (0, 1)
    if len(ranks) not in (1, count):
        raise ConfigError(
            f"the state is of {len(ranks)} ranks, but here are {count}: only the state of a run in lockstep suits any "
            "number of ranks. Use as many ranks as before, or start without the state"
        )
    found: dict[str, Any] = ranks[rank if len(ranks) > 1 else 0]
    return found


def refuse_other_world_size(config: LoaderConfig, processes: int) -> None:
    """Raises ConfigError if the data would be shared out among more or fewer processes than a Trainer has, for example
    where torchrun starts two, but each makes a Trainer of its own. `source_config` may say what is meant."""
    source, shares = config.source_config, config.rank_and_world_size()[1]
    origin = find_ranks().origin or "the environment"
    if source.rank is None and source.world_size is None and shares != processes:
        raise ConfigError(
            f"the Trainer trains in {processes} process(es), but by {origin} there are "
            f"{shares}, among which the data would be shared out. Start {processes} process(es); or make a Trainer of "
            f"{shares}: for Lightning Trainer(devices=..., strategy='ddp'), for transformers on CPUs "
            "TrainingArguments(use_cpu=True); or set rank and world_size in source_config"
        )


def _is_distributed() -> bool:
    return bool(distributed.is_available() and distributed.is_initialized())
