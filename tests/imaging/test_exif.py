"""The reader of orientations against Pillow's, on good blocks, damaged ones, and ones that nobody would write."""

from __future__ import annotations

import struct
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from datago_gpu.imaging.exif import exif_segment, orientation, plain_orientation, xmp_orientation
from tests.long.exif_blocks import block, damaged, good_blocks

SHORT = 3


def pillows(exif: bytes | None, xmp: bytes | None = None) -> int:
    """The orientation by which `ImageOps.exif_transpose` turns."""
    image = Image.new("L", (1, 1))
    image.info = {name: value for name, value in (("exif", exif), ("xmp", xmp)) if value is not None}
    with warnings.catch_warnings(action="ignore"):
        try:
            found = image.getexif().get(0x0112, 1)
        except Exception:  # of many kinds: metadata costs no picture
            return 1
    return next((turn for turn in range(1, 9) if turn == found), 1)


def test_good_blocks_are_plain_and_read_as_pillow_reads_them() -> None:
    for tiff in good_blocks():
        assert plain_orientation(tiff) == orientation(tiff) == pillows(tiff) != 1


def test_damaged_blocks_are_read_as_pillow_reads_them() -> None:
    blocks = list(damaged(3000, seed=1))
    read = [orientation(tiff) for tiff in blocks]
    assert read == [pillows(tiff) for tiff in blocks]
    assert 200 < read.count(1) < 2000, "else the damage is too great, or too little, to show anything"


def test_a_damaged_block_that_is_taken_for_plain_says_the_same() -> None:
    plain = 0
    for tiff in damaged(3000, seed=2):
        found = plain_orientation(tiff)
        plain += found is not None
        assert found is None or max(found, 1) == pillows(tiff)
    assert plain > 300


VALUES = st.one_of(st.integers(0, 9).map(lambda value: struct.pack("<H", value)), st.binary(min_size=1, max_size=16))
ENTRIES = st.lists(
    st.tuples(st.sampled_from((0x0112, 0x010F, 0x0112, 0x8769)), st.integers(0, 18), st.integers(0, 5), VALUES),
    max_size=4,
)


@given(st.sampled_from("<>"), ENTRIES, st.binary(max_size=8), st.integers(8, 12))
def test_orientations_of_all_types_and_counts_are_read_as_pillow_reads_them(
    order: str, entries: list[tuple[int, int, int, bytes]], further: bytes, first: int
) -> None:
    tiff = block(order, entries, further=further, first=first)
    for prefix in (b"", b"Exif\0\0", b"Exif\0\0Exif\0\0"):
        assert orientation(prefix + tiff) == pillows(prefix + tiff)
    plain = plain_orientation(tiff)
    assert plain is None or max(plain, 1) == pillows(tiff)


@given(st.binary(max_size=60), st.sampled_from([b"", b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+"]))
def test_bytes_that_are_no_block_are_survived(rest: bytes, start: bytes) -> None:
    assert orientation(start + rest) == pillows(start + rest)
    plain_orientation(start + rest)


def turned(order: str, kind: int, count: int, value: bytes) -> bytes:
    return block(order, [(0x0112, kind, count, value)])


WHOLE = {
    "short": turned("<", SHORT, 1, struct.pack("<H", 6)),
    "long": turned(">", 4, 1, struct.pack(">I", 6)),
    "two shorts": turned("<", SHORT, 2, struct.pack("<HH", 6, 3)),
    "rational": turned("<", 5, 1, struct.pack("<II", 12, 2)),
    "float": turned("<", 11, 1, struct.pack("<f", 6)),
    "signed byte": turned("<", 6, 1, b"\6"),
}
NOT_WHOLE = {
    "byte": turned("<", 1, 1, b"\6"),
    "text": turned("<", 2, 2, b"6\0"),
    "half": turned("<", 5, 1, struct.pack("<II", 13, 2)),
    "by zero": turned("<", 5, 1, struct.pack("<II", 6, 0)),
    "no value": turned("<", SHORT, 0, b""),
    "out of range": turned("<", SHORT, 1, struct.pack("<H", 9)),
    "unknown type": turned("<", 99, 1, b"\6"),
}


@pytest.mark.parametrize(
    ("tiff", "expected"),
    [*((tiff, 6) for tiff in WHOLE.values()), *((tiff, 1) for tiff in NOT_WHOLE.values())],
    ids=[*WHOLE, *NOT_WHOLE],
)
def test_each_type_of_value(tiff: bytes, expected: int) -> None:
    assert orientation(tiff) == pillows(tiff) == expected
    assert (plain_orientation(tiff) is not None) == (tiff == WHOLE["short"])


def test_what_dali_would_drop_the_block_for_is_not_plain() -> None:
    """Its reader takes types and counts of some tags for granted, and looks for their values where they are not."""
    turn = (0x0112, SHORT, 1, struct.pack("<H", 6))
    for tag, kind, count, value in (
        (0x011A, SHORT, 1, b"\x48\0"),
        (0x0131, 7, 0x7FFFFFFF, bytes(4)),
        (0x013E, 5, 1, bytes(8)),
        (0x010E, 4, 1, bytes(4)),
    ):
        tiff = block("<", [turn, (tag, kind, count, value)])
        assert plain_orientation(tiff) is None
        assert orientation(tiff) == pillows(tiff) == 6


@pytest.mark.parametrize("text", ['tiff:Orientation="6"', "<tiff:Orientation>6</tiff:Orientation>"])
def test_xmp_counts_where_exif_names_no_orientation(text: str) -> None:
    xmp = f"<x:xmpmeta>{text}</x:xmpmeta>".encode()
    assert xmp_orientation(xmp) == xmp_orientation(xmp.decode()) == 6
    camera = block("<", [(0x010F, 2, 6, b"Maker\0")])
    for exif in (
        None,
        b"Exif\0\0",
        camera,
        good_blocks()[0],
        WHOLE["float"],
        NOT_WHOLE["out of range"],
        b"II+\0" + bytes(9),
    ):
        assert orientation(exif, xmp) == pillows(exif, xmp), exif
    assert orientation(camera, xmp) == 6


@pytest.mark.parametrize("xmp", [b"", b"<x/>", b"tiff:Orientation", b'tiff:Orientation="x"', b'tiff:Orientation="9"'])
def test_xmp_without_an_orientation_turns_nothing(xmp: bytes) -> None:
    assert orientation(None, xmp) == pillows(None, xmp) == 1


def test_a_segment_of_ours_is_plain_and_one_for_an_upright_picture_is_none() -> None:
    assert exif_segment(1) == b""
    for turn in range(2, 9):
        segment = exif_segment(turn)
        assert segment[:2] == b"\xff\xe1"
        assert int.from_bytes(segment[2:4], "big") == len(segment) - 2
        assert segment[4:10] == b"Exif\0\0"
        assert plain_orientation(segment[10:]) == pillows(segment[4:]) == turn
