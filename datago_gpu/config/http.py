"""Settings: how servers are asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from datago_gpu.config.base import Count, Names, Settings, told, without_secrets

if TYPE_CHECKING:
    from datago_gpu.config.proxies import Proxy

Seconds = Annotated[float, Meta(gt=0)]

__all__ = ["HttpConfig"]


class HttpConfig(Settings, frozen=True, kw_only=True):
    """How long requests may take and how often they are tried.

    Attributes:
        concurrent_downloads: payloads in flight at once. Also the number of threads that read local files, up to 32.
        download_processes: further processes that download the payloads of a Dataroom, each a share of them; the order
            stays the same. 0: the feeder does it itself, which is enough for some 8,000 small payloads a second.
        connect_timeout_s: to make a connection.
        stall_timeout_s: between two pieces of an answer.
        total_timeout_s: for one try of one request.
        max_tries: tries of one request, the first included, with jittered exponential waits between them.
        max_backoff_s: the longest of those waits.
        max_retry_after_s: the longest that one request waits, in all, because the server said when to come back
            (Retry-After). Such waits are no tries.
        hedge_share: extra requests, as a share of all, for payloads that take much longer than the others: the first
            answer wins. 0 makes none.
        max_payload_mb: MiB; a larger payload is skipped, and not read further.
        max_page_mb: MiB, before and after decompression; a larger page of the listing is a SourceError.
        allow_hosts: the only hosts that may be asked, comma-separated or a list: names ("example.org", "*.example.org"
            for all names below it), addresses and networks ("10.0.0.0/8"). "" allows every host but those of
            `deny_hosts` and link-local addresses, where clouds keep credentials; those are allowed only by an entry
            here.
        deny_hosts: hosts that are never asked, in the same form. A host is looked at by its name and by the addresses
            that it resolves to, also behind a redirect. By way of a proxy, which resolves names by itself, by its name
            alone.
        trust_env: true uses the proxies that the environment names, as most programs do: HTTP_PROXY, HTTPS_PROXY,
            ALL_PROXY, and NO_PROXY for hosts that are asked directly. Loopback addresses always are.
        proxy: the proxy for http, https and object storage, before those of the environment, such as
            "http://proxy.example:3128" or "http://NAME:PASSWORD@proxy.example:3128". NO_PROXY holds for it, too.
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
        return told(self, proxy=self._proxy.address if self._proxy else "")

    @property
    def _proxy(self) -> Proxy | None:
        """What `proxy` means. Raises ValueError where it cannot be used."""
        if not self.proxy.strip():
            return None
        from datago_gpu.config.proxies import SETTING, parsed_proxy  # `import datago_gpu` can do without

        return parsed_proxy(self.proxy, SETTING)
