"""The record of a sample: whatever field it has goes from the source to the Batch without a line about that field."""

from __future__ import annotations

import copy
import json
import mmap
import pickle
from array import array
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import msgpack, structs

from datago_gpu import Batch, batch
from datago_gpu.batch import COLUMNS, Sample
from datago_gpu.decoders.decoder import DecodedImages, EncodedImages
from datago_gpu.decoders.placement import HostPlacer
from datago_gpu.feeder import wire
from datago_gpu.feeder.admitted import Admitted
from datago_gpu.feeder.message import Layout
from datago_gpu.loader import assembly, loaded_batch
from datago_gpu.loader.assembly import Assembled, Assembly
from datago_gpu.loader.loaded_batch import LoadedBatch
from datago_gpu.sources.attributes import NO_ATTRIBUTES
from datago_gpu.sources.class_labels import UNLABELLED
from datago_gpu.sources.reference import Position, SampleRef, sample_bytes
from datago_gpu.sources.sample_info import SampleInfo

FIELDS = structs.fields(SampleInfo)
REGION = (0.0, 0.0, 2.0, 2.0)
SHORT = {"id", "source", "duplicate_state", "mix", "pass_number", "label"}
"""Fields that take too little memory to count."""
TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
OBJECTS = st.dictionaries(TEXTS, st.integers() | TEXTS | st.lists(st.booleans()), max_size=3)
OF_KIND: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXTS,
    list[str]: st.lists(TEXTS, max_size=3),
    int | None: st.none() | st.integers(-(2**63), 2**63 - 1),
}
OF_FIELD = {
    "attributes": OBJECTS.map(lambda value: json.dumps(value).encode()),
    "embedding": st.lists(st.floats(width=32, allow_nan=False), min_size=3, max_size=3).map(
        lambda numbers: array("f", numbers).tobytes()
    ),
}
RECORDS = st.fixed_dictionaries(
    {each.name: OF_FIELD[each.name] if each.name in OF_FIELD else OF_KIND[each.type] for each in FIELDS}
).map(lambda values: SampleInfo(**values))


class FailingDecoder:
    """Makes gray pictures, but of some rows none."""

    depth = 1

    def __init__(self, failing: set[int]) -> None:
        self._failing = failing

    def submit(self, images: EncodedImages) -> None:
        self._count = len(images)

    def collect(self) -> DecodedImages:
        failures = {row: "broken" for row in range(self._count) if row in self._failing}
        return DecodedImages(np.zeros((self._count - len(failures), 2, 2, 3), np.uint8), failures)

    def close(self) -> None:
        pass


def delivered(infos: list[SampleInfo], failing: set[int] = frozenset()) -> Assembled:  # type: ignore[assignment]
    """What the trainer makes of the samples with these records, after their way through a message."""
    samples = [
        Admitted(SampleRef(at, info), b"x", (2, 2), 1, REGION, (2, 2), REGION, (2, 2)) for at, info in enumerate(infos)
    ]
    message = Layout(samples).message(0, 0, 0, wire.Mark(Position()), [], wire.Counts())
    received = msgpack.decode(wire.frame(message)[wire.HEADER_BYTES :], type=wire.FromFeeder)
    assembly = Assembly(lambda _: FailingDecoder(failing), HostPlacer())
    with mmap.mmap(-1, 4096 * len(infos)) as memory:
        assembly.submit(received, memory)
        return assembly.collect()


def expected(info: SampleInfo, name: str) -> Any:
    value = getattr(info, name)
    if name == "attributes":
        return json.loads(value)
    return list(array("f", value)) if name == "embedding" else value


@given(st.lists(RECORDS, min_size=1, max_size=5), st.sets(st.integers(0, 4)))
def test_each_field_of_each_record_reaches_the_batch(infos: list[SampleInfo], failing: set[int]) -> None:
    kept = [info for at, info in enumerate(infos) if at not in failing]
    made = delivered(infos, failing).batch
    if made is None:
        assert not kept
        return
    for name, column in COLUMNS.items():
        wanted = [expected(info, name) for info in kept]
        given = getattr(made, column)
        if name == "label" and given is not None:
            wanted = [UNLABELLED if label is None else label for label in wanted]
        assert (given.tolist() if isinstance(given, np.ndarray) else given or [None] * len(kept)) == wanted
        samples = [getattr(sample, name) for sample in made]
        assert [each.tolist() for each in samples] == wanted if name == "embedding" else samples == wanted


WAYS_TO_COPY: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deep copy": copy.deepcopy,
    "pickle": lambda given: pickle.loads(pickle.dumps(given)),
    "replace": lambda given: replace(given, epoch=given.epoch),
    "slice": lambda given: given[:],
}


@pytest.mark.parametrize("way", WAYS_TO_COPY)
@pytest.mark.parametrize("is_read", [True, False])
def test_a_copy_of_a_batch_has_all_that_was_not_read_before(way: str, is_read: bool) -> None:
    infos = [SampleInfo(str(at), "a source", b'{"a": [%d]}' % at, [str(at)], bytes(12), at) for at in range(4)]
    made = delivered(infos, {1}).batch
    assert made is not None
    if is_read:
        made.tags.append([])
        made.tags.pop()
        assert made.attributes is made.attributes
    copied = WAYS_TO_COPY[way](made)
    for each in fields(Batch):
        assert np.array_equal(getattr(copied, each.name), getattr(made, each.name)), each.name
    assert copied.attributes == [{"a": [0]}, {"a": [2]}, {"a": [3]}]
    assert (len(copied), copied.original_sizes.tolist(), copied.crops.tolist()) == (3, 3 * [[2, 2]], 3 * [[*REGION]])


def test_a_batch_has_no_other_attributes() -> None:
    made = delivered([SampleInfo("a")]).batch
    assert not hasattr(made, "__dlpack__")
    with pytest.raises(AttributeError, match="'LoadedBatch' object has no attribute 'idz'"):
        made.idz  # type: ignore[union-attr]  # noqa: B018


def test_a_batch_and_a_sample_show_each_field_of_the_record() -> None:
    assert tuple(COLUMNS) == SampleInfo.__struct_fields__
    assert set(COLUMNS) <= {each.name for each in fields(Sample)}
    assert set(COLUMNS.values()) <= {each.name for each in fields(Batch)}


@pytest.mark.parametrize("name", [name for name in SampleInfo.__struct_fields__ if name not in SHORT])
def test_the_memory_of_each_long_field_counts(name: str) -> None:
    kind = next(each.type for each in FIELDS if each.name == name)
    long = {bytes: b"x" * 5000, str: "x" * 5000, list[str]: ["x" * 5000]}[kind]
    short = sample_bytes(SampleRef(0, SampleInfo("a")))
    assert sample_bytes(SampleRef(0, structs.replace(SampleInfo("a"), **{name: long}))) >= short + 4900


def test_samples_without_an_embedding_have_none() -> None:
    made = delivered([SampleInfo("a", embedding=bytes(8)), SampleInfo("b")]).batch
    assert made is not None
    assert made.embeddings is None
    assert made[0].embedding is None
    assert made.attributes == [json.loads(NO_ATTRIBUTES)] * 2


class Captioned(SampleInfo, frozen=True):
    """A record with a further field."""

    caption: str = ""


class CaptionedBatch(LoadedBatch):
    """Shows it."""

    __slots__ = ("captions",)


@dataclass(slots=True, eq=False)
class CaptionedSample(Sample):
    """Shows it, too."""

    caption: str = ""


def test_a_further_field_needs_no_edit_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COLUMNS, "caption", "captions")
    monkeypatch.setitem(loaded_batch._FIELDS, "captions", "caption")
    monkeypatch.setattr(assembly, "LoadedBatch", CaptionedBatch)
    monkeypatch.setattr(batch, "Sample", CaptionedSample)
    made: Any = delivered([Captioned("a", caption="a cat"), Captioned("b", caption="a dog")], {0}).batch
    assert made.captions == ["a dog"]
    assert made[0].caption == "a dog"
