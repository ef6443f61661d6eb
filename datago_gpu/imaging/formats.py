"""Opens a payload with one of Pillow's readers: header first, and pixels only where there are not too many.

Every format that Pillow decodes by itself, within the process, is taken. Left out are EPS, for which it starts
Ghostscript, and IPTC, which opens what is inside as any format, EPS among them; FITS, which Pillow 12 unpacks without a
bound; and those for which it has a header reader only (BUFR, GRIB, HDF5, MPEG, WMF).
"""

from __future__ import annotations

import io
import struct

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PpmImagePlugin,
    WebPImagePlugin,
)

from datago_gpu.imaging.exif import orientation
from datago_gpu.imaging.png import Png, essential
from datago_gpu.imaging.scans import MOST_SCANS, count_scans
from datago_gpu.imaging.segments import without_short_segments
from datago_gpu.imaging.tiff import Tiff

__all__ = ["Undecodable", "exif_orientation", "open_image"]


class Undecodable(Exception):
    """The payload is no image that can be shown.

    reason: "empty", "unknown-format", "too-many-pixels" or "undecodable". detail: what was found, or what Pillow said.
    The text is for a sample that is counted as "undecodable", and does not say that word again.
    """

    def __init__(self, reason: str, detail: str) -> None:
        said = [] if reason == "undecodable" and detail else [reason]
        super().__init__(": ".join([*said, *([detail] if detail else [])]))
        self.reason, self.detail = reason, detail


class _Jpeg(JpegImagePlugin.JpegImageFile):
    """Without the search for a resolution in EXIF, which is of no use here and warns where EXIF is broken."""

    def _read_dpi_from_exif(self) -> None:
        pass


class _Bmp(BmpImagePlugin.BmpImageFile):
    """A picture whose alpha is zero throughout is opaque: many programs leave the fourth byte of each pixel at zero."""

    def load_end(self) -> None:
        super().load_end()
        if self.mode == "RGBA" and self.im.getband(3).getextrema()[1] == 0:
            self.im.fillband(3, 255)


_COMMON: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": _Jpeg,
    "PNG": Png,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": _Bmp,
    "TIFF": Tiff,
    "JPEG2000": Jpeg2KImagePlugin.Jpeg2KImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}
"""Their first bytes tell them for certain."""

_TIDIED = {"JPEG": without_short_segments, "PNG": essential}
"""What makes a payload one that Pillow does not refuse for what says nothing about its pixels."""

_RARE = (
    "BLP", "DIB", "CUR", "PCX", "DCX", "DDS", "FLI", "FTEX", "GBR", "ICNS", "ICO", "MCIDAS", "MSP", "PIXAR", "PSD",
    "QOI", "SGI", "SUN", "XBM", "XPM", "XVTHUMB", "IM", "IMT", "PCD", "SPIDER", "TGA",
)  # fmt: skip
"""Tried one after the other; those that have no sign of their own in the first bytes (IM and on) last."""

_NOT_THIS_FORMAT = (SyntaxError, IndexError, TypeError, struct.error)
"""What readers raise where a payload is of another format, says Image.open."""


def open_image(payload: bytes | memoryview, max_pixels: int) -> ImageFile.ImageFile:
    """Read the header of an image; its pixels are decoded by `load()`.

    Image.open would do, but for the formats named above, and for its limit on pixels: a global of Pillow's, which warns
    before it raises. Raises Undecodable, and anything that Pillow's readers raise.
    """
    if not payload:
        raise Undecodable("empty", "")
    image = _common(payload) or _rare(payload)
    if image is None:
        raise Undecodable("unknown-format", f"begins with {bytes(payload[:16])!r}")
    if image.width * image.height > max_pixels:
        raise Undecodable("too-many-pixels", f"{image.height} x {image.width}, allowed are {max_pixels} in all")
    return image


def _common(payload: bytes | memoryview) -> ImageFile.ImageFile | None:
    prefix = bytes(payload[:16])
    for name, opener in _COMMON.items():
        accepts = Image.OPEN[name][1]
        if accepts and accepts(prefix):
            tidied = _TIDIED[name](payload) if name in _TIDIED else payload
            image = opener(io.BytesIO(tidied))
            if image.info.get("progressive") and (scans := count_scans(payload)) > MOST_SCANS:
                raise Undecodable("undecodable", f"{scans} scans in a progressive JPEG, allowed are {MOST_SCANS}")
            return image
    return None


def _rare(payload: bytes | memoryview) -> ImageFile.ImageFile | None:
    Image.init()  # loads all readers, once
    prefix = bytes(payload[:16])
    for name in _RARE:
        if name not in Image.OPEN:
            continue  # another version of Pillow
        opener, accepts = Image.OPEN[name]
        try:
            if not accepts or accepts(prefix):
                return opener(io.BytesIO(payload), "")
        except _NOT_THIS_FORMAT:
            continue
    return None


def exif_orientation(image: ImageFile.ImageFile) -> int:
    """The orientation, 1 to 8, as `ImageOps.exif_transpose` takes it.

    Where a PNG tells it behind its pixels, it counts once they are loaded.
    """
    if image.format == "TIFF":
        return 1  # its reader turns the pixels itself
    info = image.info
    exif, xmp = info.get("exif"), info.get("XML:com.adobe.xmp") or info.get("xmp")
    if exif is None and (profile := info.get("Raw profile type exif")):
        try:
            exif = bytes.fromhex("".join(profile.split("\n")[3:]))
        except (ValueError, TypeError, AttributeError):  # metadata: broken, it costs the orientation, not the picture
            return 1
    return orientation(exif, xmp)
