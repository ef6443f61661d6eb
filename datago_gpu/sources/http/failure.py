"""Describes why one URL could not be fetched. Separate from http_client.py, so that only downloads import aiohttp."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from datago_gpu.redact import clip_word, printable

if TYPE_CHECKING:
    from datago_gpu.config.proxies import Proxy

__all__ = [
    "DOWN_AFTER",
    "GONE",
    "WORTH_RETRYING",
    "HttpFailure",
    "Try",
    "means_down",
    "refusal_of_proxy",
    "trust_hint",
]

DOWN_AFTER = 16
"""Consecutive failed tries, of more than one URL, after which a given-up URL means that the server is down."""

Try = tuple[float, int]
"""The time of a failed try, in seconds of the loop's clock, and a number that identifies its URL."""

WORTH_RETRYING = frozenset((408, 425, 429))
"""Statuses below 500 after which another try may help."""

GONE = frozenset((404, 410))
"""The statuses of a file that no longer exists."""

_SERVER_IS_SILENT = frozenset(("connection", "timeout", "tls", "protocol", "proxy"))


class HttpFailure(Exception):
    """Says that one URL could not be fetched.

    url: without query. reason: a short fixed word: "http-404" (any status), "timeout", "connection", "cut-short",
    "too-large", "redirect", "bad-url", "forbidden-host", "tls", "protocol", "proxy", "no-credentials", "encoding",
    "changed", "no-ranges", "store-failed" or "closed". detail: in words, with control characters escaped. status: of
    the answer, or 0 without one. tries: requests made for the URL. text: the beginning of an error's body, as sent.
    proxy: the address of the proxy that cannot be reached, if that is the failure. row: the latest consecutive failed
    tries on this server, or by way of this proxy, since its last answer. down: whether these are enough to treat the
    server, or the proxy, as down. via: which proxy may have answered instead of the server, for the end of a message.
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
        self.via = self.proxy = ""
        self.row: Collection[Try] = ()
        self.down = False
        self.reason, self.detail, self.status, self.text = reason, printable(detail), status, text
        self.transient, self.retry_after_s = transient, retry_after_s

    def __str__(self) -> str:
        return f"{self.url}: {self.description}"

    @property
    def description(self) -> str:
        """Returns what happened, in words, without the address."""
        tries = f"{self.tries} tries" if self.tries > 1 else ""
        if self.detail and not self.reason.startswith("http-"):
            what, notes = self.detail, tries
        else:
            what, notes = self.reason, ", ".join(filter(None, (self.detail, tries)))
        return f"{what} ({notes})" if notes else what

    def __repr__(self) -> str:
        return f"HttpFailure({str(self)!r})"

    @property
    def verdict(self) -> str:
        """Returns why the run ends if `down`, for the end of a message."""
        if self.proxy:
            return "no other request through this proxy was answered either"
        return "its server answered no other request either"

    @property
    def may_be_expired(self) -> bool:
        """Returns whether the address may have expired: object stores return these statuses for such an address."""
        return self.status in (401, 403)

    @property
    def of_server(self) -> bool:
        """Returns whether the server, not this URL, may be to blame."""
        return self.reason in _SERVER_IS_SILENT or self.status >= 500


def means_down(row: Collection[Try]) -> bool:
    """Returns whether a server is down that has answered no request since the first of these failed tries."""
    return len(row) >= DOWN_AFTER and len({url for _, url in row}) > 1


def trust_hint() -> str:
    """Returns what the user can do if a certificate is of an authority that is not trusted here, in words."""
    import ssl  # for this message only

    file = os.environ.get("SSL_CERT_FILE")
    if file:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
        except OSError as error:
            why = "it contains no certificate" if isinstance(error, ssl.SSLError) else error.strerror
            return f"SSL_CERT_FILE is {file!r}, which cannot be used: {why}"
    return "set SSL_CERT_FILE to a file with the certificate authorities to trust, such as those of your network"


def refusal_of_proxy(status: int, words: str, host: str, proxy: Proxy, offered: Sequence[str] = ()) -> HttpFailure:
    """Returns the failure of a proxy that refuses requests to a host. It has no status: a server's status means other
    things.

    status, words: the proxy's answer; status is 0 if unknown. offered: its headers Proxy-Authenticate.
    """
    if status == 407 and offered and not any(each.lower().startswith("basic") for each in offered):
        what = f"requires {clip_word(offered[0].partition(' ')[0])!r}, but only Basic (name and password) is supported"
        way_out = "use a local proxy in between that supports it (cntlm, px)"
    elif status in (401, 407):  # tinyproxy answers 401 to a wrong password
        what = "refuses name and password" if proxy.login else "requires name and password"
        way_out = f"set {proxy.place} to http://NAME:PASSWORD@HOST:PORT"
    else:
        said = f": {status} {words}".rstrip() if status else ""
        what = f"does not let requests through to {host}{said}"
        way_out = proxy.way_out
    transient = status >= 500 or status in WORTH_RETRYING
    return HttpFailure("proxy", f"the proxy {proxy} {what}; {way_out}", transient=transient)
