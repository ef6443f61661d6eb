"""Whatever rows, groups, ranks and shuffles: all ranks together have each row once, and resuming goes on exactly."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datago_gpu.config import LoaderConfig
from datago_gpu.sources.order import RankShare
from datago_gpu.sources.reference import Position, SampleRef
from datago_gpu.sources.table import table_rows
from datago_gpu.sources.table.opening import open_rows
from datago_gpu.sources.table.orders import rows_in_groups
from tests.support.tables import ids_of, samples_of, table_config, write_table

SPLITS = st.sampled_from(["shuffled", "listed"])
FORMS = ["paths.parquet", "bytes.parquet", "paths.arrow", "bytes.arrow", "paths.jsonl"]


@settings(max_examples=100)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=8),
    st.integers(1, 6),
    st.integers(0, 2**40),
    st.integers(0, 3),
    st.integers(0, 7),
    SPLITS,
)
def test_the_order_by_groups(counts: list[int], world_size: int, seed: int, epoch: int, block: int, split: Any) -> None:
    bounds = np.cumsum([0, *counts])
    ranks = [
        rows_in_groups(bounds, RankShare(rank, world_size), seed, epoch, block=block, split=split).tolist()
        for rank in range(world_size)
    ]
    assert sorted(row for rank in ranks for row in rank) == list(range(sum(counts)))
    assert max(map(len, ranks)) - min(map(len, ranks)) <= 1
    if not block:
        assert [row for rank in ranks for row in rank] == list(range(sum(counts)))
    for rank, rows in enumerate(ranks if block else []):  # rows are mixed within blocks only
        unmixed = rows_in_groups(bounds, RankShare(rank, world_size), seed, epoch, block=1, split=split).tolist()
        for begin in range(0, len(rows), block):
            assert sorted(rows[begin : begin + block]) == sorted(unmixed[begin : begin + block])
        if split == "shuffled" and world_size == 1:
            groups = [list(range(begin, end)) for begin, end in pairwise(bounds.tolist())]
            assert all("".join(map(str, group)) in "".join(map(str, unmixed)) for group in groups)


def written(folder: Path, form: str, tables: int, group: int, count: int) -> Path:
    """Writes rows that are numbered from 0, in several tables."""
    kind, _, ending = form.partition(".")
    for table in range(tables):
        numbers = range(count * table // tables, count * (table + 1) // tables)
        images = [f"{number}.jpg" for number in numbers]
        rows = {
            "image": images if kind == "paths" else [name.encode() for name in images],
            "id": list(numbers),
            "keep": [bool(number % 3) for number in numbers],
        }
        sized = (
            {"row_group_size": group} if ending == "parquet" else {"max_chunksize": group} if ending == "arrow" else {}
        )
        if images or ending != "jsonl":
            write_table(folder / f"{table}.{ending}", rows, **sized)
    return folder


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=8)
@given(data=st.data())
def test_ranks_and_resuming(form: str, data: st.DataObject) -> None:
    count, world_size = data.draw(st.integers(2, 30)), data.draw(st.integers(1, 4))  # row 0 does not pass the filter
    source: dict[str, Any] = {
        "random_sampling": data.draw(st.booleans()),
        "shuffle_buffer": data.draw(st.integers(1, 12)),
        "rank_split": data.draw(SPLITS),
        "filter": data.draw(st.sampled_from(["", "keep"])),
        "world_size": world_size,
    }
    epoch, top = data.draw(st.integers(0, 2)), {"seed": data.draw(st.integers(0, 9))}
    wanted = sorted(str(number) for number in range(count) if number % 3 or not source["filter"])
    with tempfile.TemporaryDirectory() as folder:
        tables = data.draw(st.integers(1, min(3, count)))
        path = written(Path(folder), form, tables, data.draw(st.integers(1, 9)), count)
        found = []
        for rank in range(world_size):
            config = table_config(path, top=top, rank=rank, **source)
            samples = samples_of(config, Position(epoch))
            assert [sample.index for sample in samples] == list(range(len(samples)))
            for sample in samples:
                assert isinstance(sample, SampleRef)
                assert (sample.payload or b"").decode() == ("" if "paths" in form else f"{sample.id}.jpg")
            found.append([sample.id for sample in samples])
            at = data.draw(st.integers(0, len(samples)))
            assert ids_of(config, Position(epoch, at)) == found[-1][at:]
    assert sorted(name for rank in found for name in rank) == wanted


@pytest.mark.parametrize("shuffled", [False, True])
def test_rows_that_are_read_together_take_few_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shuffled: bool
) -> None:
    """Also of Arrow files, whose rows can be read in any order."""
    monkeypatch.setattr(table_rows, "_BYTES_AT_ONCE", 10_000)
    together, read = list[int](), table_rows.TableRows._samples

    def note(rows: table_rows.TableRows, numbers: Any, forward: bool) -> Any:
        together.append(len(numbers))
        return read(rows, numbers, forward)

    monkeypatch.setattr(table_rows.TableRows, "_samples", note)
    columns = {"image": [b"x" * 1000] * 40, "id": list(range(40))}
    path = write_table(tmp_path / "t.arrow", columns, max_chunksize=25)
    found = ids_of(table_config(path, random_sampling=shuffled))
    assert sorted(found, key=int) == [str(number) for number in range(40)]
    assert sum(together) == 40
    assert 5 < max(together) < 10


@pytest.mark.parametrize("room", [True, False])
@settings(max_examples=10)
@given(data=st.data())
def test_rows_are_read_in_any_order(room: bool, data: st.DataObject) -> None:
    """Also where there is no room for a copy of a table that holds bytes."""
    count = data.draw(st.integers(1, 30))
    form = data.draw(st.sampled_from(["bytes.parquet", "paths.parquet", "bytes.arrow"]))
    numbers = np.array(data.draw(st.lists(st.integers(0, count - 1), max_size=40)), np.int64)

    async def read(path: Path) -> list[tuple[int, str]]:
        config = LoaderConfig.load(table_config(path))
        rows = await open_rows(config, config.source_config, None)  # type: ignore[arg-type]  # it is not remote
        async with aclosing(rows.read(numbers)) as samples:
            return [(sample.index, sample.id) async for sample in samples]

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        if not room:
            patch.setattr(table_rows.TableRows, "_has_room", lambda self: not self.in_groups)
        path = written(
            Path(folder), form, data.draw(st.integers(1, min(3, count))), data.draw(st.integers(1, 9)), count
        )
        assert asyncio.run(read(path)) == [(number, str(number)) for number in numbers.tolist()]
