"""A feeder that resumes deep in shards sends what was to come, and opens few of the shards that are done."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datago_gpu.config import LoaderConfig
from datago_gpu.feeder.wire import Resume
from datago_gpu.loader.state import resume_from, state_of
from datago_gpu.sources.webdataset.shards_source import WebDataset
from tests.feeder.test_production import Taken, stream
from tests.support.shards import record_opened, tar_bytes

SHARDS, SAMPLES = 12, 5
WIDE = {0, 31, 57, 58}
"""Samples of another shape. The first one waits long for its batch."""


def picture(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (80, 40) if number in WIDE else (40, 40), (number * 4, 80, 160)).save(out, "JPEG")
    return out.getvalue()


PICTURES = {f"{number:02}": picture(number) for number in range(SHARDS * SAMPLES)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    names = sorted(PICTURES)
    for shard in range(SHARDS):
        files = [(f"{name}.jpg", PICTURES[name]) for name in names[shard * SAMPLES : (shard + 1) * SAMPLES]]
        (root / f"{shard:02}.tar").write_bytes(tar_bytes(files))
    return root


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return record_opened(monkeypatch)


def config(folder: Path, **more: Any) -> LoaderConfig:
    source = {"url": str(folder), "concurrent_downloads": 4, **more.pop("source", {})}
    return LoaderConfig.load(
        {
            "source_type": "webdataset",
            "source_config": source,
            "image_config": {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 16},
            "http_config": {"max_payload_mb": 1},
            "arena_mb": 2,
            "batch_size": 4,
            "prefetch_buffer_size": 4,
            **more,
        }
    )


def run(config: LoaderConfig, resume: Resume | None = None) -> Taken:
    source = WebDataset(config, None)  # type: ignore[arg-type]
    return stream(config, resume, source=source, content=PICTURES.__getitem__)


def through_json(config: LoaderConfig, resume: Resume) -> Resume:
    """As a checkpoint stores it."""
    return resume_from(config, json.loads(json.dumps(state_of(config, resume))))


@settings(max_examples=8)
@given(
    interleave=st.integers(1, 4),
    buffer=st.none() | st.sampled_from([1, 6, 100]),
    drop_last=st.booleans(),
    epochs=st.integers(1, 3),
    world_size=st.sampled_from([1, 2, 15]),
    data=st.data(),
)
def test_resuming_twice_behind_any_batch_brings_what_was_to_come(
    folder: Path,
    interleave: int,
    buffer: int | None,
    drop_last: bool,
    epochs: int,
    world_size: int,
    data: st.DataObject,
) -> None:
    shuffle = {} if buffer is None else {"random_sampling": True, "shuffle_buffer": buffer}
    source = {"interleave": interleave, "rank": 0, "world_size": world_size, **shuffle}
    settings = config(folder, source=source, drop_last=drop_last, epochs=epochs)
    whole = run(settings)
    first = data.draw(st.integers(0, len(whole.batches)))
    middle = run(settings, through_json(settings, whole.resumes[first]))
    assert middle.batches == whole.batches[first:]
    second = data.draw(st.integers(0, len(middle.batches)))
    assert run(settings, through_json(settings, middle.resumes[second])).batches == middle.batches[second:]


@pytest.mark.parametrize("interleave", [1, 2])
def test_a_sample_that_waits_for_its_batch_costs_only_its_shard(
    folder: Path, opened: list[int], interleave: int
) -> None:
    settings = config(folder, source={"interleave": interleave}, drop_last=True, epochs=2)
    whole = run(settings)
    behind = next(place for place, (_, _, ids) in enumerate(whole.batches) if "44" in ids) + 1
    resume = through_json(settings, whole.resumes[behind])
    assert resume.position.index < 5, "the first wide sample still waits"
    opened.clear()
    limited = msgspec.structs.replace(settings, epochs=1)
    assert run(limited, resume).batches == [batch for batch in whole.batches[behind:] if batch[0] == 0]
    assert set(opened) & set(range(8)) == {0, 6}
    assert {0, 9, 10, 11} <= set(opened)


def test_carried_samples_cost_only_their_shards(folder: Path, opened: list[int]) -> None:
    """With `drop_last`, a rare shape waits over epochs: each of them is listed again, and few of its shards read."""
    settings = config(
        folder, drop_last=True, epochs=3, batch_size=5, source={"random_sampling": True, "shuffle_buffer": 2}
    )
    whole = run(settings)
    behind = next(place for place, (epoch, _, _) in enumerate(whole.batches) if epoch == 1) + 1
    resume = through_json(settings, whole.resumes[behind])
    assert [len(carried.indices) for carried in resume.carried] == [len(WIDE)]
    opened.clear()
    assert run(settings, resume).batches == whole.batches[behind:]
    of_carried = len(opened) - 2 * SHARDS  # epochs 1 and 2
    assert of_carried <= len(WIDE) + 2
