"""Translates exceptions of aiohttp and of sockets, and refusing answers, into HttpFailures with texts of our own."""

from __future__ import annotations

import os
import re

import aiohttp
from yarl import URL

from datago_gpu.config.proxies import Proxy
from datago_gpu.sources.http.failure import WORTH_RETRYING, HttpFailure, refusal_of_proxy, trust_hint
from datago_gpu.sources.http.retry_after import retry_after_s

__all__ = ["meaning_of", "refusal_of"]

# The first match counts: exception, reason, detail, whether a retry may help.
_MEANINGS: tuple[tuple[type[Exception], str, str, bool], ...] = (
    (aiohttp.ConnectionTimeoutError, "timeout", "no connection within {connect:g} s", True),
    (TimeoutError, "timeout", "not complete in time", True),
    (aiohttp.ClientPayloadError, "cut-short", "the body ended early", True),
    (aiohttp.ClientConnectorCertificateError, "tls", "the certificate of the {who} cannot be verified", False),
    (aiohttp.ClientConnectorSSLError, "tls", "no connection by TLS; if the {who} speaks http only, use http://", True),
    (aiohttp.ClientConnectorDNSError, "connection", "the name of the {who} cannot be resolved", True),
    (aiohttp.ClientConnectorError, "connection", "cannot connect to the {who}", True),
    (aiohttp.ServerDisconnectedError, "connection", "the server closed the connection", True),
    (aiohttp.InvalidURL, "bad-url", "not an http(s) address", False),
    (aiohttp.NonHttpUrlClientError, "bad-url", "not an http(s) address", False),
    (aiohttp.ClientResponseError, "protocol", "not a valid HTTP answer", True),
    (aiohttp.ClientError, "connection", "the connection broke", True),
    (OSError, "connection", "the connection broke", True),
    (Exception, "bad-url", "cannot be requested: {kind}", False),
)
_MAY_BE_THE_PROXYS = frozenset((401, 403))
_UNKNOWN_AUTHORITY = frozenset((2, 18, 19, 20, 21))
"""OpenSSL's codes for a certificate that is self-signed or signed by an authority that is not trusted here."""
_LOOKS_LIKE_TLS = "this looks like an https server: use https:// instead of http://"
_MAY_BE_TLS = "if this is an https server, use https:// instead of http://"
_TLS_ALERT = re.compile(r"\\x15\\x03\\x0")
"""The beginning of a TLS-only server's answer to plain HTTP, as aiohttp's parser quotes what it cannot read."""
_SAYS_TLS = re.compile(r"plain HTTP request was sent to HTTPS port|speaking plain HTTP to an SSL-enabled server|"
                       r"sent an HTTP request to an HTTPS server", re.IGNORECASE)  # fmt: skip
"""The texts of nginx, Apache and servers in Go, with status 400."""


def meaning_of(
    error: Exception, url: URL, proxy: Proxy | None, *, connect_timeout_s: float, answered: bool
) -> HttpFailure:
    """Returns the failure that an exception means. The exception's own text may contain the whole URL or a header and
    is not used.

    answered: whether the server has ever given an answer.
    """
    if proxy and isinstance(error, aiohttp.ClientHttpProxyError):
        offered = error.headers.getall("Proxy-Authenticate", []) if error.headers else []
        return refusal_of_proxy(error.status, error.message, url.host or "", proxy, offered)
    _, reason, detail, transient = next(row for row in _MEANINGS if isinstance(error, row[0]))
    of_proxy = proxy is not None and _is_of_proxy(error, proxy)
    number = getattr(error, "errno", None) or 0
    words = os.strerror(number) if number > 0 and reason == "connection" else ""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        words = _why_not_proved(error)
    shown = detail.format(
        connect=connect_timeout_s, kind=type(error).__name__, who=f"proxy {proxy}" if of_proxy else "server"
    )
    shown = f"{shown}: {words}" if words else shown
    if of_proxy and proxy:
        shown += f"; {proxy.way_out}"
    elif proxy:
        shown += f", through the proxy {proxy}"
    elif url.scheme == "http":
        shown += _tls_hint(error, reason, answered=answered)
    failure = HttpFailure(reason, shown, transient=transient)
    failure.proxy = proxy.address if of_proxy and proxy else ""
    return failure


def refusal_of(response: aiohttp.ClientResponse, text: str, proxy: Proxy | None) -> HttpFailure:
    """Returns the failure that a status other than 200 and redirects means. text: the beginning of the body."""
    status, detail, via = response.status, response.reason or "", ""
    if proxy and status == 407:
        offered = response.headers.getall("Proxy-Authenticate", [])
        return refusal_of_proxy(status, detail, response.url.host or "", proxy, offered)
    transient = status >= 500 or status in WORTH_RETRYING
    if proxy and (status >= 500 or status in _MAY_BE_THE_PROXYS):
        via = f", through the proxy {proxy}, which may have sent this response itself"
    elif status == 400 and response.url.scheme == "http" and _SAYS_TLS.search(text):
        return HttpFailure("protocol", _LOOKS_LIKE_TLS)
    failure = HttpFailure(
        f"http-{status}",
        f"{detail}{via}".removeprefix(", "),
        status=status,
        transient=transient,
        retry_after_s=retry_after_s(response.headers) if transient else None,
        text=text,
    )
    failure.via = via
    return failure


def _is_of_proxy(error: Exception, proxy: Proxy) -> bool:
    """Returns whether the connection to the proxy itself failed."""
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return True
    return isinstance(error, aiohttp.ClientConnectorError | aiohttp.ClientConnectorCertificateError) and (
        (error.host, error.port) == proxy.endpoint
    )


def _why_not_proved(error: aiohttp.ClientConnectorCertificateError) -> str:
    """Returns OpenSSL's reason, and what the user can do."""
    problem = error.certificate_error
    reason = getattr(problem, "verify_message", "").rstrip(".")
    hint = trust_hint() if getattr(problem, "verify_code", 0) in _UNKNOWN_AUTHORITY else ""
    return "; ".join(filter(None, (reason, hint)))


def _tls_hint(error: Exception, reason: str, *, answered: bool) -> str:
    """Returns a hint where plain HTTP may have met a server that speaks TLS."""
    if isinstance(error, aiohttp.ClientResponseError) and _TLS_ALERT.search(error.message):
        return f": {_LOOKS_LIKE_TLS}"
    broke = reason == "connection" and not isinstance(error, aiohttp.ClientConnectorError)
    return f"; {_MAY_BE_TLS}" if broke and not answered else ""
