"""Sends single GET requests: follows their redirects, and translates what goes wrong into HttpFailures."""

from __future__ import annotations

from collections.abc import Container, Mapping
from urllib.parse import urljoin

import aiohttp
from aiohttp import ClientTimeout, hdrs
from msgspec import Struct
from yarl import URL

from datago_gpu.config import HttpConfig
from datago_gpu.redact import clip_word
from datago_gpu.sources.http.deadlines import Connector, Deadline
from datago_gpu.sources.http.failure import HttpFailure
from datago_gpu.sources.http.routes import Routes
from datago_gpu.sources.http.servers import Servers
from datago_gpu.sources.http.transport import meaning_of, refusal_of

__all__ = ["Counters", "Session"]

_MAX_REDIRECTS = 5
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_ERROR_TEXT_BYTES = 16 * 1024
"""How much of an error's body is read: for the message, and so that the connection can be reused."""
_DNS_TTL_S = 10
_HEADER_BYTES = 64 * 1024
"""The most bytes of one header line: some servers send policies and addresses of tens of KiB."""
_SPARE_CONNECTIONS = 4
"""Connections besides those for payloads and their hedges, so that pages of a listing do not queue behind them."""


class Counters(Struct):
    """Counts the traffic so far. `bytes` counts bodies as sent, including those of tries that failed later."""

    requests: int = 0
    retries: int = 0
    bytes: int = 0


class Session:
    """The connections of one client. Must be made, used and closed within one running event loop.

    Keeps no cookies and reads no .netrc. Host names are resolved again after a failed connection, and at the latest
    after 10 s. Raises ConfigError if the proxy of the settings cannot be used.
    """

    def __init__(self, config: HttpConfig) -> None:
        self.counters = Counters()
        self.routes = Routes(config)
        self.servers = Servers(self.routes)
        self._connect_timeout_s = config.connect_timeout_s
        self.connector = Connector(
            limit=2 * config.concurrent_downloads + _SPARE_CONNECTIONS,
            ttl_dns_cache=_DNS_TTL_S,
            resolver=self.routes.resolver,
            tunnel_timeout_s=config.connect_timeout_s,
        )
        self._session = aiohttp.ClientSession(
            connector=self.connector,
            # `Deadline` applies the other limits.
            timeout=ClientTimeout(total=None, sock_connect=config.connect_timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # Body decompresses, with a limit on the size
            trust_env=False,  # Routes reads the environment, once
            max_line_size=_HEADER_BYTES,
            max_field_size=_HEADER_BYTES,
            headers={hdrs.ACCEPT_ENCODING: "identity", hdrs.USER_AGENT: "datago-gpu"},  # aiohttp adds Accept: */*
        )

    async def close(self) -> None:
        """Closes all connections. Requests in flight fail."""
        await self._session.close()

    async def follow(
        self,
        url: URL,
        headers: Mapping[str, str] | None,
        deadline: Deadline,
        *,
        stay: bool = False,
        private: Container[str] = (),
    ) -> tuple[aiohttp.ClientResponse, URL]:
        """Returns the answer that a request and its redirects lead to, and its address. The caller must release the
        answer.

        stay: a redirect to another origin is refused. private: names of headers that are not sent there.
        """
        asked = url
        for _ in range(_MAX_REDIRECTS + 1):
            self.counters.requests += 1
            deadline.url = url
            response = await self._session.get(url, allow_redirects=False, **self.routes.options(url, headers))
            deadline.progress()
            self.servers.note_answer(url, response.status)
            if response.status not in _REDIRECTS:
                return response, url
            try:
                url = self._target(response)
            finally:
                response.release()
            if url.origin() != asked.origin():
                if stay:
                    detail = f"a redirect to another origin, {url.origin()}, is not followed"
                    raise HttpFailure("redirect", detail, status=response.status)
                headers = {name: value for name, value in (headers or {}).items() if name not in private}
        raise HttpFailure("redirect", f"more than {_MAX_REDIRECTS} redirects", status=response.status)

    async def refusal(self, response: aiohttp.ClientResponse) -> HttpFailure:
        """Returns the failure that a status other than 200 and redirects means. Reads the beginning of the body."""
        return refusal_of(response, await self._error_text(response), self.routes.proxy(response.url))

    def translate(self, error: Exception, url: URL) -> HttpFailure:
        """Returns the failure that an exception of the transport means."""
        if self._session.closed:
            return HttpFailure("closed", "the client is closed")
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            self.connector.clear_dns_cache()  # the address may have changed
        return meaning_of(
            error,
            url,
            self.routes.proxy(url),
            connect_timeout_s=self._connect_timeout_s,
            answered=self.servers.has_answered(url),
        )

    def _target(self, response: aiohttp.ClientResponse) -> URL:
        location = response.headers.get("Location", "")
        if not location:
            raise HttpFailure("redirect", "a redirect without an address", status=response.status)
        try:
            return self.routes.check(urljoin(str(response.url), location))
        except (HttpFailure, ValueError) as problem:
            if isinstance(problem, HttpFailure) and problem.reason in ("forbidden-host", "proxy"):
                raise
            scheme, why = clip_word(location.partition(":")[0]), getattr(problem, "detail", "it is not an address")
        raise HttpFailure(
            "redirect", f"a redirect to a {scheme!r} address is not followed: {why}", status=response.status
        )

    async def _error_text(self, response: aiohttp.ClientResponse) -> str:
        text = b""
        try:
            while len(text) < _ERROR_TEXT_BYTES and (block := await response.content.readany()):
                text += block
        except (aiohttp.ClientError, OSError):
            pass  # the status alone is used
        self.counters.bytes += len(text)
        return text[:_ERROR_TEXT_BYTES].decode("utf-8", "replace")
