"""A page of a Dataroom listing, from JSON: one bad entry costs itself, not its page."""

from __future__ import annotations

import json
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

__all__ = ["AnyEntry", "Entry", "Latent", "NotAPage", "OddEntry", "Page", "parse_page"]


class Embedding(Struct):
    """What the server keeps beside the vector (who made it) is not asked about."""

    vector: list[float]


class Latent(Struct):
    """A mask, a further image or a latent of an image."""

    latent_type: str
    file_direct_url: str | None = None
    is_mask: bool | None = None


class Entry(Struct):
    """One image of a listing, as the server describes it. What may be null or absent there has a default."""

    id: Annotated[str, Meta(min_length=1)]
    source: str | None = None
    image_direct_url: str | None = None
    attributes: Raw = Raw(b"null")
    tags: list[str] | None = None
    duplicate_state: int | None = None
    coca_embedding: Embedding | None = None
    latents: list[Latent] | None = None

    def attributes_json(self) -> bytes | None:
        """The attributes as a JSON object, or None where they are something else."""
        text = bytes(self.attributes)
        if text == b"null":
            return b"{}"
        return text if text[:1] == b"{" and (text.isascii() or _is_utf8(text)) else None


class OddEntry(Struct):
    """An entry that is not as the contract has it. id: "" where even that is missing."""

    id: str
    problem: str


AnyEntry = Entry | OddEntry


class Page(Struct):
    """One answer of a listing. next: the address of the following page as given, or None at the end."""

    results: list[Any]
    """Each an AnyEntry, in the server's order."""
    next: str | None


class NotAPage(Exception):
    """An answer that is no page at all. Its text says what it is."""


class _GoodPage(Page):
    results: list[Entry]


_decoder = msgspec.json.Decoder(_GoodPage)
_entry_decoder = msgspec.json.Decoder(Entry)
_UNREADABLE = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError)


def parse_page(body: bytes) -> Page:
    """Read a page. Raises NotAPage.

    2,000 entries with captions take about 1 ms (8 with anything odd among them, 120 with embeddings).
    """
    try:
        return _decoder.decode(body)
    except _UNREADABLE:
        pass
    return _patient(body)


def _patient(body: bytes) -> Page:
    if body.lstrip()[:1] == b"<":
        raise NotAPage("an HTML or XML page")
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if answer is None:
        raise NotAPage("something that is not JSON" if body else "nothing")
    if not isinstance(answer, dict) or not {"results", "next"} <= answer.keys():
        raise NotAPage("JSON that is not an object with `results` and `next`")
    results, following = answer["results"], answer["next"]
    if not isinstance(results, list) or not isinstance(following, str | None):
        raise NotAPage("JSON whose `results` is no list or whose `next` is no address")
    return Page([_entry(each) for each in results], following)


def _entry(given: Any) -> AnyEntry:
    try:
        return _entry_decoder.decode(msgspec.json.encode(given))
    except _UNREADABLE as error:
        problem = str(error)[:200]
    name = given.get("id") if isinstance(given, dict) else None
    return OddEntry(name if isinstance(name, str) and name.isprintable() else "", problem)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
