"""One client's connection: how long it may idle, how much it may send, and what it is told when it makes no sense.

aiohttp's own answer to a malformed request repeats it and names the library's version, and its log repeats it too, line
by line: the token of a client whose header was slightly wrong would stand there.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from http import HTTPStatus

from aiohttp import web

__all__ = ["SERVER", "Connection", "Places", "error_text"]

SERVER = "datago-gpu"
"""What the server calls itself, without a version."""

IDLE_S = 30.0
"""Until the first request, and each one after it, has come whole up to the end of its headers. Longer than clients keep
an idle connection (aiohttp: 15 s), so that they are the ones to close it."""
LINGER_S = 1.0
"""For a body, which no request here needs, to arrive after the answer has been sent."""
MAX_LINE_BYTES = 8190
"""Of the request line, and of each header."""
MAX_HEADERS = 128
MAX_CONNECTIONS = 1024

logger = logging.getLogger(__name__)


class Places:
    """Counts the connections of a server. most: how many there may be at once.

    By default MAX_CONNECTIONS, or half of the files that this process may open: each answer with a file needs one more.
    """

    def __init__(self, most: int | None = None) -> None:
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.most = most or (min(MAX_CONNECTIONS, max(1, files // 2)) if files > 0 else MAX_CONNECTIONS)
        self.taken = 0


class Connection(web.RequestHandler):
    """aiohttp's connection, with limits, and without its words. idle_s: in place of IDLE_S.

    A connection for which there is no place is closed at once, before anything is read from it.
    """

    __slots__ = ("_places",)

    def __init__(
        self, server: web.Server, loop: asyncio.AbstractEventLoop, places: Places, idle_s: float = IDLE_S
    ) -> None:
        self._places = places
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=idle_s,
            lingering_time=LINGER_S,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
            max_headers=MAX_HEADERS,
            auto_decompress=False,
            access_log=None,  # type: ignore[arg-type] # means none, and its lines hold the signatures of URLs
            logger=logger,
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place."""
        super().connection_made(transport)
        self._places.taken += 1
        if self._places.taken > self._places.most:
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Give the place back."""
        self._places.taken -= 1
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it repeats what the client sent
    ) -> web.StreamResponse:
        """Answers a request that could not be read, or was failed outside the handlers, with a status, and closes."""
        if isinstance(exc, UnicodeError):  # such as from aiohttp's attempt to repeat a header that is no text
            status = HTTPStatus.BAD_REQUEST
        if isinstance(exc, ConnectionError):
            logger.debug("%s went away in the middle of an answer", request.remote)
        elif status < HTTPStatus.INTERNAL_SERVER_ERROR:
            logger.debug("refused a request from %s: %s", request.remote, type(exc).__name__)
        else:
            logger.error("failed to answer %s", request.remote, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is under way already")
        response = web.Response(status=status, text=error_text(status), content_type="text/html")
        response.headers["Server"] = SERVER
        response.force_close()
        return response


def error_text(status: int) -> str:
    """A page in HTML that says the status, and nothing else."""
    title = f"{HTTPStatus(status).phrase} ({status})"
    return f"<!doctype html><title>{title}</title><h1>{title}</h1>"
