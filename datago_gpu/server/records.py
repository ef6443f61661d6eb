"""What the server knows about one image: read from the image's header and from the JSON beside it."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal

import msgspec
from PIL import Image

from datago_gpu.system import path_of

IMAGE_TYPES = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".bmp": "image/bmp",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".jp2": "image/jp2",
    ".avif": "image/avif",
    ".jfif": "image/jpeg",
    ".jpe": "image/jpeg",
    ".apng": "image/apng",
    ".j2k": "image/j2c",
    ".j2c": "image/j2c",
    ".jpc": "image/j2c",
    ".jpf": "image/jpx",
    ".jpx": "image/jpx",
}
"""The endings that make a file an image, and the content type each is served with."""

MAX_SIDECAR_BYTES = 16 << 20

# Only these: a file named .jpg must not reach the readers of rarer and riskier formats.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "JPEG2000", "AVIF")

# Pillow's readers of damaged headers raise any of these.
_UNREADABLE = (
    OSError,
    ValueError,
    ArithmeticError,
    LookupError,
    EOFError,
    SyntaxError,
    TypeError,
    MemoryError,
    struct.error,
    Image.DecompressionBombError,
)

OVERLOADED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors that say nothing about a file: the process is short of something at the moment."""

ImageId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,512}\Z")]
LatentType = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,100}\Z")]
Name = Annotated[str, msgspec.Meta(min_length=1, pattern=r"^[^\x00]*\Z")]
Slug = Annotated[str, msgspec.Meta(pattern=r"^[^\x00/]+/[0-9]+\Z")]


class Unreadable(Exception):
    """A file that cannot be indexed; the text says why."""


class Latent(msgspec.Struct, frozen=True):
    """One entry of a sidecar's `latents`; `file` is relative to the sidecar."""

    latent_type: LatentType
    file: str
    is_mask: bool = False


class Sidecar(msgspec.Struct, frozen=True):
    """The JSON beside an image. Every key may be missing or null; unknown keys are ignored."""

    id: ImageId | None = None
    source: Name | None = None
    attributes: dict[str, Any] | None = None
    tags: list[Name] | None = None
    duplicate_state: Literal[1, 2] | None = None
    datasets: list[Slug] | None = None
    coca_embedding: list[float] | None = None
    latents: list[Latent] | None = None

    def __post_init__(self) -> None:
        types = [latent.latent_type for latent in self.latents or ()]
        if len(types) != len(set(types)):
            raise ValueError("a latent_type comes twice")
        if not all(map(math.isfinite, self.coca_embedding or ())):
            raise ValueError("coca_embedding holds a number that is not finite")


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What the image file itself says."""

    width: int
    """Pixels, as stored: EXIF orientation is not applied."""
    height: int
    image_hash: str
    """`sha256:` and 64 hex digits of the file's bytes. A real Dataroom hashes the decoded pixels, which
    would mean decoding every image when the server starts."""

    @property
    def aspect_ratio(self) -> float:
        """Width over height."""
        return self.width / self.height

    @property
    def aspect_ratio_fraction(self) -> str:
        """The nearest fraction with a denominator up to 10, such as `4:3`."""
        nearest = Fraction(self.aspect_ratio).limit_denominator(10)
        return f"{nearest.numerator}:{nearest.denominator}"


@dataclass(frozen=True, slots=True)
class LatentFile:
    """A latent whose file exists."""

    latent_type: str
    path: str
    is_mask: bool


@dataclass(frozen=True, slots=True)
class Record:
    """One image of the index."""

    id: str
    path: str
    """Absolute, without symbolic links."""
    source: str
    created_ns: int
    updated_ns: int
    facts: ImageFacts
    sidecar: Sidecar
    latents: tuple[LatentFile, ...]


def media_key(image_id: str, path: str, latent_type: str | None = None) -> str:
    """The key that a payload is addressed by, as in a Dataroom's bucket.

    The extension is the first 4 characters of the file's own; a key never holds a part of a path."""
    ending = os.path.splitext(path)[1][1:5]
    extension = "".join(char for char in ending.lower() if char.isascii() and char.isalnum()) or "bin"
    name = "original" if latent_type is None else f"latent_{latent_type}"
    return f"images/{image_id}/{name}.{extension}"


def raise_if_overloaded(error: Exception) -> None:
    """Raises the error if it is not the file's own: the file is then to be looked at again later."""
    if isinstance(error, OSError) and error.errno in OVERLOADED:
        raise error


def open_regular(path: str) -> int:
    """A descriptor of the file, opened for reading; a symbolic link anywhere on the absolute `path` is an OSError, a
    special file a wait-free descriptor that the caller refuses by its mode."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    # O_NOFOLLOW minds only the last part, and a look before opening comes too early: a folder on the way may become a
    # link at any moment.
    if path_of(descriptor) != path:
        os.close(descriptor)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return descriptor


def read_facts(path: str) -> ImageFacts:
    """Reads the header and hashes the bytes; nothing is decoded. Raises Unreadable."""
    try:
        with open(open_regular(path), "rb") as file:
            with Image.open(file, formats=_FORMATS) as image:
                width, height = image.size
            if width < 1 or height < 1:
                raise Unreadable(f"{width}x{height} pixels")
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256")
    except _UNREADABLE as error:
        raise_if_overloaded(error)
        raise Unreadable(f"{type(error).__name__}: not a readable image") from error
    return ImageFacts(width, height, f"sha256:{digest.hexdigest()}")


def read_sidecar(path: str) -> Sidecar:
    """Parses and checks a sidecar. Raises Unreadable."""
    try:
        with open(open_regular(path), "rb") as file:
            text = file.read(MAX_SIDECAR_BYTES + 1)
        if len(text) > MAX_SIDECAR_BYTES:
            raise Unreadable(f"larger than {MAX_SIDECAR_BYTES} bytes")
        return msgspec.json.decode(text, type=Sidecar)
    except (OSError, ValueError, RecursionError) as error:
        raise_if_overloaded(error)
        raise Unreadable(str(error)) from error
