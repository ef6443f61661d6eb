"""The header reader against Pillow, and against bytes that are no image at all."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from datago_gpu.imaging.header import Header, read_header
from tests.support.pictures import encode, picture

HEIGHT, WIDTH = 37, 53
RGB = Image.fromarray(picture(HEIGHT, WIDTH))
END_OF_JPEG = b"\xff\xd9"
END_OF_PNG = b"IEND\xaeB`\x82"


def with_exif(orientation: int, order: str = "<") -> Image.Exif:
    exif = Image.Exif()
    exif.endian = order
    exif[0x010F] = "a camera"
    exif[0x0112] = orientation
    return exif


def jpeg(image: Image.Image = RGB, **options: Any) -> bytes:
    return encode(image, "JPEG", **options)


def png(depth: int, colour: int, *chunks: tuple[bytes, bytes], interlaced: bool = False) -> bytes:
    """A PNG of one colour, written by hand: Pillow writes few of the kinds that it reads."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]

    def rows(width: int, height: int) -> bytes:
        return (b"\0" + bytes(-(-width * channels * depth // 8))) * height if width and height else b""

    if interlaced:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
        pixels = b"".join(rows(-(-(WIDTH - x) // dx), -(-(HEIGHT - y) // dy)) for x, y, dx, dy in passes)
    else:
        pixels = rows(WIDTH, HEIGHT)
    palette = [(b"PLTE", bytes(3 * 2 ** min(depth, 8)))] if colour == 3 else []
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour, 0, 0, interlaced)
    parts = [(b"IHDR", header), *palette, *chunks, (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )


def as_pillow_sees_it(payload: bytes) -> tuple[int, int, int]:
    with Image.open(io.BytesIO(payload)) as image:
        image.load()
        return image.height, image.width, image.getexif().get(0x0112, 1)


PLAIN_JPEGS = {
    "4:4:4": jpeg(subsampling=0),
    "4:2:2": jpeg(subsampling=1),
    "4:2:0": jpeg(subsampling=2),
    "progressive": jpeg(progressive=True),
    "progressive gray": jpeg(RGB.convert("L"), progressive=True),
    "gray": jpeg(RGB.convert("L")),
    "restart markers": jpeg(restart_marker_blocks=1),
    "comment": jpeg(comment=b"\xff\xc0 looks like a frame header"),
    "colour profile": jpeg(icc_profile=bytes(200_000)),
    "trailing bytes": jpeg() + b"what a camera adds",
    "one pixel": jpeg(RGB.resize((1, 1))),
}


@pytest.mark.parametrize("payload", PLAIN_JPEGS.values(), ids=PLAIN_JPEGS)
def test_a_jpeg_that_decoders_take_is_plain(payload: bytes) -> None:
    header = read_header(payload)
    assert header.plain
    assert (header.height, header.width, header.orientation) == as_pillow_sees_it(payload)


@pytest.mark.parametrize("order", ["<", ">"], ids=["little-endian", "big-endian"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_of_a_jpeg_is_read_and_turns_the_size(orientation: int, order: str) -> None:
    payload = jpeg(exif=with_exif(orientation, order))
    header = read_header(payload)
    assert header.plain
    assert (header.height, header.width, header.orientation) == as_pillow_sees_it(payload)
    assert header.orientation == orientation
    assert header.upright_size == ((WIDTH, HEIGHT) if orientation > 4 else (HEIGHT, WIDTH))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_makes_no_sense_is_upright(orientation: int) -> None:
    assert read_header(jpeg(exif=with_exif(orientation))).orientation == 1


def test_broken_exif_costs_the_orientation_and_not_the_picture() -> None:
    for exif in (b"Exif\0\0", b"Exif\0\0II", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"):
        payload = jpeg(exif=exif)
        header = read_header(payload)
        assert (header.height, header.width, header.orientation, header.plain) == (HEIGHT, WIDTH, 1, True)
        assert header.tidy(payload) == jpeg()


def test_exif_behind_another_application_segment_is_found() -> None:
    payload = jpeg(exif=with_exif(6))
    other = b"\xff\xe1\x00\x0bhttp://x"[:4] + b"http://x\0"
    assert read_header(payload[:2] + other + payload[2:]).orientation == 6


UNUSUAL_JPEGS = {
    "CMYK": jpeg(RGB.convert("CMYK")),
    "no end marker": jpeg()[:-2],
    "half": jpeg()[: len(jpeg()) // 2],
    "arithmetic coding": jpeg().replace(b"\xff\xc0", b"\xff\xc9", 1),
    "lossless": jpeg().replace(b"\xff\xc0", b"\xff\xc3", 1),
    "12 bits": jpeg().replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c", 1),
    "fill bytes": jpeg()[:2] + b"\xff" + jpeg()[2:],
    "height in a later marker": jpeg().replace(struct.pack(">HH", HEIGHT, WIDTH), struct.pack(">HH", 0, WIDTH), 1),
}


@pytest.mark.parametrize("payload", UNUSUAL_JPEGS.values(), ids=UNUSUAL_JPEGS)
def test_an_unusual_jpeg_is_left_to_pillow(payload: bytes) -> None:
    assert not read_header(payload).plain


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("colour", "depth"),
    [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8), (4, 8), (4, 16), (6, 8),
     (6, 16)],
)  # fmt: skip
def test_a_png_of_8_bits_without_alpha_is_plain(colour: int, depth: int, interlaced: bool) -> None:
    payload = png(depth, colour, interlaced=interlaced)
    header = read_header(payload)
    assert (header.height, header.width, header.orientation) == as_pillow_sees_it(payload)
    assert header.plain == (depth == 8 and colour in (0, 2, 3))


TRANSPARENT = (b"tRNS", b"\0\0")
TURNED = (b"eXIf", with_exif(6).tobytes()[6:])


@pytest.mark.parametrize(
    ("payload", "plain"),
    [
        (png(8, 0, TRANSPARENT), False),
        (png(8, 3, TRANSPARENT), False),
        (png(8, 2, TURNED), False),
        (png(8, 2, (b"acTL", struct.pack(">II", 1, 0))), False),
        (png(8, 2, (b"gAMA", struct.pack(">I", 45455)), (b"tEXt", b"Author\0nobody")), True),
        (encode(RGB), True),
        (encode(RGB.convert("P")), True),
        (encode(RGB.convert("RGBA")), False),
        (encode(RGB)[:-1], False),
        (encode(RGB) + b"\0", False),
    ],
    ids=["tRNS gray", "tRNS palette", "EXIF", "animated", "text", "RGB", "palette", "RGBA", "cut", "trailing"],
)
def test_a_png_that_may_show_otherwise_is_left_to_pillow(payload: bytes, plain: bool) -> None:
    header = read_header(payload)
    assert (header.height, header.width, header.plain) == (HEIGHT, WIDTH, plain)


def webp(image: Image.Image = RGB, **options: Any) -> bytes:
    return encode(image, "WEBP", **options)


OTHER = RGB.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


@pytest.mark.parametrize(
    ("payload", "plain"),
    [
        (webp(), True),
        (webp(lossless=True), True),
        (webp(icc_profile=bytes(200)), True),
        (webp(lossless=True, icc_profile=bytes(200)), True),
        (webp(RGB.resize((1, 1))), True),
        (webp(exif=with_exif(6)), False),
        (webp(picture_with_hole := RGB.copy().convert("RGBA")), True),  # opaque: the encoder drops the channel
        (webp(save_all=True, append_images=[OTHER], duration=100), False),
        (webp()[:-1], False),
        (webp(lossless=True)[:-1], False),
    ],
    ids=["lossy", "lossless", "profile", "lossless profile", "one pixel", "EXIF", "opaque", "animated", "cut", "cut2"],
)
def test_a_webp_without_alpha_exif_or_animation_is_plain(payload: bytes, plain: bool) -> None:
    header = read_header(payload)
    assert header.plain == plain
    if plain:
        assert (header.height, header.width, header.orientation) == as_pillow_sees_it(payload)


@pytest.mark.parametrize("lossless", [False, True])
def test_a_webp_with_alpha_is_left_to_pillow(lossless: bool) -> None:
    transparent = RGB.convert("RGBA")
    transparent.putalpha(Image.linear_gradient("L").resize(transparent.size))
    header = read_header(webp(transparent, lossless=lossless))
    assert (header.height, header.width, header.plain) == (HEIGHT, WIDTH, False)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "JPEG2000", "AVIF", "PPM"])
def test_other_formats_are_left_to_pillow(kind: str) -> None:
    assert read_header(encode(RGB, kind)) == Header(0, 0, plain=False)


def test_a_png_whose_header_chunk_is_missing_has_no_size() -> None:
    """As iPhones' PNGs have it: their first chunk is another one."""
    assert read_header(encode(RGB).replace(b"IHDR", b"CgBI", 1)) == Header(0, 0, plain=False)


@pytest.mark.parametrize("payload", [b"", b"\xff", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"<html>"])
def test_nothing_is_read_from_next_to_nothing(payload: bytes) -> None:
    assert not read_header(payload).plain


def test_a_payload_of_many_tiny_segments_is_not_walked_through() -> None:
    """Four bytes each, 64 MB of them would hold up all other samples for eight seconds."""
    photo, drawing = jpeg(), encode(RGB)
    text = struct.pack(">I", 0) + b"tEXt" + struct.pack(">I", zlib.crc32(b"tEXt"))
    for count, plain in ((300, True), (2000, False)):
        assert read_header(photo[:2] + b"\xff\xe0\x00\x02" * count + photo[2:]).plain == plain
        assert read_header(drawing[:33] + text * count + drawing[33:]).plain == plain


SEEDS = [
    *PLAIN_JPEGS.values(),
    jpeg(exif=with_exif(6)),
    encode(RGB),
    png(8, 3, TRANSPARENT),
    webp(),
    webp(lossless=True),
    webp(exif=with_exif(3)),
]


def holds(payload: bytes) -> None:
    """What every answer must satisfy, whatever the payload."""
    header = read_header(payload)
    assert 1 <= header.orientation <= 8
    assert header.height >= 0
    assert header.width >= 0
    if header.plain:
        assert header.height > 0
        assert header.width > 0
        if payload.startswith(b"\x89PNG"):
            assert payload.endswith(END_OF_PNG)
        elif payload.startswith(b"\xff\xd8"):
            assert END_OF_JPEG in payload
        else:
            assert int.from_bytes(payload[4:8], "little") + 8 <= len(payload)


@given(st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8", b"\xff\xd8\xff\xe1", b"\x89PNG\r\n\x1a\n", b"RIFF"]))
def test_random_bytes_are_survived(payload: bytes, prefix: bytes) -> None:
    holds(prefix + payload)
    holds(b"RIFF" + payload[:4].ljust(4) + b"WEBPVP8" + payload)


@given(
    st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8), st.integers(0)
)
@example(SEEDS[0], [], 0)
def test_changed_and_cut_images_are_survived(payload: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    changed = bytearray(payload)
    for at, value in changes:
        changed[at % len(changed)] = value
    holds(bytes(changed))
    holds(bytes(changed[: cut % (len(changed) + 1)]))


@pytest.mark.parametrize("payload", [jpeg(), jpeg(progressive=True), encode(RGB), webp(), webp(lossless=True)])
def test_an_image_cut_anywhere_is_never_plain(payload: bytes) -> None:
    assert not any(read_header(payload[:cut]).plain for cut in range(len(payload)))
