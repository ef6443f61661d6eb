"""Every graph that the settings can ask for, on a GPU and on the CPU. DALI checks names, types and devices on its own.

It does so without a driver: that is first wanted when a pipeline is built.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from datago_gpu.config import DecodeConfig, ImageConfig
from datago_gpu.decoders.dali_pipeline import _graph, define
from datago_gpu.decoders.faults import Setup
from datago_gpu.decoders.output_format import without_normalisation

FORMS: list[dict[str, Any]] = [
    {"dtype": "uint8"},
    {"dtype": "float16"},
    {"dtype": "bfloat16"},
    {"dtype": "bfloat16", "mean": (0.5, 0.4, 0.5)},
    {"dtype": "float32", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
]
CROPS: list[dict[str, Any]] = [{"crop_and_resize": False}, {"crop_and_resize": True},
                               {"crop_and_resize": True, "mixed_buckets": True}]  # fmt: skip
FLIPS = (0.0, 0.5)
MASKS = {"": "auto", "nearest": "auto", "lanczos": "auto", "labels": "int32"}
"""Filter of the masks -> their dtype; "labels" is "nearest"."""
LOADS = (None, 0.0, 1.0)


def graph(device_id: int | None, form: dict[str, Any], crop: dict[str, Any], layout: str, mask: str, load: Any) -> Any:
    image = ImageConfig(layout=layout, mask_dtype=MASKS[mask], mask_interpolation="nearest", **form, **crop)
    decode = DecodeConfig(hw_decoder_load=load, fancy_upsampling=load != 0.0)
    used = mask.replace("labels", "nearest")
    setup = Setup(without_normalisation(image) if mask else image, decode, 8, device_id, used, 2)
    pipeline = define(setup)
    pipeline._build_graph()  # the first half of `build`, in which DALI checks the operators
    with pipeline:
        (pixels,) = _graph(setup)
        return pixels


@pytest.mark.parametrize("device_id", [None, 0])
@pytest.mark.parametrize("mask", MASKS)
def test_dali_accepts_every_graph(device_id: int | None, mask: str) -> None:
    made = 0
    for form, crop, flip, layout, load in product(FORMS, CROPS, FLIPS, ("HWC", "CHW"), LOADS):
        pixels = graph(device_id, form, crop | {"flip": flip}, layout, mask, load)
        assert pixels.device == ("cpu" if device_id is None else "gpu")
        made += 1
    assert made == 180


def test_dali_refuses_what_a_graph_must_not_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above would tell."""
    from datago_gpu.decoders import dali_pipeline

    monkeypatch.setattr(dali_pipeline.types, "INTERP_LANCZOS3", "lanczos")
    monkeypatch.setitem(dali_pipeline._FILTERS, "lanczos", "lanczos")
    with pytest.raises(Exception, match=r"lanczos|interp"):
        graph(0, FORMS[0], CROPS[1], "HWC", "", None)
