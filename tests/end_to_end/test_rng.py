"""`batch.rng`: the numbers of a sample depend on seed, epoch, id and view alone, whatever batch the sample comes in."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datago_gpu import Batch, Loader, LoaderConfig, Row
from datago_gpu.draws import draw_key
from tests.support.images import add_picture, add_squares_and_wide, file_config
from tests.support.needs import needs

SEED, SQUARES, WIDE = 5, 9, 3
Drawn = dict[tuple[int, str], list[float]]
"""Epoch and id of a sample -> its numbers."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return add_squares_and_wide(tmp_path, SQUARES, WIDE)


def settings(root: Path, **more: Any) -> LoaderConfig:
    """Three passes over shuffled pictures, in full batches: some samples wait for those of the next pass."""
    source = {"random_sampling": True, **more.pop("source", {})}
    return file_config(root, source=source, **{"seed": SEED, "epochs": 3, "drop_last": True} | more)


def numbers(rng: np.random.Generator) -> list[float]:
    return rng.random(2).tolist()


def drawn(batches: Iterable[Batch]) -> Drawn:
    """What the samples draw. Their epochs are counted here: each pass has each id once, in order."""
    seen: Counter[str] = Counter()
    found: Drawn = {}
    for batch in batches:
        for at, sample in enumerate(batch):
            found[seen[sample.id], sample.id] = numbers(batch.rng(at))
            assert numbers(sample.rng()) == numbers(batch[at:].rng(0)) == numbers(batch.rng(at - len(batch)))
            assert (sample.epoch, batch.sample_epochs[at]) == (seen[sample.id], seen[sample.id])
            seen[sample.id] += 1
    return found


def wanted(keys: Iterable[tuple[int, str]], view: int = 0) -> Drawn:
    generator = {key: np.random.PCG64(draw_key(SEED, *key, view)) for key in keys}
    return {key: numbers(np.random.Generator(each)) for key, each in generator.items()}


@pytest.mark.parametrize(("backend", "processes"), [("pillow", 0), ("pillow", 1), ("dali", 0)])
def test_a_sample_draws_by_its_own_epoch_also_in_a_batch_of_the_next(root: Path, backend: str, processes: int) -> None:
    config = settings(root, decode_config={"processes": processes, "threads": 1})
    with Loader(config, device="cpu", backend=backend) as loader:
        batches = list(loader)
    assert any((batch.sample_epochs < batch.epoch).any() for batch in batches), "none waited for the next pass"
    found = drawn(batches)
    assert len(found) == sum(map(len, batches)) >= 32
    assert len({tuple(each) for each in found.values()}) == len(found)
    assert found == wanted(found)


def test_views_draw_on_their_own_and_each_call_begins_anew(root: Path) -> None:
    with Loader(settings(root), device="cpu", backend="pillow") as loader:
        batch = next(loader)
    key = int(batch.sample_epochs[1]), batch.ids[1]
    for view in range(3):
        assert numbers(batch.rng(1, view)) == numbers(batch[1].rng(view)) == wanted([key], view)[key]
    copied = pickle.loads(pickle.dumps(batch))
    assert numbers(copied.rng(1)) == numbers(batch.rng(1))
    with pytest.raises(IndexError):
        batch.rng(len(batch))


@pytest.mark.parametrize("stop", [3, 15, 26])
def test_a_resumed_run_draws_the_same(root: Path, stop: int) -> None:
    """Also for samples that waited when the state was saved, in the middle of a batch."""
    config = settings(root)
    with Loader(config, device="cpu", backend="pillow") as loader:
        samples = loader.samples()
        begun = [next(samples) for _ in range(stop)]
        state = json.loads(json.dumps(loader.state_dict()))
    with Loader(config, device="cpu", backend="pillow", state=state) as loader:
        both = [*begun, *loader.samples()]
    found = {(sample.epoch, sample.id): numbers(sample.rng()) for sample in both}
    assert len(found) == len(both) >= 30
    assert found == wanted(found)


def test_ranks_draw_as_one_process_does(root: Path) -> None:
    found: Drawn = {}
    for rank in range(2):
        config = settings(root, drop_last=False, source={"rank": rank, "world_size": 2})
        with Loader(config, device="cpu", backend="pillow") as loader:
            for batch in loader:
                found |= {(sample.epoch, sample.id): numbers(sample.rng()) for sample in batch}
    assert len(found) == 3 * (SQUARES + WIDE)
    assert found == wanted(found)


def test_places_that_are_filled_in_lockstep_draw_as_their_samples_do(root: Path) -> None:
    files = [*sorted(root.glob("*.jpg")), root / "missing.jpg"]
    rows = [Row(file.name, str(file), width=40, height=40) for file in files]
    rows = [Row(row.id, row.image, 60, 30) if row.id.startswith("wide") else row for row in rows]
    image = {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 16}
    config = {"image_config": image, "batch_size": 4, "lockstep": True, "seed": SEED, "epochs": 2}
    with Loader(config, source=rows, device="cpu", backend="pillow") as loader:
        batches = list(loader)
    assert not all(batch.real.all() for batch in batches)
    for batch in batches:
        assert (batch.sample_epochs == batch.epoch).all()
        for at, name in enumerate(batch.ids):
            assert numbers(batch.rng(at)) == wanted([(batch.epoch, name)])[batch.epoch, name]


def test_samples_of_a_mix_draw_by_the_pass_through_their_own_source(root: Path) -> None:
    """A small source is seen several times in an epoch, each time with other numbers."""
    small = root / "small"
    add_picture(small / "only.jpg")
    parts = [("large", root, 1), ("small", small, 2)]
    sources = [
        {"name": name, "source_type": "file", "source_config": {"root_path": str(path)}, "repeat": times}
        for name, path, times in parts
    ]
    square = {"crop_and_resize": True, "default_image_size": 64, "min_aspect_ratio": 1.0, "max_aspect_ratio": 1.0}
    config = {"source_type": "mix", "source_config": {"sources": sources}, "image_config": square, "seed": SEED}
    with Loader(config, device="cpu", backend="pillow") as loader:
        samples = list(loader.samples())
    drawn_twice = [numbers(sample.rng()) for sample in samples if sample.mix == "small"]
    assert len(drawn_twice) == 2
    assert drawn_twice[0] != drawn_twice[1]
    for sample in samples:
        assert sample.pass_number is not None
        assert numbers(sample.rng()) == wanted([(sample.pass_number, sample.id)])[sample.pass_number, sample.id]


def test_a_loader_dataset_draws_as_a_loader_does(root: Path) -> None:
    torch = needs("torch")
    from torch.utils.data import DataLoader

    from datago_gpu.torch import LoaderDataset, TensorBatch

    dataset = LoaderDataset(settings(root, epochs=1, drop_last=False), device="cpu", backend="pillow")
    for epoch in range(2):
        found: Drawn = {}
        for batch in DataLoader(dataset, batch_size=None):
            assert isinstance(batch, TensorBatch)
            assert batch["sample_epochs"].dtype == torch.int64
            found |= {(epoch, name): numbers(batch.rng(at)) for at, name in enumerate(batch["ids"])}
        assert len(found) == SQUARES + WIDE
        assert found == wanted(found)
