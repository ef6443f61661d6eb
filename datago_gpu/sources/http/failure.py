"""Why one URL could not be had. Apart from client.py, so that nothing but a download has to import aiohttp."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from datago_gpu.redact import printable, word

if TYPE_CHECKING:
    from datago_gpu.config.proxies import Proxy

__all__ = [
    "DOWN_AFTER",
    "TRUST_HINT",
    "WORTH_RETRYING",
    "HttpFailure",
    "Try",
    "Unreadable",
    "means_down",
    "refusal_of_proxy",
]

DOWN_AFTER = 16
"""Failed tries in a row, of more than one URL, after which one that is given up means that the server is down."""

Try = tuple[float, int]
"""When it failed, in seconds of the loop's clock, and a number that stands for its URL."""

TRUST_HINT = "SSL_CERT_FILE names a file of the authorities to trust, such as those of your own network"
WORTH_RETRYING = frozenset((408, 425, 429))
"""Statuses below 500 after which another try may help."""

_SERVER_IS_SILENT = frozenset(("connection", "timeout", "tls", "protocol", "proxy"))


class HttpFailure(Exception):
    """One URL could not be had.

    url: without query. reason: a short fixed word: "http-404" (any status), "timeout", "connection", "cut-short",
    "too-large", "redirect", "bad-url", "forbidden-host", "tls", "protocol", "proxy", "no-credentials", "encoding" or
    "closed". detail: in words, with control characters as escapes. status: of the answer, 0 without one. tries:
    requests made for it. text: the beginning of an error's body, as the server sent it. row: the latest of all tries
    that have failed on its server since that has answered any. down: by these, it has stopped answering. via: which
    proxy may have answered in place of the server, for the end of a message.
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
        self.via = ""
        self.row: Collection[Try] = ()
        self.down = False
        self.reason, self.detail, self.status, self.text = reason, printable(detail), status, text
        self.transient, self.retry_after_s = transient, retry_after_s

    def __str__(self) -> str:
        return f"{self.url}: {self.told}"

    @property
    def told(self) -> str:
        """What happened, in words, without the address."""
        tries = f"{self.tries} tries" if self.tries > 1 else ""
        if self.detail and not self.reason.startswith("http-"):
            what, notes = self.detail, tries
        else:
            what, notes = self.reason, ", ".join(filter(None, (self.detail, tries)))
        return f"{what} ({notes})" if notes else what

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


def refusal_of_proxy(status: int, words: str, host: str, proxy: Proxy, offered: Sequence[str] = ()) -> HttpFailure:
    """Why a proxy lets nothing through to a host. The failure has no status: that of a server means other things.

    status, words: what the proxy answered; 0 where that is not known. offered: its headers Proxy-Authenticate.
    """
    if status == 407 and offered and not any(each.lower().startswith("basic") for each in offered):
        what = (
            f"wants a proof by {word(offered[0].partition(' ')[0])!r}, and only names with passwords (Basic) are known"
        )
        way_out = "a proxy of your own in between can do that (cntlm, px)"
    elif status in (401, 407):  # tinyproxy answers 401 to a wrong password
        what = "refuses the name and the password" if proxy.login else "wants a name and a password"
        way_out = f"http://NAME:PASSWORD@HOST:PORT in {proxy.place} gives them"
    else:
        said = f": {status} {words}".rstrip() if status else ""
        what = f"lets no request through to {host}{said}"
        way_out = proxy.way_out
    transient = status >= 500 or status in WORTH_RETRYING
    return HttpFailure("proxy", f"the proxy {proxy} {what}; {way_out}", transient=transient)
