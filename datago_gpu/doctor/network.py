"""Checks which hosts are accessed through a proxy, and which directly."""

from __future__ import annotations

import os
from collections.abc import Iterable
from urllib.parse import urlsplit

from datago_gpu.config import (
    DataroomSource,
    FileSource,
    HttpConfig,
    LoaderConfig,
    MixSource,
    TableSource,
    WebDatasetSource,
)
from datago_gpu.config.proxies import Proxies
from datago_gpu.config.shards import addresses_in, without_login
from datago_gpu.doctor.check import Check
from datago_gpu.sources.object_store.options import endpoint_of
from datago_gpu.sources.object_store.stores import is_stored

__all__ = ["describe_route", "proxy_check"]

_MOST_SHOWN = 4
_OF_STORES = {"s3": "https://s3.amazonaws.com", "gs": "https://storage.googleapis.com"}
_OF_AZURE = "https://blob.core.windows.net"


def proxy_check(config: LoaderConfig | None) -> Check:
    """Reports the proxies of the settings and of the environment, and which of them each host of a config uses."""
    http = config.http_config if config else HttpConfig()
    proxies = Proxies(http.proxy, trust_env=http.trust_env)
    if not proxies:
        others = Proxies() and not http.trust_env
        why = (
            "the proxies of the environment are not used (http_config.trust_env is false)" if others else "none is set"
        )
        return Check.none("proxy", f"{why}: hosts are accessed directly")
    try:
        found = [describe_route(address, proxies) for address in (_addresses(config) if config else ())]
        if not found:
            found = [f"{scheme} {proxies.of_scheme(scheme) or 'directly'}" for scheme in ("http", "https")]
    except ValueError as problem:
        remedy = "correct the proxy, or set http_config.trust_env to false; hosts in NO_PROXY are accessed directly"
        return Check.fail("proxy", str(problem), remedy)
    more = f" and {len(found) - _MOST_SHOWN} more" if len(found) > _MOST_SHOWN else ""
    return Check.ok("proxy", ", ".join(found[:_MOST_SHOWN]) + more)


def describe_route(address: str, proxies: Proxies) -> str:
    """Describes how a host is accessed: through a proxy or directly. Raises ValueError."""
    split = urlsplit(address)
    proxy = proxies.of(split.scheme, split.hostname or "", split.port)
    return f"{split.hostname} through {proxy}" if proxy else f"{split.hostname} directly"


def _addresses(config: LoaderConfig) -> Iterable[str]:
    """Returns one http(s) address for each host that the settings name."""
    found: dict[str | None, str] = {}
    for each in config.by_source().values():
        found = _addresses_of_source(each) | found
    return found.values()


def _addresses_of_source(config: LoaderConfig) -> dict[str | None, str]:
    source = config.source_config
    assert not isinstance(source, MixSource)
    if isinstance(source, DataroomSource):
        given = [source.api_url or os.environ.get("DATAROOM_API_URL", "")]
    elif isinstance(source, WebDatasetSource):
        given = addresses_in(source.url)
    elif isinstance(source, TableSource):
        given = source.addresses
    else:
        given = [source.root_path] if isinstance(source, FileSource) else []
    hosts: dict[str | None, str] = {}
    for each in given:
        address = each.strip()
        if not isinstance(source, DataroomSource) and is_stored(address):
            usual = _OF_STORES.get(address.partition("://")[0], _OF_AZURE)
            address = endpoint_of(address, source.storage_options) or usual
        address = without_login(address)[0]
        if address.startswith(("http://", "https://")):
            hosts.setdefault(urlsplit(address).netloc, address)
    return hosts
