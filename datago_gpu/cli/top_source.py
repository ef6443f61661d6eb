"""Reads the metrics of another process: from its Prometheus port, or from its local socket."""

from __future__ import annotations

import http.client
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from datago_gpu.errors import ConfigError, SourceError
from datago_gpu.metrics.local_socket import socket_folder
from datago_gpu.metrics.text_format import Line, parse_text

__all__ = ["Scrape", "open_scrapes"]

TIMEOUT_S = 5.0
LARGEST_BYTES = 64 * 1024 * 1024

_open_directly = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
"""Opens an address without a proxy: a training machine is rarely reached through one."""


class Scrape(NamedTuple):
    """All metrics of a process at one time."""

    at_s: float
    lines: list[Line]


def open_scrapes(where: str) -> list[Callable[[], Scrape]]:
    """Returns a function for each process that reads its metrics, and raises SourceError if that fails.

    where: HOST:PORT, an http address, or the path of a socket; "": all sockets of this user. Raises ConfigError if
    there is none.
    """
    if where.startswith(("http://", "https://")):
        return [partial(_scrape, partial(_get, where))]
    if where and ("/" in where or Path(where).exists()):
        return [partial(_scrape, partial(_read_socket, Path(where)))]
    if where:
        return [partial(_scrape, partial(_get, f"http://{_host_and_port(where)}/metrics"))]
    found = [path for path in sorted(socket_folder().glob("*.sock")) if _is_alive(path)]
    if not found:
        raise ConfigError(
            f"no loader listens in {str(socket_folder())!r}: call datago_gpu.metrics.listen(loader) in the program, or "
            "name HOST:PORT of datago_gpu.metrics.prometheus"
        )
    return [partial(_scrape, partial(_read_socket, path)) for path in found]


def _host_and_port(where: str) -> str:
    host, colon, port = where.rpartition(":")
    if not (colon and port.isdecimal()):
        raise ConfigError(f"{where!r} is neither HOST:PORT, nor an address, nor the path of a socket")
    return f"{host or 'localhost'}:{port}"


def _scrape(read: Callable[[], bytes]) -> Scrape:
    return Scrape(time.monotonic(), list(parse_text(read().decode(errors="replace"))))


def _get(url: str) -> bytes:
    try:
        with _open_directly(url, timeout=TIMEOUT_S) as response:
            return _read_all(response.read1)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise SourceError(f"no metrics at {url}: {reason}") from error


def _read_all(read: Callable[[int], bytes]) -> bytes:
    """Reads to the end, for TIMEOUT_S at the most: a server that sends now and then a byte is not waited for."""
    body, ends = bytearray(), time.monotonic() + TIMEOUT_S
    while len(body) < LARGEST_BYTES and (part := read(1 << 16)):
        body += part
        if time.monotonic() > ends:
            raise TimeoutError(f"the answer takes longer than {TIMEOUT_S:.0f} s")
    return bytes(body)


def _read_socket(path: Path) -> bytes:
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(TIMEOUT_S)
            client.connect(str(path))
            return _read_all(client.recv)
    except OSError as error:
        raise SourceError(f"no metrics at the socket {str(path)!r}: {error}") from error


def _is_alive(path: Path) -> bool:
    """Returns whether a program listens there: one that was killed leaves its socket behind."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(TIMEOUT_S)
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True
