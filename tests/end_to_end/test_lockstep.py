"""Whole Loaders in lockstep: pixels after a resume on other ranks, a feeder that dies, states in others' hands."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from datago_gpu import Batch, Loader, Row
from datago_gpu.config.lockstep_rules import JUDGED_FROM
from datago_gpu.decoders.select import Backend
from datago_gpu.errors import ConfigError, TooManyErrors
from tests.support.images import SHAPES, add_pictures
from tests.support.needs import needs
from tests.support.pictures import on_host

COUNT = 38
UNDECODABLE, MISSING = 5, 11


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    root = tmp_path_factory.mktemp("pictures")
    shapes = [SHAPES[number * number % 3] for number in range(COUNT)]
    add_pictures(root, shapes)
    (root / f"{MISSING:04}.jpg").unlink()
    body = (root / f"{UNDECODABLE:04}.jpg").read_bytes()
    scan = body.index(b"\xff\xda")
    (root / f"{UNDECODABLE:04}.jpg").write_bytes(body[:scan] + b"\xff\xda\x00\x03\x00" + body[-2:])  # a good header
    return [
        Row(f"r{at}", root / f"{at:04}.jpg", width=width, height=height) for at, (height, width) in enumerate(shapes)
    ]


def config_of(rank: int = 0, world_size: int = 1, batch_size: int = 6, **more: Any) -> dict[str, Any]:
    return {
        "image_config": {
            "crop_and_resize": True,
            "crop": "random_resized",
            "flip": 0.5,
            "default_image_size": 64,
            "downsampling_ratio": 16,
        },
        "decode_config": {"processes": 0},
        "http_config": {"max_payload_mb": 1},
        "arena_mb": 4,
        "lockstep": True,
        "batch_size": batch_size,
        "source_config": {"rank": rank, "world_size": world_size, "random_sampling": True},
        **more,
    }


Seen = list[tuple[tuple[str, bool, bytes], ...]]
"""Of each batch and place: id, whether real, and what is shown; of a global batch if several ranks are put together."""


def places(batch: Batch) -> tuple[tuple[str, bool, bytes], ...]:
    """What is shown at each place: the pixels, the region, and whether mirrored."""
    pixels: NDArray[np.uint8] = batch.image
    shown = zip(pixels, batch.crops, batch.flipped, strict=True)
    looks = [image.tobytes() + crop.tobytes() + flipped.tobytes() for image, crop, flipped in shown]
    return tuple(zip(batch.ids, batch.real.tolist(), looks, strict=True))


def run(rows: list[Row], config: dict[str, Any], state: Any = None, steps: int = 99) -> tuple[Seen, Any, Any]:
    """Up to `steps` batches, the state behind them, and the reasons for skips."""
    seen: Seen = []
    with Loader(config, device="cpu", source=rows, state=state) as loader:
        while len(seen) < steps and (batch := next(loader, None)) is not None:
            seen.append(places(batch))
        return seen, loader.state_dict(), loader.stats().skipped


def together(ranks: list[Seen]) -> Seen:
    """The global batches of several ranks."""
    return [tuple(place for at in zip(*step, strict=True) for place in at) for step in zip(*ranks, strict=True)]


def only_real(steps: Seen) -> Seen:
    """Which sample fills the place of a bad one depends on the batch of the rank."""
    return [tuple(place for place in step if place[1]) for step in steps]


def test_pixels_behind_a_stop_are_those_of_a_run_that_never_stopped(rows: list[Row]) -> None:
    whole, _, skipped = run(rows, config_of())
    assert len(whole) == len(set(whole)) == 8
    assert skipped == {"missing": 1, "undecodable": 1}
    first, state, _ = run(rows, config_of(), steps=3)
    assert first == whole[:3]
    ranks = [run(rows, config_of(rank, 3, 2), state) for rank in range(3)]
    assert only_real(together([seen for seen, _, _ in ranks])) == only_real(whole[3:])
    assert [rank[1]["taken"] for rank in ranks] == [[[6, 8]]] * 3


def test_a_repeat_shows_the_same_region_as_the_sample_that_it_repeats(rows: list[Row]) -> None:
    whole, _, _ = run(rows, config_of())
    looks = {id_: look for step in whole for id_, real, look in step if real}
    repeats = [(id_, look) for step in whole for id_, real, look in step if not real]
    assert len(repeats) > 2
    assert all(looks[id_] == look for id_, look in repeats)
    assert len(set(looks.values())) == len(looks)


def test_a_stop_within_a_batch_counts_the_batch_as_not_begun(rows: list[Row]) -> None:
    with Loader(config_of(), device="cpu", source=rows) as loader:
        samples = loader.samples()
        ids = [next(samples).id for _ in range(8)]
        state = loader.state_dict()
        assert state["taken"] == [[6, 1]]
        samples.close()
    assert [id_ for id_, _, _ in run(rows, config_of(), state, steps=1)[0][0]][:2] == ids[6:]


def test_a_feeder_that_dies_is_replaced_and_counts_no_sample_twice(rows: list[Row]) -> None:
    whole, _, skipped = run(rows, config_of(batch_size=2))
    seen: Seen = []
    with Loader(config_of(batch_size=2, samples_buffer_size=2), device="cpu", source=rows) as loader:
        for batch in loader:
            seen.append(places(batch))
            if len(seen) == 6:
                os.kill(loader.feeder_pid, signal.SIGKILL)
        assert loader.stats().skipped == skipped
    assert seen == whole


@pytest.mark.filterwarnings("ignore")  # of what DALI says about the broken image
def test_each_back_end_fills_the_places_of_bad_samples(rows: list[Row], backend: Backend) -> None:
    bad = {f"r{UNDECODABLE}", f"r{MISSING}"}
    with Loader(config_of(), device=backend.device, backend=backend.name, source=rows) as loader:
        plan = loader.plan()
        for batch, buckets, numbers, real in zip(loader, plan.buckets, plan.rows, plan.real, strict=True):
            planned = [f"r{number}" for number in numbers]
            assert batch.bucket == tuple(buckets.tolist())
            assert batch.image.shape == (6, *buckets, 3)
            assert batch.real.tolist() == [was and id_ not in bad for was, id_ in zip(real, planned, strict=True)]
            good = [id_ for id_ in planned if id_ not in bad]
            assert all(got == id_ if id_ in good else got in good for got, id_ in zip(batch.ids, planned, strict=True))
            reds = on_host(batch.image).mean(axis=(1, 2))[:, 0]
            assert reds == pytest.approx([int(id_[1:]) for id_ in batch.ids], abs=3)  # each shows its own colour
        assert loader.stats().skipped == {"missing": 1, "undecodable": 1}


def test_a_run_of_only_bad_samples_ends_with_an_error(tmp_path: Path) -> None:
    rows = [Row(f"r{number}", tmp_path / "gone.jpg", width=64, height=64) for number in range(JUDGED_FROM)]
    config = config_of(batch_size=20, max_refused_in_a_row=None)
    batches = []
    with Loader(config, device="cpu", source=rows) as loader, pytest.raises(TooManyErrors, match="100 missing"):
        batches.extend(iter(lambda: next(loader), None))
    with Loader(config, device="cpu", source=rows[1:]) as loader:
        batches.extend(loader)
        assert loader.stats().skipped == {"missing": JUDGED_FROM - 1}
    for batch in batches:
        assert (batch.image == 128).all()
        assert not batch.real.any()


def test_a_sequence_of_another_length_is_refused_or_accepted(rows: list[Row]) -> None:
    _, state, _ = run(rows, config_of(), steps=2)
    with (
        Loader(config_of(), device="cpu", source=rows[:-1], state=state) as loader,
        pytest.raises(ConfigError, match="there are 37 rows, but there were 38"),
    ):
        next(loader)
    with Loader(config_of(), device="cpu", source=rows[:-1], state=state, on_change="accept") as loader:
        assert len(list(loader)) == 5


def test_a_loader_and_a_dataset_have_a_length(rows: list[Row]) -> None:
    torch = needs("datago_gpu.torch")
    with Loader(config_of(0, 2, 3), device="cpu", source=rows) as loader:
        assert len(loader) == 8
        assert loader
        assert loader.shapes() == [(3, 64, 64), (3, 48, 80)]
        assert loader.plan().rows.shape == (8, 6)
    with Loader(config_of(lockstep=False), device="cpu", source=rows) as loader:
        with pytest.raises(TypeError, match=r"object of type 'Loader' has no len\(\)"):
            len(loader)
        assert loader
    dataset = torch.LoaderDataset(config_of(0, 2, 3), device="cpu", source=rows)
    assert (len(dataset), dataset.shapes()) == (8, [(3, 64, 64), (3, 48, 80)])
    assert len(needs("torch.utils.data").DataLoader(dataset, batch_size=None)) == 8


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_checkpoints_of_torch_take_the_state_as_it_is(rows: list[Row], tmp_path: Path) -> None:
    """One file of rank 0 for all ranks, and a restart on another number of them."""
    torch, checkpoint = needs("torch"), needs("torch.distributed.checkpoint")
    dataset_type = needs("datago_gpu.torch").LoaderDataset
    saved = dataset_type(config_of(0, 2, 3), device="cpu", source=rows)
    batches = iter(saved)
    for _ in range(2):
        next(batches)
    state = saved.state_dict()
    batches.close()
    checkpoint.save({"model": {"w": torch.ones(2)}, "data": saved}, checkpoint_id=tmp_path / "dcp", no_dist=True)
    loaded = dataset_type(config_of(1, 3, 2), device="cpu", source=rows)
    checkpoint.load({"model": {"w": torch.zeros(2)}, "data": loaded}, checkpoint_id=tmp_path / "dcp", no_dist=True)
    assert loaded.state_dict() == state
    assert state["taken"] == [[6, 2]]
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    assert torch.load(file, weights_only=True) == state
    rest = [batch["ids"] for batch in loaded]
    assert len(rest) == len(loaded) - 2 == 6


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
def test_a_stateful_dataloader_takes_the_state_as_it_is(rows: list[Row]) -> None:
    stateful = needs("torchdata.stateful_dataloader")
    dataset_type = needs("datago_gpu.torch").LoaderDataset
    loader = stateful.StatefulDataLoader(dataset_type(config_of(), device="cpu", source=rows), batch_size=None)
    assert len(loader) == 8
    stream = iter(loader)
    first = [next(stream)["ids"] for _ in range(3)]
    state = loader.state_dict()
    del stream
    other = stateful.StatefulDataLoader(dataset_type(config_of(0, 2, 3), device="cpu", source=rows), batch_size=None)
    other.load_state_dict(state)
    rest = [batch["ids"] for batch in other]
    assert len(first) + len(rest) == 8
    assert not {id_ for ids in first for id_ in ids} & {id_ for ids in rest[:2] for id_ in ids}
