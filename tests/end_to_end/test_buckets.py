"""Buckets through whole Loaders, from each source: nothing enlarged, pixels within bounds, only known shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datago_gpu import Batch, Loader, Row
from datago_gpu.decoders.select import Backend
from datago_gpu.errors import TooManyErrors
from datago_gpu.server import DataroomServer
from tests.model import Item, as_sized
from tests.support.images import add_pictures
from tests.support.pictures import on_host
from tests.support.shards import tar_bytes
from tests.support.tables import write_table

Config = dict[str, Any]

SIDES = [16, 24, 31, 32, 40, 48, 64, 65, 90, 128, 130, 200]
COUNT = 36
KINDS = ["file", "webdataset", "db", "table", "sized table", "rows", "webdataset mix", "sized table mix"]
IN_LOCKSTEP = ["db", "sized table", "rows", "sized table mix"]


class Data:
    """The same pictures as each kind of source."""

    def __init__(self, root: Path, stack: ExitStack) -> None:
        draws = Random(5)
        self.shapes = [(draws.choice(SIDES), draws.choice(SIDES)) for _ in range(COUNT)]
        names = add_pictures(root / "files", self.shapes)
        paths = [root / "files" / name for name in names]
        (root / "x.tar").write_bytes(tar_bytes((path.name, path.read_bytes()) for path in paths))
        heights, widths = zip(*self.shapes, strict=True)
        write_table(root / "plain.arrow", {"path": names})
        write_table(root / "sized.arrow", {"path": names, "height": list(heights), "width": list(widths)})
        self.rows = [
            Row(path.stem, path, height=height, width=width)
            for path, (height, width) in zip(paths, self.shapes, strict=True)
        ]
        self._root = root
        self._server = stack.enter_context(DataroomServer(root / "files", watch_interval_s=None))

    def config(self, kind: str, **source: Any) -> Config:
        if kind.endswith(" mix"):
            ranks = {name: source.pop(name) for name in ("rank", "world_size") if name in source}
            part = {"name": "only", **self.config(kind.removesuffix(" mix"), **source)}
            return {"source_type": "mix", "source_config": {"sources": [part], **ranks}}
        given = {
            "file": {"root_path": str(self._root / "files")},
            "webdataset": {"url": str(self._root / "x.tar")},
            "db": {"api_url": self._server.url, "api_key": self._server.key},
            "table": {"path": str(self._root / "plain.arrow"), "root": str(self._root / "files")},
            "sized table": {"path": str(self._root / "sized.arrow"), "root": str(self._root / "files")},
            "rows": {},
        }[kind]
        return {"source_type": kind.split()[-1], "source_config": given | source}

    def shape_of(self, batch: Batch, at: int) -> tuple[int, int]:
        return self.shapes[int(batch.ids[at].removesuffix(".jpg"))]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Data]:
    with ExitStack() as stack:
        yield Data(tmp_path_factory.mktemp("buckets"), stack)


TABLES: list[Config] = [
    {"default_image_size": 32},
    {"resolutions": [64, 32, 128]},
    {"buckets": [[32, 32], [16, 48], [48, 16], [64, 64], [128, 64]]},
]


def drawn(random: Random) -> Config:
    """Settings of the buckets and of the batches."""
    sizes: Config = {"batch_pixels": random.choice([1, 3000, 10_000, 40_000])}
    if random.random() < 0.2:
        sizes = {"batch_size": 3}
    return {
        "image_config": {
            "crop_and_resize": True,
            "downsampling_ratio": 16,
            "upscale": random.random() < 0.3,
            "crop": random.choice(["centre", "random"]),
            **random.choice(TABLES),
        },
        "decode_config": {"processes": 0, "threads": 1},
        "http_config": {"max_payload_mb": 1},
        "arena_mb": 4,
        "drop_last": random.random() < 0.2,
        **sizes,
    }


def load(config: Config, data: Data, state: Any = None, steps: int = 999) -> tuple[list[Batch], Loader]:
    rows = data.rows if config["source_type"] == "rows" else None
    loader = Loader(config, device="cpu", backend="pillow", source=rows, state=state)
    batches: list[Batch] = []
    try:
        while len(batches) < steps and (batch := next(loader, None)) is not None:
            batches.append(batch)
    except TooManyErrors:
        assert loader.stats().skipped.keys() == {"too-small"}
    finally:
        loader.close()
    return batches, loader


def check(batches: list[Batch], loader: Loader, data: Data) -> None:
    """What holds for the batches of every source."""
    config = loader.config
    most = {(height, width): count for count, height, width in loader.shapes()}
    for batch in batches:
        assert batch.bucket is not None
        count, height, width = batch.image.shape[:3]
        assert (height, width) == batch.bucket
        assert count <= most[height, width]
        assert not config.batch_pixels or count == 1 or count * height * width <= config.batch_pixels
        for at, (_, _, high, wide) in enumerate(batch.crops.tolist()):
            assert tuple(batch.original_sizes[at].tolist()) == data.shape_of(batch, at)
            assert config.image_config.upscale or (high >= height and wide >= width)
    delivered = Counter(
        id_ for batch in batches for id_, real in zip(batch.ids, batch.real.tolist(), strict=True) if real
    )
    assert set(delivered.values()) <= {1}
    if config.drop_last or config.rank_and_world_size()[1] > 1:
        return
    config = next(iter(config.by_source().values()))  # of the only source of a mix
    reasons = Counter(as_sized(config, Item("", shape, 0), listed=False).skipped for shape in data.shapes)
    assert len(delivered) == reasons[""]
    if config.source_type == "db":  # the server leaves some out
        reasons["too-small"] -= sum(min(shape) < config.source_config.min_short_edge for shape in data.shapes)
    assert loader.stats().skipped.get("too-small", 0) == reasons["too-small"]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=4)
@given(random=st.randoms(use_true_random=True))
def test_from_each_source_nothing_is_enlarged_and_only_known_shapes_are_seen(
    data: Data, kind: str, random: Random
) -> None:
    source = {"random_sampling": random.random() < 0.5, "min_short_edge": random.choice([0, 0, 31, 60])}
    config = data.config(kind, **source) | drawn(random)
    batches, loader = load(config, data)
    check(batches, loader, data)


@pytest.mark.parametrize("kind", IN_LOCKSTEP)
@settings(max_examples=2)
@given(random=st.randoms(use_true_random=True))
def test_in_lockstep_all_ranks_see_the_same_buckets_and_exactly_the_shapes_announced(
    data: Data, kind: str, random: Random
) -> None:
    ranks = random.choice([1, 2])
    common = drawn(random) | {"lockstep": True}
    source = {"random_sampling": random.random() < 0.5, "min_short_edge": random.choice([0, 0, 31])}
    runs = [load(data.config(kind, **source, rank=rank, world_size=ranks) | common, data) for rank in range(ranks)]
    for batches, loader in runs:
        check(batches, loader, data)
        assert [batch.bucket for batch in batches] == [batch.bucket for batch in runs[0][0]]
        shapes = {batch.image.shape[:3] for batch in batches}
        assert shapes <= set(loader.shapes())
        assert shapes == set(loader.shapes()) or kind == "db"
    steps = [[batch.ids for batch in batches] for batches, _ in runs]
    plan = runs[0][1].plan()
    counts = [sum(len(ids) for ids in step) for step in zip(*steps, strict=True)]
    assert counts == plan.counts.tolist()
    everything = [
        id_ for batches, _ in runs for batch in batches for id_, real in zip(batch.ids, batch.real, strict=True) if real
    ]
    assert len(everything) == len(set(everything)) == plan.real_places.sum()


@pytest.mark.parametrize("kind", ["db", "rows"])
def test_a_run_by_pixels_goes_on_with_other_pixels_and_ranks_from_a_small_state(data: Data, kind: str) -> None:
    image = {"crop_and_resize": True, "downsampling_ratio": 16, "resolutions": [32, 64]}
    rest: Config = {
        "image_config": image, "decode_config": {"processes": 0, "threads": 1}, "lockstep": True,
    }  # fmt: skip
    first, loader = load(data.config(kind) | rest | {"batch_pixels": 9000}, data, steps=3)
    state = loader.state_dict()
    assert state["taken"] == [[[9000, 1], 3]]
    ranks = [
        load(data.config(kind, rank=rank, world_size=2) | rest | {"batch_pixels": 5000}, data, state)
        for rank in range(2)
    ]
    assert ranks[0][1].state_dict() == ranks[1][1].state_dict()
    seen = [
        id_
        for batches in (first, *(batches for batches, _ in ranks))
        for batch in batches
        for id_, real in zip(batch.ids, batch.real.tolist(), strict=True)
        if real
    ]
    assert len(seen) == len(set(seen)) == COUNT
    again, _ = load(data.config(kind) | rest | {"batch_pixels": 9000}, data, state)
    whole, _ = load(data.config(kind) | rest | {"batch_pixels": 9000}, data)
    assert [batch.ids for batch in [*first, *again]] == [batch.ids for batch in whole]
    assert all(np.array_equal(one.image, other.image) for one, other in zip([*first, *again], whole, strict=True))


@pytest.mark.parametrize("lockstep", [False, True])
def test_each_back_end_decodes_batches_of_all_lengths(data: Data, backend: Backend, lockstep: bool) -> None:
    image = {"crop_and_resize": True, "downsampling_ratio": 16, "resolutions": [32, 128], "upscale": False}
    config = data.config("rows") | {
        "image_config": image,
        "batch_pixels": 20_000,
        "lockstep": lockstep,
        "arena_mb": 128,
    }
    with Loader(config, device=backend.device, backend=backend.name, source=data.rows) as loader:
        batches = list(loader)
        check(batches, loader, data)
    assert len({len(batch) for batch in batches}) > 1
    for batch in batches:
        reds = on_host(batch.image).mean(axis=(1, 2))[:, 0]
        assert reds == pytest.approx([int(id_) for id_ in batch.ids], abs=3)  # each shows its own colour


def test_pictures_that_are_too_small_by_their_listed_size_are_not_read(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.arrow", {"path": ["gone.jpg"] * 3, "height": [20, 90, 0], "width": [90, 90, 0]})
    config = {
        "source_type": "table",
        "source_config": {"path": str(table), "min_short_edge": 30},
        "max_refused_in_a_row": None,
    }
    with Loader(config, device="cpu") as loader, pytest.raises(TooManyErrors, match="3 of 3 samples were bad"):
        next(loader)
    assert loader.stats().skipped == {"too-small": 1, "missing": 2}


def test_max_failures_does_not_count_what_is_too_small(data: Data) -> None:
    config = data.config("file", min_short_edge=60) | {"max_failures": 0}
    batches, loader = load(config, data)
    assert sum(len(batch) for batch in batches) == sum(min(shape) >= 60 for shape in data.shapes)
    assert loader.stats().skipped == {"too-small": sum(min(shape) < 60 for shape in data.shapes)}


def test_in_lockstep_a_picture_smaller_than_listed_is_not_enlarged_but_replaced(data: Data) -> None:
    rows = [Row(row.id, row.image, height=128, width=128) for row in data.rows]
    config: Config = {
        "image_config": {"crop_and_resize": True, "default_image_size": 64, "upscale": False},
        "decode_config": {"processes": 0, "threads": 1},
        "lockstep": True,
        "batch_size": 6,
    }
    with Loader(config, device="cpu", source=rows) as loader:
        batches = list(loader)
        skipped = loader.stats().skipped
    shown = [id_ for batch in batches for id_, real in zip(batch.ids, batch.real, strict=True) if real]
    assert {row.id for row, shape in zip(rows, data.shapes, strict=True) if min(shape) >= 64} >= set(shown)
    assert all(high >= 64 and wide >= 64 for batch in batches for _, _, high, wide in batch.crops[batch.real].tolist())
    assert skipped == {"other-shape": COUNT - len(shown)}
