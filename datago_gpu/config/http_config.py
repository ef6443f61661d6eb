"""Settings: how servers are asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from datago_gpu.config.settings import Count, Names, Settings, changed_settings, without_secrets

if TYPE_CHECKING:
    from datago_gpu.config.proxies import Proxy

Seconds = Annotated[float, Meta(gt=0)]

__all__ = ["HttpConfig"]


class HttpConfig(Settings, frozen=True, kw_only=True):
    """How long requests may take and how often they are tried.

    Attributes:
        concurrent_downloads: number of payloads downloaded at the same time. Also the number of threads that read local
            files, up to 32.
        download_processes: number of additional processes that download the payloads of a Dataroom, and those that a
            table has at http(s) addresses. The order stays the same. 0: the feeder process downloads, which is enough
            for about 8,000 small payloads per second.
        connect_timeout_s: time limit for connecting, in seconds.
        stall_timeout_s: time limit between two parts of a response, in seconds.
        total_timeout_s: time limit for one try of a request, in seconds.
        max_tries: number of tries for one request, including the first, with exponential backoff and jitter between
            them.
        max_backoff_s: longest wait between two tries, in seconds.
        max_retry_after_s: longest total wait of one request because the server asked for a pause (Retry-After), in
            seconds. Such waits do not count as tries.
        hedge_share: additional requests, as a share of all requests, for payloads that take much longer than others:
            the first response wins. 0 turns this off.
        max_payload_mb: maximum size of a payload, in MiB. Larger ones are skipped, and not downloaded further.
        max_page_mb: maximum size of a page of the listing, in MiB, before and after decompression. A larger page is a
            SourceError.
        allow_hosts: the only hosts that may be accessed, comma-separated or a list: names (`example.org`, or
            `*.example.org` for all names below it), addresses and networks (`10.0.0.0/8`). "": every host except those
            in `deny_hosts` and link-local addresses, where clouds keep credentials. Link-local addresses are only
            accessed if an entry here allows them.
        deny_hosts: hosts that are never accessed, in the form of `allow_hosts`. A host is checked by its name and by
            the addresses that the name resolves to, also after a redirect. Through a proxy, which resolves names
            itself, a host is checked by its name only.
        trust_env: true uses the proxies of the environment: HTTP_PROXY, HTTPS_PROXY and ALL_PROXY, and NO_PROXY for
            hosts that are accessed directly. Loopback addresses are always accessed directly.
        proxy: proxy for http, https and object storage: `http://HOST:PORT` or `http://NAME:PASSWORD@HOST:PORT`.
            Overrides the proxies of the environment. NO_PROXY applies to it, too.
    """

    place: ClassVar[str] = "http_config."
    concurrent_downloads: Count = 64
    download_processes: Annotated[int, Meta(ge=0, le=64)] = 0
    connect_timeout_s: Seconds = 10.0
    stall_timeout_s: Seconds = 30.0
    total_timeout_s: Seconds = 300.0
    max_tries: Count = 5
    max_backoff_s: Seconds = 30.0
    max_retry_after_s: Annotated[float, Meta(ge=0)] = 600.0
    hedge_share: Annotated[float, Meta(ge=0, le=1)] = 0.05
    max_payload_mb: Count = 64
    max_page_mb: Count = 64
    allow_hosts: Names = ""
    deny_hosts: Names = ""
    trust_env: bool = True
    proxy: str = ""

    def _problem(self) -> str | None:
        try:
            self._proxy  # noqa: B018 - it is read to be checked
        except ValueError as problem:
            return str(problem)
        for name in ("allow_hosts", "deny_hosts"):
            if entries := getattr(self, name):
                from datago_gpu.config.host_policy import HostPolicy  # `import datago_gpu` can do without

                try:
                    HostPolicy(entries)
                except ValueError as problem:
                    return f"http_config.{name}: {problem}"
        return None

    def redacted(self, text: str) -> str:
        """`text` with *** for the password of the proxy, should it be there."""
        return without_secrets(text, self._proxy.secrets if self._proxy else ())

    def __repr__(self) -> str:
        return f"HttpConfig({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """What rich prints, in tracebacks too: what was set, less what is secret."""
        return changed_settings(self, proxy=self._proxy.address if self._proxy else "")

    @property
    def _proxy(self) -> Proxy | None:
        """What `proxy` means. Raises ValueError where it cannot be used."""
        if not self.proxy.strip():
            return None
        from datago_gpu.config.proxies import SETTING, parse_proxy  # `import datago_gpu` can do without

        return parse_proxy(self.proxy, SETTING)
