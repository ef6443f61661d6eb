"""Which headers belong to which origin: tokens, and names and passwords of addresses."""

from __future__ import annotations

from collections.abc import Mapping

from datago_gpu.config import TableSource, UserSource
from datago_gpu.config.shards import without_login
from datago_gpu.errors import SourceError
from datago_gpu.redact import without_query
from datago_gpu.sources.http.failure import HttpFailure
from datago_gpu.sources.http.origins import origin_of
from datago_gpu.sources.hub import HUB_SCHEME, hub_origin, hub_token

__all__ = ["headers_by_origin", "headers_for"]


def headers_by_origin(source: TableSource | UserSource) -> Mapping[str, Mapping[str, str]]:
    """Returns origin -> headers, for the origins in `path` and `root`, and for Hugging Face. Raises SourceError."""
    given, addresses, proofs = "", list[str](), dict[str, str]()
    if isinstance(source, TableSource):
        given, addresses = source.auth_token.strip(), [*source.addresses, source.root]
    for address in addresses:
        if address.lower().startswith(HUB_SCHEME) and given:
            proofs[hub_origin()] = f"Bearer {given}"
        elif address.lower().startswith(("http://", "https://")):
            plain, login = without_login(address)
            proof = f"Bearer {given}" if given else login
            if proof:
                proofs[_origin(plain)] = proof
    token = hub_token()
    if token:
        proofs.setdefault(hub_origin(), f"Bearer {token}")
    return {origin: {"Authorization": proof} for origin, proof in proofs.items()}


def headers_for(url: str, headers: Mapping[str, Mapping[str, str]]) -> Mapping[str, str] | None:
    """Returns those of the headers that belong to the origin of a payload's address. Raises HttpFailure."""
    if not headers:
        return None
    try:
        return headers.get(origin_of(url))
    except ValueError as problem:
        detail = str(problem)
    raise HttpFailure("bad-url", f"the address {detail}")


def _origin(address: str) -> str:
    try:
        return origin_of(address)
    except ValueError as problem:
        words = str(problem)
    raise SourceError(f"an address in source_config.path or root {words}: {without_query(address)!r}")
