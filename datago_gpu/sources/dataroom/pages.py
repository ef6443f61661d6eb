"""Parses a page of a Dataroom listing from JSON: a bad entry does not spoil the other entries of its page.

The size of a page is checked before it is decoded, and long work is done on a thread in pieces: a page of 16 KiB may
unpack to millions of entries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct, structs

from datago_gpu.eventloop import call_in_thread
from datago_gpu.sources.attributes import NO_ATTRIBUTES, check_attributes, decode_leniently, encode
from datago_gpu.sources.dataroom.pieces import NotJson, TooMany, cut

__all__ = [
    "ENTRIES_THAT_VOTE",
    "AnyEntry",
    "Details",
    "Entry",
    "Latent",
    "NotAPage",
    "OddEntry",
    "Page",
    "most_entries",
    "read_page",
    "usual_dimensions",
]

LARGEST_PAGE = 2000
"""The most entries that a Dataroom returns, whatever the request asks for."""
_AT_ONCE_BYTES, _AT_ONCE_OBJECTS = 12 * 1024 * 1024, 50_000
"""Limits of what is decoded at once on the event loop: about 25 ms. An entry is an object, and may contain others."""
_LISTS_AN_ENTRY = 200
"""The most lists and objects of a page, per entry that it may have: skipping one takes 0.8 us."""
_LARGEST_ENTRY = 1024 * 1024
ENTRIES_THAT_VOTE = 100
_LONGEST_HASH = 200
_DIGITS = 9
"""The most digits of a width or height: more would not fit into 32 bits."""
_LARGEST_MENDED = 256 * 1024
"""The largest entry, in bytes, that is tried with Python's own decoder, which is slow."""


class Embedding(Struct):
    """Holds the vector. The server's other fields (who made it) are not requested."""

    vector: list[float]


class Latent(Struct):
    """Describes a mask, a further image or a latent of an image."""

    latent_type: str
    file_direct_url: str | None = None
    is_mask: bool | None = None


class Details(Struct):
    """Holds the lists of an entry."""

    tags: list[str]
    embedding: list[float]
    latents: list[Latent]


class Entry(Struct):
    """Holds one image of a listing, as the server describes it. Fields that may be null or absent have a default.

    Long fields are not decoded yet: see `details`.
    """

    id: Annotated[str, Meta(min_length=1)]
    source: str | None = None
    attributes: Raw = Raw(b"null")
    tags: Raw = Raw(b"null")
    image_direct_url: str | None = None
    duplicate_state: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    coca_embedding: Raw = Raw(b"null")
    latents: Raw = Raw(b"null")
    width: Raw = Raw(b"null")
    height: Raw = Raw(b"null")
    image_hash: Raw = Raw(b"null")

    @property
    def size(self) -> tuple[int, int]:
        """Returns (height, width) as the server says, 0 if unknown. EXIF orientation is not applied."""
        return _side(self.height), _side(self.width)

    @property
    def version(self) -> str:
        """Returns what changes when the pixels of the image change; "" if the server does not say it."""
        text = bytes(self.image_hash)
        return "" if text == b"null" or len(text) > _LONGEST_HASH else text.decode("utf-8", "replace")

    def details(self) -> Details:
        """Decodes the lists. Raises ValueError if they do not match the API, or if the entry is too long."""
        size = sum(map(_size, (self.attributes, self.tags, self.coca_embedding, self.latents)))
        if size > _LARGEST_ENTRY:
            raise ValueError(f"an entry of {size} bytes, at most {_LARGEST_ENTRY} are allowed")
        try:
            embedding = _embedding_decoder.decode(self.coca_embedding)
            return Details(
                _tags_decoder.decode(self.tags) or [],
                embedding.vector if embedding else [],
                _latents_decoder.decode(self.latents) or [],
            )
        except _UNREADABLE as error:
            raise ValueError(str(error)[:200]) from None

    def checked_attributes(self) -> tuple[bytes, str]:
        """See `attributes.checked`."""
        return check_attributes(bytes(self.attributes))


class _Mended(Entry):
    """An entry whose attributes JSON cannot represent. problem: why."""

    problem: str = ""

    def checked_attributes(self) -> tuple[bytes, str]:
        return NO_ATTRIBUTES, self.problem


class OddEntry(Struct):
    """An entry that does not match the API. id: "" if even the id is missing."""

    id: str
    problem: str


AnyEntry = Entry | OddEntry


class Page(Struct):
    """Holds one answer of a listing. next: the address of the following page as given, or None at the end."""

    results: list[Any]
    """Each an AnyEntry, in the server's order."""
    next: str | None


class NotAPage(Exception):
    """Says that an answer is no page, or cannot be accepted. The text of the error describes the answer."""


class _GoodPage(Page):
    results: list[Entry]


_decoder = msgspec.json.Decoder(_GoodPage)
_entry_decoder = msgspec.json.Decoder(Entry)
_tags_decoder = msgspec.json.Decoder(list[str] | None)
_embedding_decoder = msgspec.json.Decoder(Embedding | None)
_latents_decoder = msgspec.json.Decoder(list[Latent] | None)
_UNREADABLE = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError)


def most_entries(page_size: int) -> int:
    """Returns how many entries a page may have if `page_size` were requested: some servers use sizes of their own."""
    return max(LARGEST_PAGE, 2 * page_size)


def usual_dimensions(entries: Sequence[AnyEntry]) -> int:
    """Returns the most frequent length of the embeddings among the first entries; 0 if none has one."""
    lengths: Counter[int] = Counter()
    for entry in entries[:ENTRIES_THAT_VOTE]:
        with suppress(ValueError):
            if isinstance(entry, Entry) and (embedding := entry.details().embedding):
                lengths[len(embedding)] += 1
    ((length, _),) = lengths.most_common(1) or [(0, 0)]
    return length


async def read_page(body: bytes, most: int) -> Page:
    """Parses a page of at most `most` entries. Raises NotAPage.

    2,000 entries with captions take about 1 ms, and 40 ms with embeddings, which `Entry.details` decodes one by one.
    """
    if len(body) <= _AT_ONCE_BYTES and body.count(b"{") <= _AT_ONCE_OBJECTS:
        try:
            page = _decoder.decode(body)
        except _UNREADABLE:
            pass
        else:
            if len(page.results) > most:
                raise NotAPage(f"a page of more than {most} entries")
            return page
    return await call_in_thread(None, _patient, body, most)


def _patient(body: bytes, most: int) -> Page:
    """Parses a page entry by entry."""
    if body[:1000].lstrip()[:1] == b"<":
        raise NotAPage("an HTML or XML page")
    if body.count(b"[") + body.count(b"{") > _LISTS_AN_ENTRY * most:
        raise NotAPage(f"a page of more than {_LISTS_AN_ENTRY * most} lists and objects; a lower page_size may help")
    try:
        pieces = cut(body, ("results",), ("results", "next"), most)
        following = msgspec.json.decode(pieces.fields["next"]) if "next" in pieces.fields else 0
    except TooMany as problem:
        raise NotAPage(f"a page of {problem}") from None
    except (NotJson, *_UNREADABLE):
        raise NotAPage("something that is not JSON" if body else "nothing") from None
    if "next" not in pieces.fields or (pieces.entries is None and "results" not in pieces.fields):
        raise NotAPage("JSON that is not an object with `results` and `next`")
    if pieces.entries is None or not isinstance(following, str | None):
        raise NotAPage("JSON whose `results` is not a list or whose `next` is not an address")
    return Page([_entry(piece) for piece in pieces.entries], following)


def _entry(piece: bytes) -> AnyEntry:
    try:
        return _entry_decoder.decode(piece)
    except _UNREADABLE as error:
        problem = str(error)[:200]
    if len(piece) > _LARGEST_MENDED:
        return OddEntry("", f"an entry of {len(piece)} bytes: {problem}")
    try:
        given = decode_leniently(piece)
    except (ValueError, RecursionError):
        return OddEntry("", problem)
    try:
        return _mend(given)
    except _UNREADABLE:
        name = given.get("id") if isinstance(given, dict) else None
        return OddEntry(name if isinstance(name, str) and name.isprintable() else "", problem)


def _mend(given: Any) -> Entry:
    """Makes an entry from the result of Python's decoder. Raises the decoders' errors."""
    given = dict(given)
    attributes = given.pop("attributes", None)
    entry = _entry_decoder.decode(encode(given))
    try:
        entry.attributes = Raw(encode(attributes))
    except ValueError as problem:
        return _Mended(**structs.asdict(entry), problem=str(problem))
    return entry


def _side(raw: Raw) -> int:
    digits = bytes(raw)
    return int(digits) if digits.isdigit() and len(digits) <= _DIGITS else 0


def _size(raw: Raw) -> int:
    return memoryview(raw).nbytes
