"""A picture that DALI refuses and Pillow decodes is delivered, counted and told of once."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from datago_gpu import Loader
from datago_gpu.loader.stats import Stage, Stats
from tests.support.images import add_pictures, file_config
from tests.support.pictures import encode, picture


def with_a_wrong_sum() -> bytes:
    """A PNG whose pixels do not have the checksum that stands behind them: libpng refuses it, Pillow does not mind."""
    payload = bytearray(encode(picture(40, 40)))
    at = payload.index(b"IDAT")
    payload[at + 4 + int.from_bytes(payload[at - 4 : at])] ^= 1
    return bytes(payload)


@pytest.mark.parametrize("backend", ["dali", "pillow"])
def test_what_pillow_rescues_is_counted_and_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, backend: str
) -> None:
    names = add_pictures(tmp_path, 9 * [(40, 40)])
    for number in range(3):
        (tmp_path / f"000{number}-odd.png").write_bytes(with_a_wrong_sum())
    with caplog.at_level(logging.WARNING, "datago_gpu"), Loader(file_config(tmp_path), "cpu", backend) as loader:
        samples = {sample.id: sample.image for batch in loader for sample in batch}
        stats = loader.stats()
    assert len(samples) == len(names) + 3
    assert np.abs(samples["0001-odd.png"].astype(int) - samples["0002-odd.png"]).max() == 0
    assert samples["0001-odd.png"].std() > 20
    assert (stats.delivered, stats.skipped, stats.rescued) == (12, {}, 3 if backend == "dali" else 0)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == (1 if backend == "dali" else 0)
    if told:
        assert told[0].startswith("DALI refused an image of sample '0000-odd.png' (")
        assert "Failed to decode" in told[0]


def test_rescued_samples_stand_in_the_table() -> None:
    stages = tuple(Stage(name, 12, 12.0, 0.0, 0.0) for name in ("fetch", "pack", "decode", "trainer"))
    shown = str(Stats(12, {}, 0, 1.0, stages, 0.1, rescued=3)).splitlines()[0]
    assert shown.endswith("skipped: none; rescued by Pillow: 3")
