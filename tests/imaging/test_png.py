"""PNG without what says nothing about its pixels."""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from datago_gpu.imaging.chunks import may_hold_orientation
from datago_gpu.imaging.png import without_useless_chunks
from tests.support.made.png import chunk, png
from tests.support.pictures import picture

PIXELS = picture(9, 11)
PLAIN = png(PIXELS)
TURNED = chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0")
CLEAR = chunk(b"tRNS", bytes(6))
PROFILE = chunk(b"tEXt", b"Raw profile type exif\0a profile")
XMP = chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b'tiff:Orientation="6"'))


def test_a_payload_without_further_chunks_is_not_copied() -> None:
    assert without_useless_chunks(PLAIN) is PLAIN
    view = memoryview(PLAIN)
    assert without_useless_chunks(view) is view


@pytest.mark.parametrize("kept", [TURNED, CLEAR, CLEAR + TURNED, PROFILE, XMP])
def test_transparency_and_orientation_stay(kept: bytes) -> None:
    payload = png(PIXELS, before=kept)
    assert without_useless_chunks(payload) is payload
    assert without_useless_chunks(png(PIXELS, behind=kept)) == png(PIXELS, behind=kept)
    assert without_useless_chunks(png(PIXELS, before=kept + chunk(b"tEXt", b"a\0b"))) == payload
    assert without_useless_chunks(png(PIXELS, before=kept[:-1] + bytes([kept[-1] ^ 1]))) in (
        PLAIN,
        png(PIXELS, before=CLEAR),
    )


def test_critical_chunks_stay_as_they_are_even_damaged() -> None:
    """Their fault is the picture's."""
    damaged = png(PIXELS, before=chunk(b"PLTE", b"abc", 0))
    assert without_useless_chunks(damaged) is damaged


CHUNKS = st.tuples(
    st.sampled_from(
        [b"tEXt", b"iCCP", b"pHYs", b"gAMA", b"sBIT", b"bKGD", b"abCd", b"acTL", b"fcTL", b"fdAT", b"iTXt"]
    ),
    st.binary(max_size=60),
    st.sampled_from([None, 0]),
).filter(lambda drawn: not may_hold_orientation(*drawn[:2]))
"""Of texts, hypothesis also draws words that occur in the package, such as the keyword of an orientation."""


@given(st.lists(CHUNKS, max_size=4), st.lists(CHUNKS, max_size=4), st.integers(1, 500))
def test_any_further_chunks_are_left_out(before: list[Any], behind: list[Any], idat: int) -> None:
    around = {"before": b"".join(chunk(*each) for each in before), "behind": b"".join(chunk(*each) for each in behind)}
    assert without_useless_chunks(png(PIXELS, idat=idat, **around)) == png(PIXELS, idat=idat)


@given(st.binary(max_size=80), st.integers(0, len(PLAIN)))
def test_nothing_is_asked_of_a_payload(tail: bytes, cut: int) -> None:
    """What is no PNG, or cut anywhere, is for Pillow to refuse."""
    payload = png(PIXELS, before=chunk(b"tEXt", b"a\0b"))
    for given_bytes in (payload[:cut] + tail, b"\x89PNG\r\n\x1a\n" + tail):
        assert len(without_useless_chunks(given_bytes)) <= len(given_bytes)


def test_the_pixels_are_those_of_the_whole_file() -> None:
    payload = png(
        PIXELS, before=chunk(b"gAMA", b"\0\0\xb1\x8f") + chunk(b"tEXt", b"a\0b"), behind=chunk(b"tIME", bytes(7))
    )
    shown = np.asarray(Image.open(io.BytesIO(without_useless_chunks(payload))))
    assert np.array_equal(shown, PIXELS)
    assert np.array_equal(shown, np.asarray(Image.open(io.BytesIO(payload))))


def test_of_countless_chunks_that_tell_the_orientation_few_are_kept() -> None:
    """Each may unpack to a megabyte; Pillow refuses a picture with 64 of them."""
    text = chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(1 << 20)))
    shortened = without_useless_chunks(png(PIXELS, before=text * 200))
    assert 0 < shortened.count(b"zTXt") < 50
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(shortened))), PIXELS)
