"""The form of a state in lockstep: {version, order, epoch, taken}. It is the same on all ranks.

The form is flat, and its keys are always the same, because torch.distributed.checkpoint fills in a state key by key.
Rank and world size are no part of it: `taken` has the number of samples in the global batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from datago_gpu.config import LoaderConfig
from datago_gpu.errors import ConfigError
from datago_gpu.feeder.wire import Resume
from datago_gpu.sources.reference import Counted, ListingDigest, Position

__all__ = ["LOCKSTEP_VERSION", "bucket_settings", "is_lockstep", "lockstep_state", "read_lockstep"]

LOCKSTEP_VERSION = 3
"""Other versions are of other forms: see state.py."""
_BUCKETS = ("default_image_size", "downsampling_ratio", "min_aspect_ratio", "max_aspect_ratio")


_Together = Annotated[int, Meta(ge=1, le=1 << 24)]
"""A number of samples in a global batch."""


class _Order(msgspec.Struct):
    source_type: str
    source_config: str
    """JSON of the settings that affect the order."""
    seed: int | None
    buckets: list[float]
    rows: list[int | str | bool]
    """Number and digest of the rows, and whether these are all rows; empty if nothing is known."""


class _State(msgspec.Struct):
    version: int
    order: _Order
    epoch: Counted
    taken: list[tuple[_Together, Counted]]
    delivered: Counted | None = None
    """Number of samples of all ranks in the batches delivered, over all epochs. Only with a limit."""


def is_lockstep(state: Any) -> bool:
    """Returns whether this is a state of a stream in lockstep."""
    return isinstance(state, Mapping) and "taken" in state


def bucket_settings(config: LoaderConfig) -> list[float]:
    """Returns the settings on which the buckets depend."""
    return [getattr(config.image_config, name) for name in _BUCKETS]


def lockstep_state(config: LoaderConfig, order: Mapping[str, Any], resume: Resume) -> dict[str, Any]:
    """Returns the state. order: as the states of other streams have it."""
    listed = resume.listed
    shown = _Order(
        source_type=order["source_type"],
        source_config=msgspec.json.encode(order["source_config"], order="sorted").decode(),
        seed=order.get("seed"),
        buckets=bucket_settings(config),
        rows=[listed.count, listed.digest, listed.whole] if listed else [],
    )
    state = _State(LOCKSTEP_VERSION, shown, resume.position.epoch, resume.taken)
    values: dict[str, Any] = msgspec.to_builtins(state)
    values["taken"] = [list(each) for each in resume.taken]
    if config.limit is None:
        del values["delivered"]
    else:
        values["delivered"] = resume.delivered * config.rank_and_world_size()[1]
    return values


def read_lockstep(config: LoaderConfig, state: Mapping[str, Any]) -> tuple[dict[str, Any], Resume]:
    """Returns the order of a state, as the states of other streams have it, and where to resume.

    Raises ConfigError if this is not a state.
    """
    try:
        given = msgspec.convert(state, _State)
        source = msgspec.json.decode(given.order.source_config, type=dict[str, Any])
        count, digest, whole = given.order.rows or (0, "", False)
        listed = msgspec.convert({"count": count, "digest": digest, "whole": whole}, ListingDigest)
    except (msgspec.ValidationError, msgspec.DecodeError, ValueError) as error:
        raise ConfigError(f"this is not the state of a Loader: {error!r}") from error
    if given.version != LOCKSTEP_VERSION:
        raise ConfigError(
            f"the state has version {given.version}, but with lockstep this package reads version {LOCKSTEP_VERSION}"
        )
    order = {
        "source_type": given.order.source_type,
        "source_config": source,
        "seed": given.order.seed,
        "rank": None,
        "world_size": None,
        "buckets": given.order.buckets,
    }
    delivered = given.delivered
    if delivered is None:
        delivered = sum(together * steps for together, steps in given.taken)
    world_size = config.rank_and_world_size()[1]
    return order, Resume(
        Position(given.epoch),
        delivered=delivered // world_size,
        listed=listed if given.order.rows else None,
        taken=given.taken,
    )
