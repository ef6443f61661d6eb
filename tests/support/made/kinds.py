"""Holds one small file of each kind that public suites of images hold: PngSuite, image-tiff, image-rs, libvips, ..."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import OPEN_INFO

from tests.support.made import tiff as tiffs
from tests.support.made.bmp import bmp, bmp_rle8
from tests.support.made.jpeg import blocks_shown, jpeg_of_blocks, segment
from tests.support.made.png import chunk, png
from tests.support.made.tiff import tiff
from tests.support.pictures import encode, picture

__all__ = ["KINDS", "Kind"]

Pixels = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """A file, and what it shows."""

    payload: bytes
    shown: Pixels
    """(H, W, 3), uint8: on gray 128 where it is transparent."""
    own: Pixels
    """(H, W, C), uint8 or uint16: with the channels and the depth of the file."""
    tolerance: int = 0
    """Levels by which any pixel of `shown` may be off; as many 257ths of `own` where it is uint16."""


HEIGHT, WIDTH = 40, 64
_LOW = (np.arange(HEIGHT * WIDTH * 4).reshape(HEIGHT, WIDTH, 4) * 101 % 256).astype(np.uint16)
RGBA = np.dstack([picture(HEIGHT, WIDTH), picture(HEIGHT, WIDTH, seed=7)[..., 0]])
RGBA16 = RGBA.astype(np.uint16) * 256 + _LOW
"""Lower bytes that differ from the upper ones, unlike what 8 bits times 257 has."""
COLOURS = [(level * 40 % 256, level * 7 % 256, 255 - level % 256) for level in range(256)]


def shown_of(own: Pixels) -> Pixels:
    """What is seen of pixels (H, W, C), uint8 or uint16, on gray. Of 16 bits, gray is rounded, else the upper byte."""
    gray, has_alpha = own.shape[2] < 3, own.shape[2] in (2, 4)
    if own.dtype == np.uint8:
        levels: Pixels = own
    else:
        levels = (own.astype(np.int64) + 128) // 257 if gray and not has_shades(own) else own >> 8
    colours = levels[..., : 1 if gray else 3]
    if has_alpha:
        alpha = levels[..., -1:].astype(np.float64) / 255
        colours = (colours * alpha + 128 * (1 - alpha)).round()
    return np.broadcast_to(colours, (*own.shape[:2], 3)).astype(np.uint8)


def has_shades(own: Pixels) -> bool:
    """Whether there is an alpha channel that is more than on and off."""
    return own.shape[2] in (2, 4) and len(np.unique(own[..., -1])) > 2


def kind(payload: bytes, own: Pixels, tolerance: int = 0) -> Kind:
    """What is composed on gray may be off by one: Pillow rounds otherwise."""
    return Kind(payload, shown_of(own), own, max(tolerance, int(has_shades(own))))


def with_key(own: Pixels, samples: Pixels, key: Any) -> Pixels:
    """Pixels with an alpha channel that is 0 where all samples are those of the key."""
    highest = np.iinfo(own.dtype).max
    opaque = np.any(samples != np.array(key), axis=2, keepdims=True)
    return np.concatenate([own, (opaque * highest).astype(own.dtype)], axis=2)


def pngs() -> dict[str, Kind]:
    """Each colour type and depth, interlaced, filtered, cut into small chunks, with a transparent level or colour."""
    made: dict[str, Kind] = {}
    for channels, depth in ((1, 1), (1, 2), (1, 4), (1, 8), (1, 16), (2, 8), (2, 16), (3, 8), (3, 16), (4, 8), (4, 16)):
        planes = [0, 3] if channels == 2 else range(channels)
        samples = (RGBA16 >> (16 - depth))[..., planes]
        own = samples if depth == 16 else (samples * 255 // (2**depth - 1)).astype(np.uint8)
        name = f"png {channels} x {depth}"
        made[name] = kind(png(samples, depth), own)
        made[f"{name} interlaced"] = kind(png(samples, depth, interlaced=True, filtered=True), own)
        made[f"{name} in pieces"] = kind(png(samples, depth, filtered=True, idat=7), own)
        if channels in (1, 3):
            key = samples[20, 30]
            trns = chunk(b"tRNS", struct.pack(f">{channels}H", *key.tolist()))
            made[f"{name} tRNS"] = kind(png(samples, depth, before=trns), with_key(own, samples, key))
            # Bits above the depth are to be ignored.
            if 1 < depth < 16:
                high = chunk(b"tRNS", struct.pack(f">{channels}H", *(key | 0x100).tolist()))
                made[f"{name} tRNS, high bits"] = kind(png(samples, depth, before=high), with_key(own, samples, key))
    for depth in (1, 2, 4, 8):
        indices = (RGBA16 >> (16 - depth))[..., :1]
        colours = COLOURS[: 2**depth]
        own = np.array(colours, np.uint8)[indices[..., 0]]
        made[f"png palette {depth}"] = kind(png(indices, depth, palette=colours), own)
        made[f"png palette {depth} interlaced"] = kind(png(indices, depth, palette=colours, interlaced=True), own)
        alphas = bytes([255, 0, 128, 77][: 2**depth])
        alpha = np.pad(np.frombuffer(alphas, np.uint8), (0, 256 - len(alphas)), constant_values=255)[indices]
        payload = png(indices, depth, palette=colours, before=chunk(b"tRNS", alphas))
        made[f"png palette {depth} tRNS"] = kind(payload, np.concatenate([own, alpha], axis=2))
    return made


_PROFILE = zlib.compress(b"a profile")
DAMAGED = {
    "CRC of tEXt": chunk(b"tEXt", b"a\0b", 0),
    "CRC of iCCP": chunk(b"iCCP", b"x\0\0" + _PROFILE, 0),
    "CRC of pHYs": chunk(b"pHYs", bytes(9), 0),
    "CRC of cLLI": chunk(b"cLLI", bytes(8), 0),
    "CRC of eXIf": chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0", 0),
    "CRC of tRNS": chunk(b"tRNS", struct.pack(">3H", *RGBA[0, 0, :3].tolist()), 0),
    "long zTXt": chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2 << 20))),
    "long iTXt": chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(2 << 20))),
    "zTXt of another method": chunk(b"zTXt", b"a\0\x07b"),
    "long iCCP": chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(2 << 20))),
    "iCCP of another method": chunk(b"iCCP", b"x\0\x07" + _PROFILE),
    "empty iCCP": chunk(b"iCCP", b""),
    "long raw profile": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(2 << 20))),
    "raw profile of another method": chunk(b"zTXt", b"Raw profile type exif\0\x07" + _PROFILE),
    "long XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(2 << 20))),
    "short pHYs": chunk(b"pHYs", b"\0"),
    "short cHRM": chunk(b"cHRM", bytes(31)),
    "short gAMA": chunk(b"gAMA", b"\0"),
    "empty sRGB": chunk(b"sRGB", b""),
    "short tRNS": chunk(b"tRNS", b"\0\0"),
    "short acTL": chunk(b"acTL", b"\0"),
    "acTL of no frames": chunk(b"acTL", bytes(8)),
    "fcTL out of order": chunk(b"acTL", b"\0\0\0\1\0\0\0\0") + chunk(b"fcTL", b"\0\0\0\x09" + bytes(22)),
    "unknown, CRC": chunk(b"abCd", b"data", 0),
}
"""Chunks that are no pixels: none of them costs a picture."""


def pngs_with_damaged_chunks() -> dict[str, Kind]:
    made = {}
    for name, damage in DAMAGED.items():
        for channels in (3, 4):
            pixels = RGBA[..., :channels]
            made[f"png {channels} x 8, {name}"] = kind(png(pixels, before=damage), pixels)
            made[f"png {channels} x 8, {name} behind"] = kind(png(pixels, behind=damage), pixels)
    made["png 1 x 16, CRC of tEXt"] = kind(png(RGBA16[..., :1], 16, before=DAMAGED["CRC of tEXt"]), RGBA16[..., :1])
    return made


def tiffs_of_16_bits() -> dict[str, Kind]:
    made: dict[str, Kind] = {}
    forms: dict[str, dict[str, Any]] = {
        "": {},
        " deflate": {"deflate": True},
        " predictor": {"deflate": True, "predictor": True},
        " one strip": {"rows": HEIGHT},
        " tiles": {"tile": 48},
        " tiles, predictor": {"tile": 48, "deflate": True, "predictor": True},
        " turned": {"orientation": 6},
    }
    gray = RGBA16[..., :1]
    premultiplied = np.concatenate([(RGBA16[..., :3].astype(np.int64) * RGBA16[..., 3:] // 65535), RGBA16[..., 3:]], 2)
    cmyk = np.array(Image.fromarray((RGBA16 >> 8).astype(np.uint8), "CMYK").convert("RGB"))
    for order in "<>":
        for form, options in forms.items():
            turned = {"orientation": 6}.items() <= options.items()

            def seen(own: Pixels, *, turned: bool = turned) -> Pixels:
                return np.rot90(own, -1) if turned else own

            def add(name: str, samples: Pixels, own: Pixels, *args: int, tolerance: int = 0, **more: Any) -> None:
                payload = tiff(samples, *args, order=order, **options, **more)  # noqa: B023 - used within this turn
                made[f"tiff {order} {name}{form}"] = kind(payload, seen(own), tolerance)  # noqa: B023

            add("gray", gray, gray, tiffs.BLACK_IS_ZERO)
            add("white is zero", 65535 - gray, gray, tiffs.WHITE_IS_ZERO)
            for planar in (False, True):
                where = "planar" if planar else "together"
                add(f"RGB {where}", RGBA16[..., :3], RGBA16[..., :3], planar=planar)
                add(f"RGBA {where}", RGBA16, RGBA16, planar=planar, extra=tiffs.UNASSOCIATED)
                add(f"RGBX {where}", RGBA16, RGBA16[..., :3], planar=planar, extra=tiffs.UNSPECIFIED)
                add(
                    f"RGBa {where}", premultiplied.astype(np.uint16), RGBA16, tolerance=3, planar=planar,
                    extra=tiffs.ASSOCIATED,
                )  # fmt: skip
                add(f"CMYK {where}", RGBA16, cmyk, tiffs.CMYK, planar=planar)
    return made


def other_tiffs() -> dict[str, Kind]:
    gray, alpha = RGBA[..., :1], RGBA[..., 3:] | 128
    associated = (gray.astype(np.uint16) * alpha // 255).astype(np.uint8)
    twelve = RGBA16[..., :1] >> 4
    wide = RGBA16[..., :1].astype(np.int32)
    made = {
        "tiff 12 bits": kind(
            tiff(twelve, tiffs.BLACK_IS_ZERO, bits=12), (twelve.astype(np.int64) * 65535 // 4095).astype(np.uint16)
        ),
    }
    if ("La", "La") in OPEN_INFO.values():  # from Pillow 13 on
        payload = tiff(np.dstack([associated, alpha]), tiffs.BLACK_IS_ZERO, extra=tiffs.ASSOCIATED)
        made["tiff gray, associated alpha"] = kind(payload, np.dstack([gray, alpha]), 3)
    for order in "<>":
        for deflate in (False, True):
            for dtype in (np.int32, np.uint32):
                payload = tiff(wide.astype(dtype), tiffs.BLACK_IS_ZERO, order=order, deflate=deflate)
                made[f"tiff {order} {dtype.__name__} {deflate}"] = kind(payload, RGBA16[..., :1])
    return made


def pnms() -> dict[str, Kind]:
    """Numbers are scaled by the highest one of the header."""

    def scaled(samples: Pixels, highest: int) -> Pixels:
        top = 255 if highest < 256 else 65535
        return (samples / highest * top).round().astype(np.uint8 if highest < 256 else np.uint16)

    made: dict[str, Kind] = {}
    for channels, plain, binary in ((1, b"P2", b"P5"), (3, b"P3", b"P6")):
        for highest in (100, 255, 1023, 65535):
            samples = (RGBA16[..., :channels].astype(np.int64) * highest // 65535).astype(np.uint16)
            own = scaled(samples, highest)
            head = b"\n# a comment\n%d %d\n%d\n" % (WIDTH, HEIGHT, highest)
            data = samples.astype(np.uint8 if highest < 256 else ">u2").tobytes()
            text = b" ".join(b"%d" % each for each in samples.ravel().tolist())
            # Pillow scales colours of 16 bits to 8 and rounds; elsewhere their upper byte is taken.
            tolerance = int(channels == 3)
            made[f"pnm {binary.decode()} {highest}"] = kind(binary + head + data, own, tolerance)
            made[f"pnm {plain.decode()} {highest}"] = kind(plain + head + text + b"\n", own, tolerance)
    bits = RGBA[..., 0] > 127
    own = (bits * 255).astype(np.uint8)[..., None]
    head = b"\n%d %d\n" % (WIDTH, HEIGHT)
    made["pnm P4"] = kind(b"P4" + head + np.packbits(~bits, axis=1).tobytes(), own)
    made["pnm P1"] = kind(b"P1" + head + b" ".join(b"%d" % each for each in (~bits).ravel()), own)
    return made


SHORT_SEGMENTS = {
    "JFIF": (0xE0, b"JFIF\0"),
    "Adobe": (0xEE, b"Adobe"),
    "ICC": (0xE2, b"ICC_PROFILE\0"),
    "Photoshop": (0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\xff\xff\xff\xff"),
    "EXIF": (0xE1, b"Exif\0\0"),
    "MPF": (0xE2, b"MPF\0MM\0*"),
    "application": (0xE5, b""),
    "comment": (0xFE, b""),
}


def jpegs() -> dict[str, Kind]:
    """Samplings; and scans, which bytes within segments and behind the picture look like."""
    luma = np.random.default_rng(5).integers(60, 200, (12, 12))
    made = {
        f"jpeg {across} x {down}": Kind(jpeg_of_blocks(luma, (across, down)), blocks_shown(luma), blocks_shown(luma), 2)
        for across, down in ((1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (1, 4), (4, 2), (2, 4), (3, 1), (1, 3))
    }
    whole = np.array(Image.new("RGB", (WIDTH, HEIGHT), (200, 90, 30)))
    progressive = encode(whole, "JPEG", progressive=True, quality=95, subsampling=0)
    like_scans = b"\xff\xda" * 120
    for name, payload in {
        "profile": progressive[:2] + segment(0xE2, b"ICC_PROFILE\0\1\1" + like_scans) + progressive[2:],
        "comment": progressive[:2] + segment(0xFE, like_scans) + progressive[2:],
        "video behind": progressive + like_scans,
        "comment behind the first scan": progressive[:-2] + segment(0xFE, like_scans) + progressive[-2:],
    }.items():
        made[f"jpeg progressive, {name}"] = Kind(payload, whole, whole, 3)
    gray = whole[..., :1]
    for channels, pixels in ((1, gray), (3, whole)):
        plain = encode(Image.fromarray(pixels.squeeze()), "JPEG", quality=95, subsampling=0)
        for name, (marker, data) in SHORT_SEGMENTS.items():
            payload = plain[:2] + segment(marker, data) + plain[2:]
            made[f"jpeg {channels} x 8, short {name}"] = Kind(payload, shown_of(pixels), pixels, 3)
    return made


def bmps() -> dict[str, Kind]:
    gray = RGBA[..., 0]
    made: dict[str, Kind] = {}
    for bits in (1, 4, 8):
        indices = gray >> (8 - bits)
        levels = (indices.astype(np.uint16) * 255 / (2**bits - 1)).round().astype(np.uint8)
        own = np.broadcast_to(levels[..., None], (HEIGHT, WIDTH, 3 if bits == 4 else 1))
        for header in (12, 40, 108):
            made[f"bmp {bits} bits, header {header}"] = kind(bmp(indices, bits, header=header), own)
    made["bmp RLE8"] = kind(bmp_rle8(gray // 50), (gray // 50)[..., None])
    bgr, bgra = RGBA[..., 2::-1], RGBA[..., [2, 1, 0, 3]]
    made["bmp 24 bits"] = kind(bmp(bgr, 24), RGBA[..., :3])
    made["bmp 24 bits, top down"] = kind(bmp(bgr, 24, top_down=True), RGBA[..., :3])
    made["bmp 24 bits, OS/2"] = kind(bmp(bgr, 24, header=12), RGBA[..., :3])
    red, green, blue = (RGBA[..., index].astype(np.uint16) >> 3 for index in range(3))
    for masks, numbers, top in (
        ("555", red << 10 | green << 5 | blue, 31),
        ("565", red << 11 | green << 6 | blue, 63),
    ):
        greens = green if top == 31 else green << 1
        own = np.dstack([red * 255 // 31, greens.astype(np.uint32) * 255 // top, blue * 255 // 31]).astype(np.uint8)
        made[f"bmp {masks}"] = kind(bmp(numbers, 16, masks=masks), own, 1)
    clear = np.concatenate([bgr, np.zeros_like(bgr[..., :1])], axis=2)
    opaque = np.concatenate([RGBA[..., :3], np.full((HEIGHT, WIDTH, 1), 255, np.uint8)], axis=2)
    made["bmp V4, alpha"] = kind(bmp(bgra, 32, header=108, masks="8888"), RGBA)
    made["bmp V4, alpha zero throughout"] = kind(bmp(clear, 32, header=108, masks="8888"), opaque)
    made["bmp 32 bits, no alpha"] = kind(bmp(clear, 32), RGBA[..., :3])
    return made


KINDS: dict[str, Kind] = {
    **pngs(),
    **pngs_with_damaged_chunks(),
    **tiffs_of_16_bits(),
    **other_tiffs(),
    **pnms(),
    **jpegs(),
    **bmps(),
}
