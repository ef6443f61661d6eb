"""Opens a payload with one of Pillow's readers: the header first, and pixels only if there are not too many.

Every format that Pillow decodes by itself, within the process, is supported. Excluded are EPS, for which Pillow starts
Ghostscript; IPTC, which opens its content as any format, including EPS; FITS, which Pillow 12 unpacks without a limit;
and formats for which Pillow only reads headers (BUFR, GRIB, HDF5, MPEG, WMF).
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

from datago_gpu.errors import Rejected
from datago_gpu.imaging.exif import orientation
from datago_gpu.imaging.png import Png, without_useless_chunks
from datago_gpu.imaging.scans import MOST_SCANS, count_scans
from datago_gpu.imaging.segments import without_short_segments
from datago_gpu.imaging.tiff import Tiff

__all__ = ["exif_orientation", "open_image"]


class _Jpeg(JpegImagePlugin.JpegImageFile):
    """Pillow's reader without the search for a resolution in EXIF, which is useless here and warns on broken EXIF."""

    def _read_dpi_from_exif(self) -> None:
        pass


class _Bmp(BmpImagePlugin.BmpImageFile):
    """Pillow's reader, but an image with alpha 0 everywhere is opaque: many programs leave the fourth byte at 0."""

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
"""Formats that the first bytes identify for certain."""

_TIDIED = {"JPEG": without_short_segments, "PNG": without_useless_chunks}
"""Functions that remove metadata for which Pillow would refuse an image."""

_RARE = (
    "BLP", "DIB", "CUR", "PCX", "DCX", "DDS", "FLI", "FTEX", "GBR", "ICNS", "ICO", "MCIDAS", "MSP", "PIXAR", "PSD",
    "QOI", "SGI", "SUN", "XBM", "XPM", "XVTHUMB", "IM", "IMT", "PCD", "SPIDER", "TGA",
)  # fmt: skip
"""Formats that are tried one after the other. Those without a signature in the first bytes (from IM on) are last."""

_NOT_THIS_FORMAT = (SyntaxError, IndexError, TypeError, struct.error)
"""What readers raise if a payload is of another format, according to Image.open."""


def open_image(payload: bytes | memoryview, max_pixels: int) -> ImageFile.ImageFile:
    """Reads the header of an image; `load()` decodes the pixels.

    Image.open is not used because it opens the excluded formats, and because its pixel limit is a global that warns
    before it raises. Raises Rejected, and anything that Pillow's readers raise.
    """
    if not payload:
        raise Rejected("empty")
    image = _common(payload) or _rare(payload)
    if image is None:
        raise Rejected("unknown-format", f"begins with {bytes(payload[:16])!r}")
    if image.width * image.height > max_pixels:
        raise Rejected("too-many-pixels", f"{image.height} x {image.width}, at most {max_pixels} pixels are allowed")
    return image


def _common(payload: bytes | memoryview) -> ImageFile.ImageFile | None:
    prefix = bytes(payload[:16])
    for name, opener in _COMMON.items():
        accepts = Image.OPEN[name][1]
        if accepts and accepts(prefix):
            tidied = _TIDIED[name](payload) if name in _TIDIED else payload
            image = opener(io.BytesIO(tidied))
            if image.info.get("progressive") and (scans := count_scans(payload)) > MOST_SCANS:
                raise Rejected("undecodable", f"{scans} scans in a progressive JPEG, at most {MOST_SCANS} are allowed")
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
    """Returns the orientation, 1 to 8, as `ImageOps.exif_transpose` reads it.

    If a PNG has the orientation after its pixels, it is found only once the pixels are loaded.
    """
    if image.format == "TIFF":
        return 1  # Pillow's TIFF reader turns the pixels itself
    info = image.info
    exif, xmp = info.get("exif"), info.get("XML:com.adobe.xmp") or info.get("xmp")
    if exif is None and (profile := info.get("Raw profile type exif")):
        try:
            exif = bytes.fromhex("".join(profile.split("\n")[3:]))
        except (ValueError, TypeError, AttributeError):  # broken metadata costs the orientation, not the image
            return 1
    return orientation(exif, xmp)
