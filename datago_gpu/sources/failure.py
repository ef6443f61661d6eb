"""Why one URL could not be had. Apart from http.py, so that nothing but a download has to import aiohttp."""

from __future__ import annotations

from collections.abc import Collection

from datago_gpu.redact import printable

__all__ = ["DOWN_AFTER", "HttpFailure", "Try", "Unreadable", "means_down"]

DOWN_AFTER = 16
"""Failed tries in a row, of more than one URL, after which one that is given up means that the server is down."""

Try = tuple[float, int]
"""When it failed, in seconds of the loop's clock, and a number that stands for its URL."""

_SERVER_IS_SILENT = frozenset(("connection", "timeout", "tls", "protocol"))


class HttpFailure(Exception):
    """One URL could not be had.

    url: without query. reason: a short fixed word: "http-404" (any status), "timeout", "connection", "cut-short",
    "too-large", "redirect", "bad-url", "forbidden-host", "tls", "protocol", "encoding" or "closed". detail: in words,
    with control characters as escapes. status: of the answer, 0 without one. tries: requests made for it. text: the
    beginning of an error's body, as the server sent it. row: the latest of all tries that have failed on its server
    since that has answered any. down: by these, it has stopped answering.
    """

    def __init__(
        self,
        reason: str,
        detail: str = "",
        *,
        status: int = 0,
        transient: bool = False,
        retry_after_s: float | None = None,
        text: str = "",
    ) -> None:
        super().__init__(reason)
        self.url = ""
        self.tries = 1
        self.row: Collection[Try] = ()
        self.down = False
        self.reason, self.detail, self.status, self.text = reason, printable(detail), status, text
        self.transient, self.retry_after_s = transient, retry_after_s

    def __str__(self) -> str:
        tries = f" after {self.tries} tries" if self.tries > 1 else ""
        return f"{self.url}: {self.reason}{tries}" + (f" ({self.detail})" if self.detail else "")

    def __repr__(self) -> str:
        return f"HttpFailure({str(self)!r})"

    @property
    def of_server(self) -> bool:
        """Whether it may be the server's, and no matter of this URL."""
        return self.reason in _SERVER_IS_SILENT or self.status >= 500


class Unreadable(Exception):
    """The body of an answer cannot be used. reason: a short fixed word. transient: whether another try may help."""

    def __init__(self, reason: str, detail: str, *, transient: bool = False) -> None:
        super().__init__(detail)
        self.reason, self.transient = reason, transient


def means_down(row: Collection[Try]) -> bool:
    """Whether a server is down that has answered none of these tries, and no other since the first of them."""
    return len(row) >= DOWN_AFTER and len({url for _, url in row}) > 1
