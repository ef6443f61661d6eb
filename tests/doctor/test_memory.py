"""The sum of the memory that settings allow: docs/operations/memory.md tells it; it grows with each setting there."""

from __future__ import annotations

from typing import Any

import pytest

from datago_gpu import LoaderConfig
from datago_gpu.doctor.memory import MemorySum
from tests.support.bounds import MiB

FILES = {"source_type": "file", "source_config": {"root_path": "/"}}
DATAROOM = {"source_type": "db", "source_config": {"api_url": "http://127.0.0.1/api/"}}
TABLE = {"source_type": "table", "source_config": {"path": "/data/t.parquet"}}
SHARDS = {"source_type": "webdataset", "source_config": {"url": "/data/0.tar"}}
DENSE = {"image_config": {"crop_and_resize": True}}


def sum_of(*settings: dict[str, Any], backend: str = "pillow") -> MemorySum:
    merged: dict[str, Any] = {"decode_config": {"memory_mb": 1024}}
    for each in settings:
        for key, value in each.items():
            merged[key] = {**merged.get(key, {}), **value} if isinstance(value, dict) else value
    return MemorySum.of(LoaderConfig.load(merged), backend)


def test_the_defaults_are_those_of_the_docs() -> None:
    files, dense = sum_of(FILES), sum_of(FILES, DENSE)
    assert files.shared["decoded batches"] == 2 * 4096 * MiB
    assert dense.shared["decoded batches"] == 6 * 32 * 512**2 * 3
    assert sum(dense.trainer.values()) == (64 + 6 * 20 * 4) * MiB
    assert sum(dense.feeder.values()) == (80 + 512 + 1024 + 64 + 64 + 1024) * MiB
    assert sum(sum_of(DATAROOM).feeder.values()) == (80 + 512 + 1024 + 64 + 64 + 1024 + 256) * MiB
    assert sum(sum_of(SHARDS).feeder.values()) == (80 + 512 + 1024 + 64 + 64 + 1024 + 256 + 64 + 8) * MiB
    assert sum(sum_of(TABLE).feeder.values()) == (80 + 512 + 1024 + 64 + 64 + 1024 + 160) * MiB
    assert sum(dense.shared.values()) == 512 * MiB + dense.shared["decoded batches"]
    parts = dense.trainer, dense.feeder, dense.decoding, dense.shared
    assert dense.total == sum(sum(each.values()) for each in parts)


def test_batches_by_pixels_take_what_the_largest_ones_take() -> None:
    """64 samples of 256 x 256 count where samples are meant, and 4 of 1024 x 1024 where pixels are."""
    image = {"image_config": {"buckets": [[1024, 1024], [256, 256]]}}
    found = sum_of(FILES, DENSE, image, {"batch_pixels": 4 << 20})
    assert found.shared["decoded batches"] == (1 + 2 + 2) * (4 << 20) * 3
    assert found.trainer["attributes and latents of these batches"] == 5 * 20 * 4 * MiB


def test_decode_processes_take_the_decoding_from_the_trainer() -> None:
    of_processes = sum_of(FILES, DENSE, {"decode_config": {"processes": 3}})
    of_threads = sum_of(FILES, DENSE, {"decode_config": {"processes": 0, "threads": 3}})
    assert sum(of_processes.decoding.values()) == (48 + 3 * 8 + 1024 + 3 * 64) * MiB
    assert of_threads.decoding == {}
    batches = of_processes.shared["decoded batches"]
    assert sum(of_threads.trainer.values()) - sum(of_processes.trainer.values()) == (1024 + 3 * 64) * MiB + batches
    assert of_threads.total == of_processes.total - (48 + 3 * 8) * MiB
    assert sum_of(FILES, DENSE, {"decode_config": {"processes": 3}}, backend="dali").decoding == {}


@pytest.mark.parametrize(
    ("base", "more"),
    [
        (FILES, {"prefetch_memory_mb": 600}),
        (FILES, {"bucket_memory_mb": 1100}),
        (FILES, {"arena_mb": 600}),
        (FILES, {"samples_buffer_mb": 5000}),
        (FILES, {"decode_config": {"memory_mb": 1100}}),
        (FILES, {"http_config": {"max_payload_mb": 65}}),
        ({**FILES, **DENSE}, {"samples_buffer_size": 100}),
        ({**FILES, **DENSE}, {"decode_config": {"prefetch": 3}}),
        ({**FILES, **DENSE}, {"image_config": {"dtype": "float32"}}),
        (DATAROOM, {"http_config": {"max_page_mb": 65}}),
        (DATAROOM, {"http_config": {"download_processes": 1}}),
        (DATAROOM, {"source_config": {"random_sampling": True}}),
        (DATAROOM, {"source_config": {"has_latents": "vae"}}),
        (SHARDS, {"source_config": {"buffer_mb": 300}}),
        (SHARDS, {"source_config": {"concurrent_downloads": 9}}),
        (SHARDS, {"source_config": {"random_sampling": True}}),
        (SHARDS, {"source_config": {"masks": "mask.png"}}),
        (SHARDS, {"source_config": {"latents": "vae.npy"}}),
        (TABLE, {"source_config": {"random_sampling": True}}),
        (TABLE, {"source_config": {"masks": "m"}}),
        (TABLE, {"source_config": {"latents": "z"}}),
    ],
)
def test_what_allows_more_counts(base: dict[str, Any], more: dict[str, Any]) -> None:
    assert sum_of(base, more).total > sum_of(base).total


def test_dali_takes_more_than_pillow() -> None:
    assert sum_of(FILES, backend="dali").total > sum_of(FILES).total
