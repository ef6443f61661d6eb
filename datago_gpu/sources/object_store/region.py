"""Asks S3 for a bucket's region. S3 answers without credentials, too; obstore does not pass the region on."""

from __future__ import annotations

import re
import ssl
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any

from datago_gpu.config.proxies import Proxy

__all__ = ["region_of"]

_HEADER = "x-amz-bucket-region"
_REGION = re.compile(r"[a-z0-9-]{1,32}")


class _NotFollowed(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follows no redirect."""


def region_of(address: str, proxy: Proxy | None, timeout_s: float) -> str:
    """Returns the region of an object's bucket, by one request without credentials; "" if the answer does not name it.

    Blocks until the answer has arrived.
    """
    ways = {address.partition("://")[0]: proxy.given} if proxy else {}
    handlers = [
        urllib.request.ProxyHandler(ways),
        _NotFollowed(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
    ]
    headers = {"User-Agent": "datago-gpu", "Range": "bytes=0-0"}  # not HEAD, which some servers do not support
    request = urllib.request.Request(address.partition("?")[0], headers=headers)
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=timeout_s) as response:
            region = response.headers.get(_HEADER, "")
    except urllib.error.HTTPError as refusal:  # this is the expected answer
        region = refusal.headers.get(_HEADER, "")
        refusal.close()
    except (OSError, ValueError, HTTPException):
        return ""
    return region if _REGION.fullmatch(region) else ""
