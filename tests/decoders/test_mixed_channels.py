"""Masks of any depth in one batch, in any order, with bad ones among them: each as if it were alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datago_gpu.config import DecodeConfig, ImageConfig
from datago_gpu.decoders.make import make_decoder
from datago_gpu.decoders.select import Backend
from datago_gpu.imaging.labels import holds_labels, pack_labels, unpack_labels, widest_dtype
from tests.support.pictures import batch, decode, encode, on_host

SIZE = (24, 32)
LEVELS = np.arange(24 * 32).reshape(SIZE)
MASKS: dict[str, tuple[bytes, Any]] = {
    "8": (encode((LEVELS % 256).astype(np.uint8)), (LEVELS % 256).astype(np.uint8)),
    "16": (pack_labels((LEVELS * 80).astype(np.uint16)), (LEVELS * 80).astype(np.uint16)),
    "32": (pack_labels((LEVELS * -1000).astype(np.int32)), (LEVELS * -1000).astype(np.int32)),
    "bad": (encode((LEVELS % 256).astype(np.uint8))[:-60], None),
}


@given(names=st.lists(st.sampled_from(list(MASKS)), min_size=1, max_size=8))
@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("layout", ["HWC", "CHW"])
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_mask_comes_at_its_place(backend: Backend, crop: bool, layout: Any, names: list[str]) -> None:
    image = ImageConfig(crop_and_resize=crop, default_image_size=32, downsampling_ratio=8, layout=layout)
    decoder = make_decoder(backend, image, DecodeConfig(threads=1), 8, mask=True)
    try:
        decoded = decode(
            decoder, batch([MASKS[name][0] for name in names], [SIZE] * len(names), SIZE if crop else None)
        )
    finally:
        decoder.close()
    assert sorted(decoded.failures) == [at for at, name in enumerate(names) if name == "bad"]
    wanted = [MASKS[name][1] for name in names if name != "bad"]
    if not wanted:
        assert decoded.image is None
        return
    found = [on_host(each) for each in (on_host(decoded.image) if crop else decoded.image)]
    assert len(found) == len(wanted)
    widest = np.result_type(*wanted)
    for mask, want in zip(found, wanted, strict=True):
        assert mask.dtype == (widest if crop else want.dtype)
        assert mask.shape == ((*SIZE, 1) if layout == "HWC" else (1, *SIZE))
        assert np.array_equal(mask.reshape(SIZE), want)


def test_labels_are_packed_and_unpacked() -> None:
    for name, dtype in (("16", np.uint16), ("32", np.int32)):
        payload, numbers = MASKS[name]
        packed = np.frombuffer(payload, np.uint8)
        assert holds_labels(packed)
        unpacked = unpack_labels(packed, *SIZE)
        assert unpacked is not None
        assert unpacked.dtype == dtype
        assert np.array_equal(unpacked[..., 0], numbers)
    for other in (MASKS["8"][0], b"", b"labels", b"labels float64 \n" + bytes(64)):
        payload_of_another_kind = np.frombuffer(other, np.uint8)
        assert not holds_labels(payload_of_another_kind)
        assert unpack_labels(payload_of_another_kind, *SIZE) is None


def test_the_widest_dtype_holds_all() -> None:
    payloads = {name: np.frombuffer(payload, np.uint8) for name, (payload, _) in MASKS.items()}
    assert widest_dtype([]) == np.uint8
    assert widest_dtype([payloads["8"], payloads["bad"]]) == np.uint8
    assert widest_dtype([payloads["8"], payloads["16"]]) == np.uint16
    assert widest_dtype([payloads["32"], payloads["16"]]) == np.int32
