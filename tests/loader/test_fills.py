"""The trainer's side of lockstep: whatever is bad, a batch has a sample at each place, with all that belongs to it."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from datago_gpu.batch import Batch
from datago_gpu.config import DecodeConfig, ImageConfig
from datago_gpu.decoders.pillow import PillowDecoder
from datago_gpu.decoders.placement import HostPlacer
from datago_gpu.feeder import wire
from datago_gpu.feeder.admit_parts import AdmittedPart
from datago_gpu.feeder.admitted import Admitted
from datago_gpu.feeder.fill import fill
from datago_gpu.feeder.message import Layout
from datago_gpu.feeder.planned import Step
from datago_gpu.imaging.geometry import full_region
from datago_gpu.loader.assembly import Assembled, Assembly
from datago_gpu.loader.gray import GrayImages
from datago_gpu.sources.reference import Position, SampleRef, Skipped
from datago_gpu.sources.sample_info import SampleInfo
from tests.support.pictures import batch as encoded_batch
from tests.support.pictures import encode

SIZE = (16, 16)
PARTS = {"face": "mask", "depth": "image", "vae": "latent"}


def flat(level: int) -> bytes:
    return encode(np.full((*SIZE, 3), level, np.uint8))


def sample(number: int, kind: str) -> Admitted | Skipped:
    """Sample `number` shows its number in everything. kind: what is bad about it."""
    if kind == "missing":
        return Skipped(number, f"id{number}", "", "missing")
    info = SampleInfo(f"id{number}", embedding=np.full(3, number, np.float32).tobytes(), tags=[str(number)])
    region, level = full_region(*SIZE), 10 * number
    parts = [
        AdmittedPart("face", "mask", flat(level), SIZE, 1, region),
        AdmittedPart("depth", "image", b"no image" if kind == "bad part" else flat(level), SIZE, 1, region),
        AdmittedPart("vae", "latent", bytes([number] * 2)),
    ]
    payload = b"no image" if kind == "undecodable" else flat(level)
    return Admitted(SampleRef(number, info), payload, SIZE, 1, region, SIZE, region, SIZE, parts)


def assembled(places: list[int], real: list[bool], kinds: list[str], image: ImageConfig) -> Assembled:
    """What the trainer gets of these samples, after their way through a message."""
    outcomes = [sample(number, kind) for number, kind in enumerate(kinds)]
    filled = fill(Step(0, SIZE, places, list(range(len(kinds))), real, None), outcomes)
    layout, mark = Layout(filled.samples), wire.Mark(Position(0, len(places)))
    message = layout.message(0, 0, 0, mark, [], wire.Counts(), filled.fills)
    decode = DecodeConfig(threads=1)

    def decoder(kind: str) -> PillowDecoder:
        return PillowDecoder(image, decode, mask="nearest" if kind == "mask" else "", own=False, memory=None)

    assembly = Assembly(decoder, HostPlacer(), parts=PARTS, gray=GrayImages(image))
    with mmap.mmap(-1, max(1, layout.size)) as memory:
        for place, payload in zip(layout.places, layout.payloads, strict=True):
            memory[place : place + len(payload)] = payload
        assembly.submit(message, memory)
        try:
            return assembly.collect()
        finally:
            assembly.close()


def shown(values: Any) -> list[float]:
    return [float(np.asarray(value).reshape(-1)[0]) for value in values]


KINDS = st.lists(st.sampled_from(["good", "good", "missing", "undecodable", "bad part"]), min_size=1, max_size=4)


@settings(max_examples=30)
@given(KINDS, st.data())
def test_each_place_shows_one_good_sample_with_all_that_belongs_to_it(kinds: list[str], data: st.DataObject) -> None:
    further = data.draw(st.lists(st.integers(0, len(kinds) - 1), max_size=3))
    places = [*range(len(kinds)), *further]
    real = [True] * len(kinds) + [False] * len(further)
    result = assembled(places, real, kinds, ImageConfig(crop_and_resize=True))
    batch, good = result.batch, [number for number, kind in enumerate(kinds) if kind == "good"]
    assert batch is not None
    assert len(batch) == len(places)
    assert batch.image.shape == (len(places), *SIZE, 3)
    assert batch.real.tolist() == [was and at in good for at, was in zip(places, real, strict=True)]
    if not good:
        check_gray(batch)
        return
    at_place = [int(level) // 10 for level in shown(batch.image)]
    assert set(at_place) <= set(good)
    assert all(found == wanted for found, wanted in zip(at_place, places, strict=True) if wanted in good)
    assert batch.ids == [f"id{number}" for number in at_place]
    assert batch.tags == [[str(number)] for number in at_place]
    assert shown(batch.masks["face"]) == shown(batch.additional_images["depth"]) == [10 * number for number in at_place]
    assert batch.latents["vae"] == [bytes([number] * 2) for number in at_place]
    assert shown(batch.embeddings) == at_place
    assert all(each.all() for each in batch.present.values())


def check_gray(batch: Batch) -> None:
    assert (batch.image == 128).all()
    assert batch.masks == {"face": None}
    assert (batch.additional_images, batch.latents, batch.embeddings) == ({"depth": None}, {"vae": None}, None)
    assert not any(each.any() for each in batch.present.values())
    assert all(sample.masks == {"face": None} and not sample.real for sample in batch)


FORMS = [
    (ImageConfig(crop_and_resize=True, layout="CHW", dtype="float32", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))),
    (ImageConfig(crop_and_resize=True, dtype="float16")),
    (ImageConfig(crop_and_resize=True, dtype="bfloat16")),
    (ImageConfig(crop_and_resize=True, image_to_rgb8=False)),
    (ImageConfig(crop_and_resize=True, pre_encode_images=True)),
]


@pytest.mark.parametrize("image", FORMS)
def test_gray_images_have_the_form_of_decoded_ones(image: ImageConfig) -> None:
    gray = GrayImages(image).make(SIZE, 2, HostPlacer())
    decoded = PillowDecoder(image, DecodeConfig(threads=1), mask="", own=not image.image_to_rgb8, memory=None)
    payloads: list[NDArray[np.uint8]] = [np.frombuffer(flat(128), np.uint8)] * 2
    decoded.submit(encoded_batch([each.tobytes() for each in payloads], [SIZE] * 2, SIZE))
    wanted = decoded.collect().image
    decoded.close()
    assert type(gray) is type(wanted)
    if image.pre_encode_images:
        assert gray == wanted
        return
    assert [each.dtype for each in gray] == [each.dtype for each in wanted]
    assert np.array_equal(np.stack(list(gray)), np.stack(list(wanted)))


@given(st.integers(1, 5), st.slices(5))
def test_slices_and_samples_keep_what_is_real(count: int, rows: slice) -> None:
    batch = Batch([str(at) for at in range(count)], [""] * count, None, np.zeros((count, 2), np.int32),
                  np.zeros((count, 4), np.float32), None, [{}] * count, [[]] * count,
                  duplicate_states=[None] * count)  # fmt: skip
    assert batch.real.tolist() == [True] * count
    batch.real = np.arange(count) % 2 == 0
    assert batch[rows].real.tolist() == batch.real[rows].tolist()
    assert [sample.real for sample in batch] == batch.real.tolist()
