"""Pictures of every kind that tell their orientation in every way: both back ends show them as Pillow turns them."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from datago_gpu.decoders.decoder import EncodedImages
from datago_gpu.decoders.make import make_decoder
from datago_gpu.decoders.select import choose
from datago_gpu.feeder.admit import Admission
from datago_gpu.feeder.admitted import Admitted
from datago_gpu.imaging.header import read_header
from datago_gpu.sources.reference import SampleRef
from datago_gpu.sources.sample_info import SampleInfo
from tests.long.exif_blocks import XMP_NAME, block, exif_segment, good_blocks, segment
from tests.support.images import file_config
from tests.support.pictures import encode, picture

RGB = Image.fromarray(picture(24, 40))
CLEAR = RGB.convert("RGBA")
CLEAR.putalpha(Image.linear_gradient("L").resize(RGB.size))
TURN = 6
TIFF = block(">", [(0x0112, 3, 1, struct.pack(">H", TURN))])
ODD = block(">", [(0x0112, 3, 1, struct.pack(">H", TURN)), (0x0131, 2, 0x7FFFFFFF, bytes(4))])
OTHER = block("<", [(0x0112, 3, 1, struct.pack("<H", 3))])
XMP = f'<x:xmpmeta tiff:Orientation="{TURN}"/>'.encode()
UPRIGHT_XMP = XMP.replace(b"6", b"1")

JPEGS = {
    "RGB": encode(RGB, "JPEG"),
    "gray": encode(RGB.convert("L"), "JPEG"),
    "CMYK": encode(RGB.convert("CMYK"), "JPEG"),
    "progressive": encode(RGB, "JPEG", progressive=True),
}
PNGS = {
    "RGB": encode(RGB),
    "gray": encode(RGB.convert("L")),
    "palette": encode(RGB.quantize(64)),
    "RGBA": encode(CLEAR),
    "LA": encode(CLEAR.convert("LA")),
    "16 bits": encode(Image.fromarray(np.asarray(RGB.convert("L")).astype(np.uint16) * 257)),
}
WEBPS = {
    "lossy": (RGB, {}),
    "lossless": (RGB, {"lossless": True}),
    "alpha": (CLEAR, {"lossless": True}),
}


def jpeg_ways(jpeg: bytes) -> dict[str, bytes]:
    scan = jpeg.index(b"\xff\xda")
    whole, odd, other, xmp = exif_segment(TIFF), exif_segment(ODD), exif_segment(OTHER), segment(XMP_NAME + XMP)
    return {
        "EXIF": jpeg[:2] + whole + jpeg[2:],
        "odd EXIF": jpeg[:2] + odd + jpeg[2:],
        "two EXIFs": jpeg[:2] + whole + other + jpeg[2:],
        "two EXIFs, odd first": jpeg[:2] + odd + other + jpeg[2:],
        "EXIF before the scan": jpeg[:scan] + whole + jpeg[scan:],
        "EXIF at both ends": jpeg[:2] + whole + jpeg[2:scan] + other + jpeg[scan:],
        "XMP": jpeg[:2] + xmp + jpeg[2:],
        "XMP beside EXIF without": jpeg[:2] + exif_segment(block("<", [])) + xmp + jpeg[2:],
        "no block in EXIF, and another": jpeg[:2] + exif_segment(b"") + whole + jpeg[2:],
        "EXIF behind the end": jpeg[:2] + whole + jpeg[2:] + other,
    }


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_ways(png: bytes) -> dict[str, bytes]:
    profile = b"\nexif\n%8d\n%s\n" % (len(TIFF) + 6, (b"Exif\0\0" + TIFF).hex().encode())
    told = {
        "EXIF": chunk(b"eXIf", TIFF),
        "odd EXIF": chunk(b"eXIf", ODD),
        "two EXIFs": chunk(b"eXIf", TIFF) + chunk(b"eXIf", OTHER),
        "raw profile": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile)),
        "XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
        "packed XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP)),
    }
    pixels = png.index(b"IDAT") - 4
    early = {f"{way}, early": png[:pixels] + chunks + png[pixels:] for way, chunks in told.items()}
    return early | {f"{way}, late": png[:-12] + chunks + png[-12:] for way, chunks in told.items()}


def webp_ways(image: Image.Image, options: dict[str, Any]) -> dict[str, bytes]:
    return {
        "EXIF": encode(image, "WEBP", exif=b"Exif\0\0" + TIFF, **options),
        "odd EXIF": encode(image, "WEBP", exif=b"Exif\0\0" + ODD, **options),
        "XMP": encode(image, "WEBP", xmp=XMP, **options),
    }


def untold() -> dict[str, bytes]:
    """Kind -> the picture as it is stored, without an orientation."""
    return {
        **{f"JPEG {name}": data for name, data in JPEGS.items()},
        **{f"PNG {name}": data for name, data in PNGS.items()},
        **{f"WebP {name}": encode(image, "WEBP", **options) for name, (image, options) in WEBPS.items()},
    }


def told() -> list[tuple[str, str, bytes]]:
    """Kind, way of telling, payload."""
    kinds = {
        **{f"JPEG {name}": jpeg_ways(data) for name, data in JPEGS.items()},
        **{f"PNG {name}": png_ways(data) for name, data in PNGS.items()},
        **{f"WebP {name}": webp_ways(*made) for name, made in WEBPS.items()},
    }
    return [(kind, way, data) for kind, ways in kinds.items() for way, data in ways.items()]


def shown(payloads: list[bytes], backend: str, *, rgb8: bool) -> list[Any]:
    """What a back end makes of the payloads, with the feeder before it."""
    config = file_config("/", image={"crop_and_resize": False, "image_to_rgb8": rgb8}, batch_size=len(payloads))
    admission, admitted = Admission(config), []
    for payload in payloads:
        ref = SampleRef(0, SampleInfo(""))
        outcome = admission.quick(ref, payload) or admission.thorough(ref, payload)
        assert isinstance(outcome, Admitted), outcome
        admitted.append(outcome)
    images = EncodedImages(
        payloads=[np.frombuffer(sample.payload, np.uint8) for sample in admitted],
        sizes=np.array([sample.size for sample in admitted], np.int32),
        regions=np.array([sample.region for sample in admitted], np.float32),
        orientations=np.array([sample.orientation for sample in admitted], np.uint8),
        target=None,
    )
    decoder = make_decoder(choose("cpu", backend), config.image_config, config.decode_config, len(payloads))
    decoder.submit(images)
    decoded = decoder.collect()
    decoder.close()
    assert not decoded.failures
    return [np.asarray(image) for image in decoded.image]


def as_pillow_turns(stored: Any, payload: bytes) -> Any:
    """Pixels as they are stored, turned as `ImageOps.exif_transpose` turns the payload."""
    with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(payload)) as image:
        height, width = image.height, image.width
        image.load()
        image.getexif()
        # Where each pixel comes from, turned the same way.
        where = Image.fromarray(np.arange(height * width, dtype=np.int32).reshape(height, width))
        where.info = image.info
        places = np.asarray(ImageOps.exif_transpose(where))
    return stored.reshape(height * width, -1)[places]


@pytest.mark.parametrize("rgb8", [True, False], ids=["RGB", "own channels"])
@pytest.mark.parametrize("backend", ["pillow", "dali"])
def test_every_kind_of_picture_is_turned_as_pillow_turns_it(backend: str, rgb8: bool) -> None:
    plain, cases = untold(), told()
    stored = dict(zip(plain, shown(list(plain.values()), backend, rgb8=rgb8), strict=True))
    wrong = []
    turned = shown([payload for _, _, payload in cases], backend, rgb8=rgb8)
    for (kind, way, payload), image in zip(cases, turned, strict=True):
        expected = as_pillow_turns(stored[kind], payload)
        if image.shape != expected.shape or not np.array_equal(image, expected):
            wrong.append((kind, way, image.shape, expected.shape))
    assert not wrong


def test_one_plain_segment_takes_the_place_of_all_that_a_jpeg_says() -> None:
    for way, payload in jpeg_ways(JPEGS["RGB"]).items():
        header = read_header(payload)
        tidied = header.tidy(payload)
        again = read_header(tidied)
        assert (again.orientation, again.plain, again.odd_exif) == (header.orientation, True, ()), way
        if way in ("EXIF", "EXIF before the scan", "EXIF behind the end"):
            assert tidied is payload, way
        else:
            assert tidied.replace(segment(XMP_NAME + XMP), b"") == (
                JPEGS["RGB"][:2] + (exif_segment(TIFF) if header.orientation == TURN else b"") + JPEGS["RGB"][2:]
            ), way


def test_undamaged_exif_and_xmp_for_an_upright_picture_cost_no_copy() -> None:
    jpeg, png = JPEGS["RGB"], PNGS["RGB"]
    xmp = segment(XMP_NAME + UPRIGHT_XMP)
    text = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + UPRIGHT_XMP)
    upright = exif_segment(block("<", [(0x0112, 3, 1, b"\1\0")]))
    for payload in (
        *(jpeg[:2] + exif_segment(tiff) + xmp + jpeg[2:] for tiff in good_blocks()),
        jpeg[:2] + upright + segment(XMP_NAME + XMP) + jpeg[2:],
        jpeg[:2] + xmp + jpeg[2:],
        png[:33] + text + png[33:],
        png[:-12] + text + png[-12:],
        encode(RGB, "WEBP", xmp=UPRIGHT_XMP),
    ):
        header = read_header(payload)
        assert header.plain
        assert header.tidy(payload) is payload


def test_a_jpeg_with_two_frames_is_left_to_pillow() -> None:
    """Of two sizes one decoder may take the first, another the second."""
    jpeg = JPEGS["RGB"]
    frame = jpeg.index(b"\xff\xc0")
    length = 2 + int.from_bytes(jpeg[frame + 2 : frame + 4], "big")
    assert not read_header(jpeg[:frame] + jpeg[frame : frame + length] + jpeg[frame:]).plain
