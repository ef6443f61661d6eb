"""The form of a state in lockstep: {version, order, epoch, taken}. It is the same on all ranks.

The form is flat, and its keys are always the same, because torch.distributed.checkpoint fills in a state key by key.
Rank and world size are no part of it: `taken` has the number of samples in the global batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from datago_gpu.config import LoaderConfig
from datago_gpu.errors import ConfigError
from datago_gpu.feeder.wire import Resume
from datago_gpu.plan.taken import Together, check_together
from datago_gpu.sources.reference import Counted, ListingDigest, Position

__all__ = ["LOCKSTEP_VERSION", "bucket_settings", "is_lockstep", "lockstep_state", "read_lockstep"]

LOCKSTEP_VERSION = 3
"""Other versions are of other forms: see state.py."""
_BUCKETS = ("default_image_size", "downsampling_ratio", "min_aspect_ratio", "max_aspect_ratio")
_FURTHER = {"resolutions": None, "buckets": None, "upscale": True}
"""Further settings of the buckets, and their defaults."""


class _Order(msgspec.Struct):
    source_type: str
    source_config: str
    """JSON of the settings that affect the order."""
    seed: int | None
    buckets: list[float | str]
    """Four numbers; and if there are further settings of the buckets, JSON of these."""
    rows: list[int | str | bool]
    """Number and digest of the rows, and whether these are all rows; empty if nothing is known."""


class _State(msgspec.Struct):
    version: int
    order: _Order
    epoch: Counted
    taken: list[tuple[Together, Counted]]
    delivered: Counted | None = None
    """Number of samples of all ranks in the batches delivered, over all epochs. Only with a limit or `batch_pixels`."""


def is_lockstep(state: Any) -> bool:
    """Returns whether this is a state of a stream in lockstep."""
    return isinstance(state, Mapping) and "taken" in state


def bucket_settings(config: LoaderConfig) -> list[float | str]:
    """Returns the settings on which the buckets of the rows depend."""
    image = config.image_config.of_view(0)
    further = {name: getattr(image, name) for name, default in _FURTHER.items() if getattr(image, name) != default}
    if config.source_config.min_short_edge > 0:
        further["min_short_edge"] = config.source_config.min_short_edge
    if config.source_type == "mix":
        further |= _further_of_sources(config)
    shown = [msgspec.json.encode(further).decode()] if further else []
    return [*(getattr(image, name) for name in _BUCKETS), *shown]


def _further_of_sources(config: LoaderConfig) -> dict[str, Any]:
    """Returns the further settings of each source of a mix, if a source has any."""
    of_sources = {name: bucket_settings(each)[len(_BUCKETS) :] for name, each in config.by_source().items()}
    own = {name: found for name, found in of_sources.items() if found}
    return {"mix": own} if own else {}


def lockstep_state(config: LoaderConfig, order: Mapping[str, Any], resume: Resume) -> dict[str, Any]:
    """Returns the state. order: as the states of other streams have it."""
    listed = resume.listed
    if config.source_type == "mix" and listed and listed.samples:
        order = {**order, "source_config": {**order["source_config"], "stretches": msgspec.json.decode(listed.samples)}}
    shown = _Order(
        source_type=order["source_type"],
        source_config=msgspec.json.encode(order["source_config"], order="sorted").decode(),
        seed=order.get("seed"),
        buckets=bucket_settings(config),
        rows=[listed.count, listed.digest, listed.whole] if listed else [],
    )
    state = _State(LOCKSTEP_VERSION, shown, resume.position.epoch, resume.taken)
    values: dict[str, Any] = msgspec.to_builtins(state)
    values["taken"] = msgspec.json.decode(msgspec.json.encode(resume.taken))
    if config.limit is None and config.batch_pixels is None:
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
        for together, _ in given.taken:
            check_together(together)
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
        # Of a run with batch_pixels, this is the least that it can be. Only a limit needs the exact number.
        delivered = sum(steps * (each if isinstance(each, int) else each[1]) for each, steps in given.taken)
    world_size = config.rank_and_world_size()[1]
    return order, Resume(
        Position(given.epoch),
        delivered=delivered // world_size,
        listed=listed if given.order.rows else None,
        taken=given.taken,
    )
