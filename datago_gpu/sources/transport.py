"""Says in our words what the exceptions of aiohttp and of the sockets below mean."""

from __future__ import annotations

import os

import aiohttp

from datago_gpu.sources.failure import HttpFailure

__all__ = ["meaning_of"]

# The first that fits: exception, reason, detail, whether another try may help.
_MEANINGS: tuple[tuple[type[Exception], str, str, bool], ...] = (
    (aiohttp.ConnectionTimeoutError, "timeout", "no connection within {connect:g} s", True),
    (TimeoutError, "timeout", "not done in time", True),
    (aiohttp.ClientPayloadError, "cut-short", "the body ended early", True),
    (aiohttp.ClientConnectorCertificateError, "tls", "the server's certificate does not prove who it is", False),
    (aiohttp.ClientConnectorSSLError, "tls", "no connection by TLS: does the server speak http:// only?", True),
    (aiohttp.ClientConnectorDNSError, "connection", "the host's name is not known", True),
    (aiohttp.ClientConnectorError, "connection", "no connection", True),
    (aiohttp.ServerDisconnectedError, "connection", "the server closed the connection", True),
    (aiohttp.InvalidURL, "bad-url", "not an http(s) address", False),
    (aiohttp.NonHttpUrlClientError, "bad-url", "not an http(s) address", False),
    (aiohttp.ClientResponseError, "protocol", "not a valid HTTP answer", True),
    (aiohttp.ClientError, "connection", "the connection broke", True),
    (OSError, "connection", "the connection broke", True),
    (Exception, "bad-url", "cannot be asked for: {kind}", False),
)


def meaning_of(error: Exception, connect_timeout_s: float) -> HttpFailure:
    """The failure that an exception stands for. Its own text may hold the whole URL or a header: it is not used."""
    _, reason, detail, transient = next(row for row in _MEANINGS if isinstance(error, row[0]))
    number = getattr(error, "errno", None) or 0
    strerror = os.strerror(number) if number > 0 and reason == "connection" else ""
    shown = detail.format(connect=connect_timeout_s, kind=type(error).__name__)
    return HttpFailure(reason, f"{shown}: {strerror}" if strerror else shown, transient=transient)
