"""Names payloads for the cache: by address without signature, and by the version that a listing gives.

A signed address is another one in each listing, but means the same payload: the parameters of the signature are left
out of the name. Only sets of parameters that are known to belong to signatures are left out, and only together: a
parameter `sig` alone may say which payload is meant. A name is a hash, so no key or password is in the name of a file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from hashlib import blake2b

from msgspec import Struct

from datago_gpu.config.storage import STORE_SCHEMES
from datago_gpu.sources.reference import Span

__all__ = ["KEY_BYTES", "UNKNOWN_VERSION", "VERSION_BYTES", "PayloadName", "canonical_address", "payload_name"]

KEY_BYTES, VERSION_BYTES = 32, 16
UNKNOWN_VERSION = bytes(VERSION_BYTES)

_OLD_SIGNATURE = frozenset(
    (
        *("signature", "expires", "awsaccesskeyid", "googleaccessid", "ossaccesskeyid", "key-pair-id"),
        *("x-amz-security-token", "security-token"),
    )
)
_CLOUDFRONT_POLICY = frozenset(("signature", "policy", "key-pair-id", "hash-algorithm"))
_AZURE = frozenset(
    (
        *("sv", "ss", "srt", "sr", "sp", "st", "se", "sip", "spr", "sig", "skoid", "sktid", "skt", "ske", "sks", "skv"),
        *("saoid", "suoid", "scid", "sdd"),
    )
)
_SIGNATURES: tuple[tuple[frozenset[str], Callable[[str], bool]], ...] = (
    (frozenset(("x-amz-signature",)), lambda name: name.startswith("x-amz-")),
    (frozenset(("x-goog-signature",)), lambda name: name.startswith("x-goog-")),
    (frozenset(("signature", "expires")), _OLD_SIGNATURE.__contains__),
    (frozenset(("signature", "policy", "key-pair-id")), _CLOUDFRONT_POLICY.__contains__),
    (frozenset(("sig", "sv")), _AZURE.__contains__),
)
"""Parameters, in lower case, that show together that an address is signed; and which parameters then belong to the
signature. Of Amazon and Google (version 4), of these, Alibaba and CloudFront (older), of CloudFront with a policy, of
Azure."""


class PayloadName(Struct, frozen=True):
    """Names a payload, or a part of a file, and its version."""

    key: bytes
    """KEY_BYTES: a hash of the address and of the part."""
    version: bytes
    """VERSION_BYTES: a hash of what the listing says of the version; UNKNOWN_VERSION if it says nothing."""


def payload_name(address: str, span: Span | None, version: str) -> PayloadName:
    """Returns the name of a payload. address: canonical. span: the part of the file. version: "" if unknown."""
    part = f"\n{span.begin}+{span.length}" if span else ""
    text = f"{address}{part}".encode("utf-8", "surrogatepass")
    if not version:
        return PayloadName(blake2b(text, digest_size=KEY_BYTES).digest(), UNKNOWN_VERSION)
    told = blake2b(version.encode("utf-8", "surrogatepass"), digest_size=VERSION_BYTES).digest()
    return PayloadName(blake2b(text, digest_size=KEY_BYTES).digest(), told)


def canonical_address(url: str, ignored: Collection[str]) -> str:
    """Returns the part of an address that says which payload is meant: without signature, login and fragment.

    ignored: further parameters of the query to leave out, in lower case. In object storage, all of an address is the
    name of the object.
    """
    if url.startswith(STORE_SCHEMES):
        return url
    head, mark, query = url.partition("#")[0].partition("?")
    scheme, _, rest = head.partition("://")
    authority, slash, path = rest.partition("/")
    if "@" in authority:
        head = f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"
    if not mark:
        return head
    pieces = [(piece.partition("=")[0].lower(), piece) for piece in query.split("&")]
    names = {name for name, _ in pieces}
    signs = [belongs for shown_by, belongs in _SIGNATURES if shown_by <= names]
    kept = [piece for name, piece in pieces if name not in ignored and not any(belongs(name) for belongs in signs)]
    return f"{head}?{'&'.join(kept)}" if kept else head
