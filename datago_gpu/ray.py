"""The Ray Data interface: `read` makes a Dataset of samples. Only this module imports ray.

samples = datago_gpu.ray.read(config, override_num_blocks=64)
samples.map_batches(Model, compute=ActorPoolStrategy(size=8), num_gpus=1).write_parquet("s3://bucket/embeddings")
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray.data import Dataset, Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.data.extensions import ArrowPythonObjectArray, ArrowTensorArray

from datago_gpu.batch import Batch
from datago_gpu.config import ConfigLike, LoaderConfig, MixSource
from datago_gpu.config.lockstep_rules import JUDGED_FROM
from datago_gpu.decoders.device import on_host
from datago_gpu.errors import ConfigError, TooManyErrors
from datago_gpu.loader import Loader
from datago_gpu.loader.on_thread import call_on_thread
from datago_gpu.loader.row_setup import load_config
from datago_gpu.sources.class_labels import UNLABELLED

if TYPE_CHECKING:
    from datago_gpu.loader.given_rows import GivenRows

__all__ = ["read"]


def read(
    config: ConfigLike,
    *,
    source: object = None,
    device: object = "cpu",
    backend: str | None = "auto",
    **options: Any,
) -> Dataset:
    """Returns a Dataset of Ray that has each sample of one pass once.

    A read task of Ray is one rank: with n blocks, task i loads the share of rank i of n, with a Loader of its own,
    where Ray runs the task. So each task lists the source, as each rank of a training does.

    config, source, backend: as for a Loader. An iterator is refused as `source`: each task reads the rows anew.
    device: where the tasks decode: "cpu"; or "cuda", with `num_gpus` among the options. Rows are on the CPU always.
    options: of `ray.data.read_datasource`, such as `override_num_blocks` (the number of tasks; by default the number of
        CPUs of the cluster), `concurrency`, `num_cpus` (of a task, which decodes with as many threads), `num_gpus`, and
        `compute=ActorPoolStrategy(size=4)` to decode in actors.

    Columns: id, source, image, label (-1 without a class), attributes and tags (JSON), original_size, crop and flipped,
    as the fields of a `Sample`. Images are tensors, or bytes with `pre_encode_images`. Further columns are there if the
    settings ask for them: "views.1" and so on; "masks.NAME" and "additional_images.NAME" (zeros where a sample has
    none) and "latents.NAME", each with "present.NAME"; embedding, duplicate_state and mix.

    A mix needs `repeat` for its sources: by weights, smaller sources would come more than once.

    Raises ConfigError if the settings cannot work. What a Loader raises is the cause of the error that Ray raises.
    """
    loaded, rows = load_config(config, source)
    _check(loaded, rows)
    if not ray.is_initialized():
        ray.init()
    blocks = options.get("override_num_blocks")
    if blocks == 0:
        raise ConfigError(
            "override_num_blocks is 0, so nothing would be read: give the number of tasks, or leave it out"
        )
    if blocks is None:
        options["override_num_blocks"] = max(1, int(ray.cluster_resources().get("CPU", 1)))
    return ray.data.read_datasource(_Samples(loaded.anchor_paths(), rows, device, backend), **options)


def _check(config: LoaderConfig, rows: GivenRows | None) -> None:
    """Raises ConfigError for settings that do not go with read tasks."""
    source = config.source_config
    if source.rank is not None or source.world_size is not None:
        raise ConfigError("source_config.rank and world_size are those of each read task: leave them out")
    if config.draws_from_server:
        raise ConfigError(
            "source_config.random_method 'server' draws samples without end, but a Dataset has each sample once: use "
            "'shuffle'"
        )
    if isinstance(source, MixSource) and not source.repeats:
        raise ConfigError(
            "a mixture by weight begins smaller sources again, but a Dataset has each sample once: give each source "
            "repeat: 1 in place of its weight, or read the sources one by one and join them with Dataset.union"
        )
    for name, without in (("epochs", 1), ("limit", None), ("lockstep", False)):
        if (value := getattr(config, name)) != without:
            raise ConfigError(
                f"{name} is {value}, which does not go with Ray Data: a Dataset is one pass, with each sample once. "
                f"Leave {name} out; Dataset.limit and Dataset.random_sample choose samples"
            )
    if config.image_config.dtype == "bfloat16":
        raise ConfigError("image_config.dtype 'bfloat16' has no type in Arrow: use 'float32', 'float16' or 'uint8'")
    if rows is not None and rows.once:
        raise ConfigError(
            "the source is an iterator, which one task alone could walk through: give a sequence, an iterable, or a "
            "function that returns an iterator"
        )


class _Samples(Datasource):  # type: ignore[misc]  # ray need not be there where types are checked
    """Makes the read tasks. Ray's log and dashboard name them ReadDatagoGpu."""

    def __init__(self, config: LoaderConfig, rows: GivenRows | None, device: object, backend: str | None) -> None:
        super().__init__()
        self._config, self._rows, self._device, self._backend = config, rows, device, backend

    def get_name(self) -> str:
        return "DatagoGpu"

    def estimate_inmemory_data_size(self) -> int | None:
        """Returns about how many bytes the images take as tensors. None if their sizes or number are not known."""
        image = self._config.image_config
        if not image.crop_and_resize or image.pre_encode_images:
            return None
        if self._rows is not None:
            count = self._rows.count if self._config.source_type == "rows" else None
        else:
            count = call_on_thread(_count, self._config) if self._config.source_type == "table" else None
        if count is None:
            return None
        sizes = self._config.bucket_choice().sizes
        areas = [image.view_bucket(view, size) for view in range(image.view_count) for size in sizes]
        pixels = sum(height * width for height, width in areas) / len(sizes)
        return int(count * pixels * 3 * np.dtype(image.dtype).itemsize)

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: Any = None,  # noqa: ARG002 - Ray names it
    ) -> list[ReadTask]:
        """Returns a task for each rank. parallelism: how many."""
        size = self.estimate_inmemory_data_size()
        share = None if size is None else size // parallelism
        tasks = []
        for rank in range(parallelism):
            config = self._config.with_source(rank=rank, world_size=parallelism)
            task = partial(_blocks, config, self._rows, self._device, self._backend)
            metadata = BlockMetadata(num_rows=None, size_bytes=share, input_files=None, exec_stats=None)
            tasks.append(ReadTask(task, metadata, per_task_row_limit=per_task_row_limit))
        return tasks


async def _count(config: LoaderConfig) -> int:
    """Returns the number of rows of a table."""
    from datago_gpu.feeder.runtime import http_client
    from datago_gpu.sources import open_source
    from datago_gpu.sources.mix.sample_counts import count_samples

    async with http_client(config) as http:
        return await count_samples(open_source(config.with_source(rank=0, world_size=1), http))


def _blocks(config: LoaderConfig, rows: GivenRows | None, device: object, backend: str | None) -> Iterator[pa.Table]:
    """Yields the batches of a rank as tables. Runs in a task or in an actor of Ray."""
    decode = config.decode_config
    if decode.threads is None and decode.processes is None:
        # Ray shares out the CPUs. Threads are enough: no training runs beside them in this process.
        cpus = int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))
        decode = msgspec.structs.replace(decode, threads=max(1, cpus), processes=0)
        config = msgspec.structs.replace(config, decode_config=decode)
    with Loader(config, device=device, backend=backend, source=rows) as loader:
        try:
            for batch in loader:
                yield _table(batch, config)
        except TooManyErrors:
            if not _are_few_of_several(config, loader):
                raise


def _are_few_of_several(config: LoaderConfig, loader: Loader) -> bool:
    """Returns whether only a few samples were bad, and no setting forbids that. One task of several may have no other
    samples."""
    is_share = config.rank_and_world_size()[1] > 1 and config.max_failures is None
    return is_share and sum(loader.stats().skipped.values()) < JUDGED_FROM


def _table(batch: Batch, config: LoaderConfig) -> pa.Table:
    """Returns the samples of a batch as the rows of a table, whose columns are the same for all batches."""
    count = len(batch)
    labels = np.full(count, UNLABELLED) if batch.labels is None else on_host(batch.labels)
    columns = {
        "id": pa.array(batch.ids, pa.string()),
        "source": pa.array(batch.sources, pa.string()),
        "label": pa.array(labels, pa.int64()),
        # As dicts, they would be of another type in each block, and Ray would fail where blocks meet, or are written.
        "attributes": _as_json(batch.attributes),
        # As lists, Ray would pickle tags after a function of the user's that takes columns of numpy.
        "tags": _as_json(batch.tags),
        "original_size": _column(batch.original_sizes),
        "crop": _column(batch.crops),
        "flipped": pa.array(batch.flipped, pa.bool_()),
    }
    if batch.image is not None:
        columns["image"] = _column(batch.image)
        columns |= {f"views.{at}": _column(view) for at, view in enumerate(batch.views) if at}
    if batch.embeddings is not None:
        columns["embedding"] = _column(batch.embeddings)
    if config.source_type == "db":
        columns["duplicate_state"] = pa.array(batch.duplicate_states, pa.int64())
    if config.source_type == "mix":
        columns["mix"] = pa.array(batch.mix, pa.string())
    is_chw = config.image_config.layout == "CHW"
    for kind, named in (("masks", batch.masks), ("additional_images", batch.additional_images)):
        for name, value in named.items():
            absent = _absent(batch.image, is_mask=kind == "masks", is_chw=is_chw)
            columns[f"{kind}.{name}"] = _column(_without_gaps(value, absent))
    for name, value in batch.latents.items():
        columns[f"latents.{name}"] = _latents(value, count, is_required=_is_required(config, name))
    columns |= {f"present.{name}": pa.array(there, pa.bool_()) for name, there in batch.present.items()}
    return pa.table(columns)


def _as_json(values: list[Any]) -> pa.Array:
    return pa.array([msgspec.json.encode(each).decode() for each in values], pa.string())


def _column(value: Any) -> pa.Array:
    """Returns an array (N, ...) or a list of N arrays as tensors, and a list of N bytes as bytes."""
    if not isinstance(value, list):
        return ArrowTensorArray.from_numpy(on_host(value))
    if all(each is None or isinstance(each, bytes) for each in value):
        return pa.array(value, pa.binary())
    arrays = np.empty(len(value), object)
    arrays[:] = [on_host(each) for each in value]
    return ArrowTensorArray.from_numpy(arrays)


def _absent(image: Any, *, is_mask: bool, is_chw: bool) -> Any:
    """Returns what samples without a mask or additional image show, in the form of the images: zeros, or no bytes."""
    if isinstance(image, list):
        return [None if isinstance(each, bytes) else _zeros(each, is_mask=is_mask, is_chw=is_chw) for each in image]
    return _zeros(image, is_mask=is_mask, is_chw=is_chw)


def _zeros(image: Any, *, is_mask: bool, is_chw: bool) -> NDArray[Any]:
    if not is_mask:
        return np.zeros(image.shape, image.dtype)
    *batch, height, width = (*image.shape[:-3], *image.shape[-2:]) if is_chw else image.shape[:-1]
    return np.zeros((*batch, 1, height, width) if is_chw else (*batch, height, width, 1), np.uint8)


def _without_gaps(value: Any, absent: Any) -> Any:
    """Returns a mask or additional image of a batch, with `absent` where samples have none."""
    if value is None:
        return absent
    if not isinstance(value, list):
        return value
    return [other if each is None else each for each, other in zip(value, absent, strict=True)]


def _is_required(config: LoaderConfig, name: str) -> bool:
    source = config.source_config
    return name in source.parts and name not in source.optional_parts


def _latents(value: Any, count: int, *, is_required: bool) -> pa.Array:
    """Returns latents that all samples have as tensors or bytes; others as Python objects: arrays, bytes or None."""
    if is_required and value is not None:
        if not isinstance(value, list) or all(isinstance(each, bytes) for each in value):
            return _column(value)
        if len({len(each.shape) for each in value if hasattr(each, "shape")}) == 1:
            return _column(value)
    objects = [None] * count if value is None else [_plain(each) for each in value]
    return ArrowPythonObjectArray.from_objects(objects)


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bytes) else on_host(value).copy()
