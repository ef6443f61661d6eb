"""Talks to one Dataroom server: knows its address, keeps the key for it alone, and checks each answer."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode, urljoin, urlsplit

import msgspec
from msgspec import Struct

from datago_gpu.config import DataroomSource, HttpConfig
from datago_gpu.config.settings import Natural
from datago_gpu.errors import ConfigError, SourceError
from datago_gpu.redact import printable, redacted, shown_address
from datago_gpu.sources.dataroom.pages import Latent, NotAPage, Page, most_entries, read_page
from datago_gpu.sources.http.failure import HttpFailure
from datago_gpu.sources.http.http_client import HttpClient, Response, without_query
from datago_gpu.sources.http.origins import origin_of
from datago_gpu.units import MiB

__all__ = ["DataroomApi", "api_address"]

logger = logging.getLogger(__name__)

_ANSWERS_ASKED_FOR = 3
"""How often a page is requested if the answer has status 200 but is no page: a proxy's maintenance page may pass."""
_MOST_ANSWER_BYTES = 1024 * 1024
"""The most bytes of an answer about one image, or of a count."""
_HINT = "is this a Dataroom API, and does api_url end in /api/?"


def api_address(source: DataroomSource) -> tuple[str, str]:
    """Returns the API's base URL, with a slash at its end, and the key ("" for none), from the settings or the
    environment.

    Raises ConfigError if the address is missing or cannot work, or the key cannot be sent.
    """
    url = (source.api_url or os.environ.get("DATAROOM_API_URL", "")).strip()
    key = source.key
    shown = redacted(shown_address(url), key)
    if not url:
        raise ConfigError(
            "no Dataroom server is set: set source_config.api_url or the environment variable DATAROOM_API_URL, "
            "such as https://example.org/api/"
        )
    try:
        origin_of(url)
    except ValueError as problem:
        raise ConfigError(f"the Dataroom's address {redacted(str(problem), key)}, got {shown!r}") from None
    split = urlsplit(url)
    if split.username is not None or split.query or split.fragment:
        raise ConfigError(f"the Dataroom's address must not have a user name, query or fragment: use {shown!r}")
    if redacted(url, key) != url:
        raise ConfigError(
            f"the Dataroom's address contains the API key: {shown!r}; leave it out, the key is sent in a header"
        )
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError(
            "source_config.api_key (or DATAROOM_API_KEY) contains spaces or characters that are not allowed in a key"
        )
    return url if url.endswith("/") else url + "/", key


class _Count(Struct):
    count: Natural


class _Addresses(Struct):
    """The addresses of one image."""

    image_direct_url: str | None = None
    latents: list[Latent] | None = None


class DataroomApi:
    """Sends requests to one server. Every request goes to the origin of its base URL, and the key goes nowhere else."""

    def __init__(self, source: DataroomSource, limits: HttpConfig, http: HttpClient) -> None:
        self.base, self._key = api_address(source)
        self.max_tries = limits.max_tries
        self._origin = origin_of(self.base)
        self._limits, self._http = limits, http
        self._most_entries = most_entries(source.page_size)
        self._headers = {"Accept": "application/json"}
        if self._key:
            self._headers["Authorization"] = f"Token {self._key}"

    def address(self, path: str, parameters: Mapping[str, str]) -> str:
        """Returns the address of an endpoint, such as "images/"."""
        return f"{self.base}{path}?{urlencode(parameters)}"

    def payload_address(self, given: str) -> str | None:
        """Returns the address of a file, resolved against the API's origin; None if it is not http(s)."""
        if given.startswith(("https://", "http://")):
            return given
        try:
            resolved = urljoin(self._origin + "/", given)
            split = urlsplit(resolved)
        except ValueError:
            return None
        return resolved if split.scheme in ("http", "https") and split.hostname else None

    def next_address(self, given: str, current: str) -> str:
        """Returns the address of the page after `current`, if the server names `given`. Raises SourceError.

        Returns `given` unchanged if it is on the API's own origin. Behind a proxy, a server may not know the scheme,
        host or path prefix that clients see: these are then taken from `current`, so no other origin is ever contacted.
        """
        try:
            resolved = urljoin(current, given)
            if origin_of(resolved) == self._origin:
                return resolved
            split = urlsplit(resolved)
        except ValueError:
            split = urlsplit("")
        if split.scheme not in ("http", "https"):
            raise SourceError(f"{without_query(current)}: `next` is not an http(s) address")
        own_path = urlsplit(current).path
        path = own_path if own_path.endswith(split.path) else split.path
        elsewhere = self._redact(printable(split.netloc.rpartition("@")[2]))
        logger.debug("`next` is on %s: requested from %s instead", elsewhere, self._origin)
        return f"{self._origin}{path}?{split.query}"

    async def page(self, url: str) -> Page:
        """Returns one page of a listing. Raises SourceError."""
        for _ in range(_ANSWERS_ASKED_FOR):
            try:
                response = await self._get(url, self._limits.max_page_mb * MiB)
            except HttpFailure as failure:
                raise self._source_error(failure) from failure
            try:
                return await read_page(response.body, self._most_entries)
            except NotAPage as error:
                problem = str(error)
            if response.url != url:  # such as to /login/, where unknown paths are redirected
                problem += f" from {self._redact(without_query(response.url))}, after a redirect"
                break
            await self.pause()
        raise SourceError(f"{without_query(url)}: not an answer of the API: got {problem}; {_HINT}")

    async def count(self, parameters: Mapping[str, str]) -> int | None:
        """Returns the server's count of images. Returns None, and logs a warning, if the server gives no count."""
        url = self.address("images/count/", parameters)
        try:
            return msgspec.json.decode((await self._get(url)).body, type=_Count).count
        except HttpFailure as failure:
            problem = failure.description
        except (ValueError, RecursionError):
            problem = "not an answer of the API"
        logger.warning("%s: %s: whether the listing is complete cannot be checked", without_query(url), problem)
        return None

    async def renew(self, image_id: str, latent: str = "") -> str:
        """Returns a new address of an image's file, or of its latent of that name.

        Raises HttpFailure, with reason "no-url" if there is none any more.
        """
        asked = {"fields": "latents", "return_latents": latent} if latent else {"fields": "image_direct_url"}
        url = self.address(f"images/{quote(image_id, safe='')}/", asked)
        response = await self._get(url)
        try:
            answer = msgspec.json.decode(response.body, type=_Addresses)
        except (ValueError, RecursionError):
            answer = _Addresses()
        given = answer.image_direct_url
        if latent:
            given = next((each.file_direct_url for each in answer.latents or () if each.latent_type == latent), None)
        address = None if given is None else self.payload_address(given)
        if address is not None:
            return address
        failure = HttpFailure("no-url", "the listing has no address of the file")
        failure.url = without_query(url)
        raise failure

    async def pause(self) -> None:
        """Waits to give the server time to recover."""
        await asyncio.sleep(min(1.0, self._limits.max_backoff_s))

    async def _get(self, url: str, max_bytes: int = _MOST_ANSWER_BYTES) -> Response:
        try:
            return await self._http.get(url, max_bytes=max_bytes, headers=self._headers, compressed=True)
        except HttpFailure as failure:  # a server may repeat the key: in its status line, addresses, messages
            failure.url, failure.detail, failure.text = map(self._redact, (failure.url, failure.detail, failure.text))
            raise

    def _redact(self, text: str) -> str:
        return redacted(text, self._key)

    def _source_error(self, failure: HttpFailure) -> SourceError:
        said = self._error_message(failure.text)
        saying = f": {said}" if said else ""
        if failure.status in (401, 403):
            if not self._key:
                return SourceError(
                    f"{failure.url}: the server requires an API key ({failure.status}{saying}), but none is set: "
                    f"set source_config.api_key or DATAROOM_API_KEY{failure.via}"
                )
            return SourceError(
                f"{failure.url}: the server refused the API key ({failure.status}{saying}): "
                f"check source_config.api_key or DATAROOM_API_KEY{failure.via}"
            )
        if failure.status == 400:
            return SourceError(f"{failure.url}: the server refused the request (400){saying}")
        if failure.reason == "redirect":
            return SourceError(f"{failure}: the key is sent only to {self._origin}; is api_url the address of the API?")
        if failure.reason == "too-large":
            return SourceError(f"{failure}: lower page_size or raise http_config.max_page_mb")
        if failure.status == 404:
            return SourceError(f"{failure}: {_HINT}")
        hint = "; a wrong number or date in source_config.attributes also gives this" if failure.status == 500 else ""
        return SourceError(f"{failure}{hint}")

    def _error_message(self, text: str) -> str:
        """Returns the messages in an error's body."""
        try:
            said = "; ".join(_messages(json.loads(text)))
        except (ValueError, RecursionError):
            return ""
        return self._redact(printable(" ".join(said.split())))[:500]  # again: JSON can spell the key in other ways


def _messages(said: Any) -> list[str]:
    """Returns {"detail": text}, {name: [text, ...]} or [text, ...] as lines."""
    if isinstance(said, list):
        return [str(each) for each in said]
    if not isinstance(said, dict):
        return []
    lines = []
    for name, texts in said.items():
        text = " ".join(map(str, texts)) if isinstance(texts, list) else str(texts)
        lines.append(text if name == "detail" else f"{name}: {text}")
    return lines
