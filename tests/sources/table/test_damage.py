"""Tables with damaged bytes: samples, skips or an error of ours, and no crash."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datago_gpu.errors import DatagoError
from datago_gpu.sources.reference import SampleRef, Skipped
from datago_gpu.sources.table.soundness import damage_of
from tests.support.tables import samples_of, table_config, write_table

COUNT = 30
GROUPS = {"parquet": {"row_group_size": 7}, "arrow": {"max_chunksize": 7}}


def table(form: str) -> pa.Table:
    names = [f"{number}.jpg" for number in range(COUNT)]
    held = [{"bytes": name.encode() * 9, "path": name} for name in names]
    columns = {"image": held if form.startswith("bytes") else names, "caption": names, "n": list(range(COUNT))}
    tags = {} if form.endswith(("csv", "jsonl")) else {"tags": [["a", name] for name in names]}
    return pa.table(columns | tags)


@pytest.mark.parametrize(
    "form", ["bytes.parquet", "bytes.arrow", "paths.arrow", "paths.feather", "paths.jsonl", "paths.csv"]
)
@settings(max_examples=15)
@given(data=st.data())
def test_any_damage_is_samples_or_an_error_of_ours(form: str, data: st.DataObject) -> None:
    ending = form.partition(".")[2]
    with tempfile.TemporaryDirectory() as folder:
        path = write_table(Path(folder) / f"t.{ending}", table(form), **GROUPS.get(ending, {}))
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(content) - 1))
            change = data.draw(st.sampled_from([b"\xff\xff\xff\xff", bytes(8), b"\x01", b"double", b""]))
            length = {b"double": 0, b"": len(content)}.get(change, len(change))
            content[at : at + length] = content[at : at + 9] if change == b"double" else change
            content = content or bytearray(b"\n")
        path.unlink()  # others are still mapped
        path.write_bytes(content)
        config = table_config(
            path, random_sampling=data.draw(st.booleans()), filter=data.draw(st.sampled_from(["", "n > 3"]))
        )
        try:
            found = samples_of(config)
        except DatagoError:
            return
    assert all(isinstance(sample, SampleRef | Skipped) for sample in found)


def test_texts_outside_of_an_arrow_file_cost_their_batch(tmp_path: Path) -> None:
    path = write_table(tmp_path / "t.arrow", table("paths.arrow"), max_chunksize=10)
    content = path.read_bytes()
    offsets = np.cumsum([0, *(len(f"{number}.jpg") for number in range(10, 20))]).astype(np.int32)
    damaged = offsets.copy()
    damaged[4] = 2**30
    path.unlink()
    path.write_bytes(content.replace(offsets.tobytes(), damaged.tobytes(), 1))
    for shuffled in (False, True):
        found = samples_of(table_config(path, random_sampling=shuffled))
        bad = [sample for sample in found if isinstance(sample, Skipped)]
        assert len(found) == COUNT
        assert {(sample.reason, sample.detail) for sample in bad} == {
            ("bad-rows", "the offsets of a column are damaged")
        }
        assert sorted(sample.id for sample in bad) == [str(number) for number in range(10, 20)]


def test_what_is_sound() -> None:
    values = {
        "texts": pa.array(["a", None, "b"] * 3)[2:7],
        "lists": pa.array([[["a"], []], None] * 4)[1:6],
        "large": pa.array([b"a", b""] * 4, pa.large_binary())[:5],
        "views": pa.array(["a"] * 5, pa.string_view()),
        "kinds": pa.array(["a", "b", "a", "b", "c"]).dictionary_encode(),
        "maps": pa.array([[("k", 1)]] * 5, pa.map_(pa.string(), pa.int8())),
        "structs": pa.array([{"a": "x"}, None] * 4)[2:7],
        "nothing": pa.nulls(5),
    }
    batch = pa.record_batch(list(values.values()), list(values))
    assert damage_of(batch) == ""
    assert damage_of(batch.slice(2)) == ""
    assert damage_of(batch.slice(5)) == ""
