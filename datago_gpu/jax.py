"""The JAX interface: `sharded` spreads a batch over the devices of a sharding. Only this module imports jax.

sharding = NamedSharding(Mesh(jax.devices(), ("data",)), PartitionSpec("data"))
for batch in loader:
    loss = step(parameters, sharded(batch, sharding))
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np

from datago_gpu.batch import Batch
from datago_gpu.errors import ConfigError

__all__ = ["FIELDS", "rank_and_world_size", "sharded"]

FIELDS = ("image", "views", "masks", "additional_images", "latents", "present", "embeddings", "labels", "real")
"""The fields of a Batch that `sharded` takes if nothing else is asked for."""
_FURTHER = ("original_sizes", "image_sizes", "crops", "flipped", "view_crops", "view_flipped")
"""What else can be asked for."""


def sharded(
    batch: Batch, sharding: jax.sharding.Sharding, fields: Collection[str] = FIELDS, *, same_shapes: bool = False
) -> dict[str, Any]:
    """Returns the arrays of a batch as global arrays of JAX. Each process gives the samples that it has loaded.

    batch: of a Loader on the CPU or on a GPU of this process. On the CPU, JAX uses the memory of the batch where it
        can, without a copy: do not write into the batch afterwards.
    sharding: how the first axis, that of the samples, is divided among the devices, for example
        `NamedSharding(mesh, PartitionSpec("data"))`. It may divide other axes, too. Of arrays with fewer axes than the
        sharding names, the first axes are divided.
    fields: names of fields of a Batch. Beside those in FIELDS, these hold arrays: original_sizes, image_sizes, crops,
        flipped, view_crops and view_flipped.
    same_shapes: says that at each step all processes have a batch of the same shapes, though the Loader has no
        `lockstep`. With several processes a batch without `lockstep` is refused otherwise: JAX does not notice other
        shapes, and computes wrong numbers.

    Returns name -> value, with arrays of JAX in place of those of the batch. "views", "view_crops" and "view_flipped"
    are left out if there is only one view. A value is None where the batch has None. The global array has the samples
    of all processes that load different ones. JAX has no int64 by default: labels become int32 then.

    Raises ConfigError if the samples, or another axis, cannot be divided evenly, if a field is a list of arrays of
    different shapes, or if a field is None that other processes may have.

    >>> from jax.sharding import Mesh, NamedSharding, PartitionSpec
    >>> from datago_gpu import Loader
    >>> sharding = NamedSharding(Mesh(jax.devices()[:1], ("data",)), PartitionSpec("data"))
    >>> images = {"crop_and_resize": True, "default_image_size": 256}
    >>> config = {"source_type": "file", "source_config": {"root_path": "photos"}, "image_config": images}
    >>> with Loader(config | {"batch_size": 2}, device="cpu") as loader:
    ...     arrays = sharded(next(loader), sharding)
    >>> arrays["image"].shape, arrays["real"]
    ((2, 256, 256, 3), Array([ True,  True], dtype=bool))
    """
    if not isinstance(sharding, jax.sharding.Sharding):
        raise ConfigError(f"sharding must be a jax.sharding.Sharding, got {type(sharding).__name__}")
    if not isinstance(batch, Batch):
        raise ConfigError(
            f"sharded takes a Batch, as a Loader yields it, got {type(batch).__name__}: iterate over a "
            "datago_gpu.Loader, not over a LoaderDataset"
        )
    if isinstance(fields, str):
        raise ConfigError(f"fields must be a list of names, got {fields!r}: write [{fields!r}]")
    if unknown := sorted(set(fields) - {*FIELDS, *_FURTHER}):
        raise ConfigError(
            f"fields names {unknown[0]!r}, which holds no array: known are {', '.join(FIELDS + _FURTHER)}"
        )
    if not (sharding.is_fully_addressable or batch.lockstep or same_shapes):
        raise ConfigError(
            "the devices of the sharding belong to several processes, and the batch is of a loader without lockstep: "
            "its shape may differ from that of the other processes. Set lockstep to true; or, if the shapes cannot "
            "differ (one bucket, and drop_last), call sharded(..., same_shapes=True)"
        )
    single = not batch.further_views
    wanted = [name for name in fields if not (single and name in ("views", "view_crops", "view_flipped"))]
    return {name: _convert(name, getattr(batch, name), sharding, len(batch)) for name in wanted}


def rank_and_world_size(sharding: jax.sharding.Sharding) -> tuple[int, int]:
    """Returns which share of the samples this process must load for arrays of a sharding, as `rank` and `world_size`.

    Processes whose devices hold other parts of the same samples (tensor, pipeline or context parallel) get the same
    rank: set both numbers in `source_config` then. Raises ConfigError if the samples cannot be divided by processes.
    """
    rows = _rows(_of_axes(sharding, 1), 1)
    return rows.rank, rows.world_size


class _Rows(NamedTuple):
    """Which samples the devices of this process hold. A shard is a part of the samples."""

    rank: int
    world_size: int
    """How many processes load different samples."""
    shards: int
    """Of this process."""
    shard_of: dict[jax.Device, int]
    """Device of this process -> its shard, counted from 0."""


@lru_cache(maxsize=128)
def _rows(sharding: jax.sharding.Sharding, axes: int) -> _Rows:
    """Finds out how a sharding divides the first of so many axes."""
    # So many rows go with every mesh of these devices.
    shape = (len(sharding.device_set),) * axes
    begins = {device: index[0].start or 0 for device, index in sharding.devices_indices_map(shape).items()}
    held: dict[int, set[int]] = {}
    for device, begin in begins.items():
        held.setdefault(device.process_index, set()).add(begin)
    groups = sorted({tuple(sorted(of_process)) for of_process in held.values()})
    total = len(set(begins.values()))
    if sum(map(len, groups)) != total or len(groups) * len(groups[0]) != total:
        raise ConfigError(
            f"the sharding {sharding} gives some processes a part of the samples of others: let each process have "
            "samples of its own, or the same as another process"
        )
    this = jax.process_index()
    if this not in held:
        raise ConfigError(f"the sharding {sharding} has no device of this process, which is process {this}")
    mine = tuple(sorted(held[this]))
    shard_of = {device: mine.index(begin) for device, begin in begins.items() if device.process_index == this}
    return _Rows(groups.index(mine), len(groups), len(mine), shard_of)


def _convert(name: str, value: Any, sharding: jax.sharding.Sharding, count: int) -> Any:
    """Converts a field of a batch. count: the samples of the batch."""
    if isinstance(value, dict):
        return {key: _convert(f"{name}[{key!r}]", each, sharding, count) for key, each in value.items()}
    if name in ("views", "view_crops", "view_flipped"):
        return [_convert(f"{name}[{at}]", each, sharding, count) for at, each in enumerate(value)]
    if isinstance(value, list):
        raise ConfigError(
            f"{name} is a list of {count} single values, not one array: images form one with crop_and_resize true, and "
            "mixed_buckets and pre_encode_images false; latents do if all samples have one of the same shape. Or leave "
            f"{name.partition('[')[0]!r} out of `fields`"
        )
    if value is None:
        required = name.partition("[")[0] in ("masks", "additional_images", "latents")
        if required and not sharding.is_fully_addressable:
            raise ConfigError(
                f"no sample of this batch has {name}, but samples of other processes may: leave "
                f"{name.partition('[')[0]!r} out of `fields`, or load only samples that have it"
            )
        return None
    return _spread(name, value, _of_axes(sharding, len(value.shape)))


def _of_axes(sharding: jax.sharding.Sharding, axes: int) -> jax.sharding.Sharding:
    """Returns the sharding for an array of so many axes, which may be fewer than the sharding names."""
    if isinstance(sharding, jax.sharding.NamedSharding) and len(sharding.spec) > axes:
        spec = jax.sharding.PartitionSpec(*sharding.spec[:axes])
        return jax.sharding.NamedSharding(sharding.mesh, spec, memory_kind=sharding.memory_kind)
    return sharding


def _spread(name: str, array: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    """Returns the global array of which this process has `array`."""
    rows = _rows(sharding, len(array.shape))
    count = len(array)
    if count % rows.shards:
        raise ConfigError(
            f"{name} has {count} samples, which cannot be divided among {rows.shards} parts of the sharding: set "
            f"batch_size to a multiple of {rows.shards}, and lockstep or drop_last to true against short batches"
        )
    shape = (count * rows.world_size, *array.shape[1:])
    try:
        places = sharding.addressable_devices_indices_map(shape)
    except ValueError as error:
        raise ConfigError(f"{name} of shape {shape} cannot be divided by the sharding {sharding}: {error}") from error
    local = np.asarray(array) if isinstance(array, np.ndarray) else jax.dlpack.from_dlpack(array)
    size = count // rows.shards
    parts = []
    for device, index in places.items():
        begin = rows.shard_of[device] * size
        # All of a batch is not cut out: jax would copy it on a GPU.
        parts.append(local[(slice(begin, begin + size), *index[1:])] if len(places) > 1 else local)
    return jax.make_array_from_single_device_arrays(shape, sharding, jax.device_put(parts, list(places)))
