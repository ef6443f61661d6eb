"""Reads the captions beside images, and makes attributes of them. A bad caption never costs its image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import structs

from datago_gpu.errors import SourceError
from datago_gpu.feeder.payload_client import Remote
from datago_gpu.sources.attributes import NO_ATTRIBUTES
from datago_gpu.sources.caption_text import MOST_CAPTION_BYTES, attributes_of_caption
from datago_gpu.sources.captions import without_caption
from datago_gpu.sources.http.failure import GONE, HttpFailure
from datago_gpu.sources.local import Patience, read_file
from datago_gpu.sources.reference import BAD_ATTRIBUTES, SampleRef

if TYPE_CHECKING:
    from datago_gpu.sources.cache.payload_cache import PayloadCache

__all__ = ["download_caption", "read_caption"]

_DELETED = "the caption was deleted after it was listed"
_TOO_LARGE = f"the caption has {{}} bytes, at most {MOST_CAPTION_BYTES} are read"


def read_caption(ref: SampleRef, patience: Patience, room: int) -> int:
    """Reads the local caption of a sample into its record. Returns 0; or, if the caption takes more memory than `room`,
    the bytes that it takes."""
    most = min(room, MOST_CAPTION_BYTES)
    try:
        content, size = patience(lambda: read_file(ref.caption, most))
    except FileNotFoundError:
        ref.flaws = without_caption(_DELETED)
        return 0
    except OSError as error:
        _refuse(ref, f"the caption cannot be read: {error.strerror}")
        return 0
    if size > MOST_CAPTION_BYTES:
        _refuse(ref, _TOO_LARGE.format(size))
    elif size > room:
        return size
    else:
        _keep(ref, content)
    return 0


async def download_caption(ref: SampleRef, remote: Remote, cache: PayloadCache | None = None) -> None:
    """Downloads the caption of a sample into its record. Raises SourceError if the server is down.

    cache: is used if the listing says when the caption changes: captions are edited.
    """
    try:
        miss = None
        if cache and ref.version:
            most = MOST_CAPTION_BYTES
            found = await cache.find(ref.caption, None, ref.version, most, most)
            if isinstance(found, bytes):
                _keep(ref, found)
                return
            miss = found
        content = await remote.get(ref.caption, MOST_CAPTION_BYTES)
        _keep(ref, content)
        if cache and miss and not ref.flaws:
            await cache.keep(miss, content)
    except HttpFailure as failure:
        if failure.down:
            raise SourceError(f"{failure}; {failure.verdict}") from failure
        if failure.status in GONE:
            ref.flaws = without_caption(_DELETED)
        else:
            _refuse(ref, f"the caption cannot be read: {failure.reason} {failure.detail}".rstrip())


def _keep(ref: SampleRef, content: bytes) -> None:
    attributes, problem = attributes_of_caption(ref.caption, content)
    if problem:
        _refuse(ref, problem)
    elif attributes != NO_ATTRIBUTES:
        ref.info = structs.replace(ref.info, attributes=attributes)


def _refuse(ref: SampleRef, why: str) -> None:
    ref.flaws = {BAD_ATTRIBUTES: why}
