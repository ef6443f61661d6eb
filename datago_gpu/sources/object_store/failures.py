"""Translates obstore's errors into texts of our own. Their own texts contain whole answers, addresses and headers."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from datago_gpu.config.host_policy import address_of
from datago_gpu.config.proxies import Proxies, Proxy
from datago_gpu.redact import without_query
from datago_gpu.sources.http.failure import HttpFailure, refusal_of_proxy, trust_hint

__all__ = ["failure_of", "meaning_of", "other_region", "proxy_of"]

_STATUS = re.compile(r"status code: (\d{3})|status: (\d{3}),")
_ASKED = re.compile(r"Error performing [A-Z]+ (https?://\S+) in ")
_OTHER_REGION = re.compile(
    r"redirect without LOCATION|<Code>(?:PermanentRedirect|AuthorizationHeaderMalformed|IllegalLocationConstraint)"
)
_CODE = re.compile(r"<Code>([A-Za-z]{1,40})</Code>")
"""The name of an error in answers of S3 and compatible stores, such as SignatureDoesNotMatch."""
_RIGHT_REGION = re.compile(r"<Region>([a-z0-9-]{1,32})</Region>|expecting '([a-z0-9-]{1,32})'")

# A pattern in the text, reason, detail; the first match counts.
_BROKEN: tuple[tuple[str, str, str], ...] = (
    ("BadScheme", "bad-url", "the endpoint begins with http://, which the option allow_http forbids"),
    ("UnknownIssuer", "tls", "the certificate of the {who} cannot be verified: {trust}"),
    ("invalid peer certificate", "tls", "the certificate of the {who} cannot be verified"),
    ("InvalidContentType", "tls", "no connection by TLS; if the {who} speaks http only, use http://"),
    ("dns error", "connection", "the name of the {who} cannot be resolved"),
    ("ConnectionRefused", "connection", "cannot connect to the {who}: Connection refused"),
    ("timed out", "timeout", "not complete in time"),
    ("Timeout", "timeout", "not complete in time"),
    ("TimedOut", "timeout", "not complete in time"),
    ("ConnectFailed", "connection", "cannot connect to the {who}"),
    ("", "connection", "no response from the store, or no credentials for it"),
)


def other_region(error: Exception) -> str:
    """Returns the object's http(s) address if its bucket is in another region that the error does not name; else ""."""
    text = str(error)
    asked = _ASKED.search(text)
    return asked[1] if asked and _OTHER_REGION.search(text) and not _RIGHT_REGION.search(text) else ""


def meaning_of(url: str, error: Exception, kinds: Any, proxies: Proxies, region: str = "") -> HttpFailure:
    """Returns the failure that an obstore error means, for the object or the prefix at `url`.

    kinds: `obstore.exceptions`. region: the bucket's region, if it was looked up.
    """
    text = str(error)  # only the text shows the kind of failure
    proxy = proxy_of(text, proxies)
    if hint := _no_credentials(text):
        return failure_of(url, "no-credentials", hint)
    by_way = f", through the proxy {proxy}, which may have sent this response itself" if proxy else ""
    if isinstance(error, kinds.PermissionDeniedError):
        return failure_of(url, "http-403", f"the store refused the credentials{_code(text)}{by_way}", 403)
    if isinstance(error, kinds.UnauthenticatedError):
        return failure_of(url, "http-401", "the store requires credentials", 401)
    if isinstance(error, kinds.PreconditionError):
        return failure_of(url, "changed", "the object was replaced during the download")
    if isinstance(error, kinds.InvalidPathError):
        return failure_of(url, "bad-url", "not the path of an object")
    found = _STATUS.search(text)
    status = int(found[1] or found[2]) if found else 0
    if proxy and (refusal := _refusal(text, status, proxy)):
        refusal.url = without_query(url)
        return refusal
    if _OTHER_REGION.search(text):
        return failure_of(url, f"http-{status or 301}", _region(text, region), status or 301)
    if status:
        detail = _code(text) + (by_way if status >= 500 else "")
        return failure_of(url, f"http-{status}", detail.lstrip(":, "), status)
    return _broken(url, text, proxy)


def _broken(url: str, text: str, proxy: Proxy | None) -> HttpFailure:
    """Returns the failure for a request without an answer."""
    _, reason, detail = next(row for row in _BROKEN if row[0] in text)
    of_proxy = proxy is not None and ("ConnectFailed" in text or "ConnectError" in text)
    detail = detail.format(who=f"proxy {proxy}" if of_proxy else "store", trust=trust_hint() if reason == "tls" else "")
    if of_proxy and proxy:
        detail += f"; {proxy.way_out}"
    elif proxy:
        detail += f", through the proxy {proxy}"
    return failure_of(url, reason, detail)


def failure_of(url: str, reason: str, detail: str, status: int = 0) -> HttpFailure:
    """Returns the failure for one object or prefix that could not be fetched."""
    failure = HttpFailure(reason, detail, status=status)
    failure.url = without_query(url)
    return failure


def proxy_of(text: str, proxies: Proxies) -> Proxy | None:
    """Returns the proxy of the request that an error text describes."""
    asked = _ASKED.search(text)
    if not (proxies and asked):
        return None
    try:
        split = urlsplit(asked[1])
        return proxies.of(split.scheme, split.hostname or "", split.port)
    except ValueError:
        return None


def _refusal(text: str, status: int, proxy: Proxy) -> HttpFailure | None:
    """Returns the failure of a proxy that refuses the request, or None."""
    if status == 407 or "ProxyAuthRequired" in text:
        return refusal_of_proxy(407, "", "the store", proxy)
    return refusal_of_proxy(0, "", "the store", proxy) if "TunnelUn" in text else None


def _code(text: str) -> str:
    found = _CODE.search(text)
    return f": {found[1]}" if found else ""


def _no_credentials(text: str) -> str:
    """Returns the message for missing credentials if obstore looked for credentials and found none; else ""."""
    asked = _ASKED.search(text)
    address = address_of(urlsplit(asked[1]).hostname or "") if asked else None
    if address is not None and address.is_link_local:  # obstore's last resort is the metadata address of the machine
        return ("no credentials: storage_options and the environment have none, and this machine has no identity that "
                'the store accepts; {"skip_signature": "true"} is for public buckets')  # fmt: skip
    if "token request" in text:
        return "the credentials were not accepted: the token server returned no token for them"
    return ""


def _region(text: str, region: str) -> str:
    """Returns the message that the bucket is in another region, and in which, if known."""
    found = _RIGHT_REGION.search(text)
    region = found[1] or found[2] if found else region
    right = f"'{region}'" if region else "the right one (see `aws s3api get-bucket-location`)"
    return f"the bucket is in another region: set region in storage_options, or AWS_REGION, to {right}"
