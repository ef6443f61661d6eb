"""Decides for each address whether it is allowed, through which proxy it is requested, and how the server's
certificate is checked."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping
from typing import Any

import aiohttp
from aiohttp import ThreadedResolver, hdrs
from aiohttp.abc import ResolveResult
from yarl import URL

from datago_gpu.config import HttpConfig
from datago_gpu.config.host_policy import ForbiddenHost, HostPolicy
from datago_gpu.config.proxies import Proxies, Proxy
from datago_gpu.redact import without_query
from datago_gpu.sources.http.failure import HttpFailure

__all__ = ["Routes"]


class Routes:
    """Routes the requests of one client. The environment is read once, when this object is made."""

    def __init__(self, config: HttpConfig) -> None:
        self._policy = HostPolicy(config.allow_hosts, config.deny_hosts)
        proxies = Proxies(config.proxy, trust_env=config.trust_env)
        self._proxies = proxies or None
        endpoints = frozenset(proxy.endpoint for proxy in proxies.all)
        self.resolver = _Resolver(config.connect_timeout_s, self._policy, endpoints)
        self._tls_context: ssl.SSLContext | None = None

    def check(self, url: str) -> URL:
        """Returns `url` unchanged, since a signature may cover each character.

        Raises HttpFailure unless it is http(s) and its host is allowed.
        """
        reason, problem = "bad-url", "not an http(s) address"
        try:
            # Characters that a request line cannot contain (blanks, letters beyond ASCII) are quoted.
            plain = url.isascii() and url.isprintable() and " " not in url
            parsed = URL(url, encoded=plain)
            if parsed.scheme in ("http", "https") and parsed.raw_host:
                if parsed.raw_user is None and parsed.raw_password is None:
                    self._policy.check(parsed.raw_host, by_proxy=bool(self._proxies and self.proxy(parsed)))
                    return parsed
                problem = "contains a user name or password"
        except ValueError:
            pass
        except ForbiddenHost as refusal:
            reason, problem = "forbidden-host", str(refusal)
        except HttpFailure as unusable:
            reason, problem = unusable.reason, unusable.detail
        failure = HttpFailure(reason, problem)
        failure.url = without_query(url)
        raise failure

    def proxy(self, url: URL) -> Proxy | None:
        """Returns the proxy for an address, or None. Raises HttpFailure if the named proxy is invalid."""
        if self._proxies is None:
            return None
        try:
            return self._proxies.of(url.scheme, url.raw_host or "", url.port)
        except ValueError as problem:
            raise HttpFailure("proxy", str(problem)) from None

    def proxy_note(self, url: URL) -> str:
        """Returns which proxy is in between, for the end of a message; "" if there is none."""
        proxy = self.proxy(url)
        return f", through the proxy {proxy}" if proxy else ""

    def options(self, url: URL, headers: Mapping[str, str] | None) -> dict[str, Any]:
        """Returns the arguments of a session's request for an address, with these headers for its server."""
        proxy = self._proxies and self.proxy(url)
        if not proxy:
            return {"headers": headers, "ssl": self._tls() if url.scheme == "https" else True}
        options: dict[str, Any] = {"proxy": URL(proxy.address), "headers": headers}
        options["ssl"] = self._tls() if "https" in (url.scheme, options["proxy"].scheme) else True
        if proxy.login and url.scheme == "https":  # for the proxy alone, which opens a tunnel
            options["proxy_headers"] = {hdrs.PROXY_AUTHORIZATION: proxy.login}
        elif proxy.login:  # the proxy removes the header before it forwards the request
            options["headers"] = {**(headers or {}), hdrs.PROXY_AUTHORIZATION: proxy.login}
        return options

    def _tls(self) -> ssl.SSLContext:
        """Returns the TLS context. Made for the first https address: reading the CA certificates takes 40 ms."""
        if self._tls_context is None:
            self._tls_context = ssl.create_default_context()
            self._tls_context.set_alpn_protocols(["http/1.1"])
        return self._tls_context


class _Resolver(ThreadedResolver):
    """The system's resolver, limited to the time for making a connection; aiohttp starts that limit only after
    resolving.

    Returns only addresses that the policy permits, and raises ForbiddenHost if there are none. For the proxies
    themselves it returns all addresses: the user named them.
    """

    def __init__(self, limit_s: float, policy: HostPolicy, proxies: frozenset[tuple[str, int]]) -> None:
        super().__init__()
        self._limit_s, self._policy, self._proxies = limit_s, policy, proxies

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        try:
            async with asyncio.timeout(self._limit_s):
                found = await super().resolve(host, port, family)
        except TimeoutError:
            raise aiohttp.ConnectionTimeoutError from None
        if (host, port) in self._proxies:
            return found
        permitted = self._policy.permitted_addresses(host, [each["host"] for each in found])
        return [each for each in found if each["host"] in permitted]
