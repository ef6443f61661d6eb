"""The feeder's header reader is stricter than DALI's: what it calls plain, DALI can parse, and reads the same size."""

from __future__ import annotations

from itertools import islice

import pytest

from datago_gpu.imaging.header import read_header
from tests.long.headers import disagreements, mutants
from tests.support.pictures import encode, picture

PIXELS = picture(40, 64)
WEBP = encode(PIXELS, "WEBP", lossless=True)
PNG = encode(PIXELS)


@pytest.mark.parametrize("seed", range(4))
def test_dali_parses_every_header_that_the_feeder_lets_pass(seed: int) -> None:
    """DALI 2.4 may die of one that it cannot parse. `tests/long/headers.py` looks at as many as one has time for."""
    passed = 0
    for payload, problem in disagreements(islice(mutants(seed), 20_000)):
        assert problem is None, payload
        passed += 1
    assert passed > 2000


@pytest.mark.parametrize(
    "payload",
    [
        WEBP.replace(b"\x2f", b"\x2e", 1),
        PNG.replace(b"\0\0\0\x0dIHDR", b"\0\0\0\x0eIHDR"),
        PNG[:16] + b"\x80\0\0\x40" + PNG[20:],
        PNG[:20] + b"\x80\0\0\x28" + PNG[24:],
    ],
    ids=["WebP without its signature", "length of IHDR", "width above 2**31", "height above 2**31"],
)
def test_pillow_decides_about_odd_headers(payload: bytes) -> None:
    assert not read_header(payload).plain
