"""Lists a bucket of S3 through boto3, for buckets where an odd key ends the listing of obstore.

obstore treats keys as paths: an empty part, ".", ".." or a control character makes it refuse a whole page of a listing,
and it cannot request smaller pages. boto3 lists any key. obstore cannot read objects with odd keys.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from datago_gpu.config import HttpConfig
from datago_gpu.config.proxies import Proxies
from datago_gpu.sources.http.failure import HttpFailure
from datago_gpu.sources.object_store.failures import failure_of
from datago_gpu.sources.object_store.options import plain_name

__all__ = ["ODD_KEY", "S3Listing", "cannot_be_read", "ends_listing", "is_odd", "odd_key_of"]

_PAGE = 1000
"""Keys per page."""
ODD_KEY = "odd-key"
_ODD = "an empty part, '.', '..' or a control character"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NAMED = re.compile(r'Path "(.*?)"(?: contained|: Encountered)', re.DOTALL)


def is_odd(key: str) -> bool:
    """Returns whether obstore does not accept a key as a path."""
    parts = key.removesuffix("/").split("/")
    return bool(key) and (bool(_CONTROL.search(key)) or not {"", ".", ".."}.isdisjoint(parts))


def odd_key_of(text: str) -> str:
    """Returns the key that an obstore error names; "" if it names none."""
    found = _NAMED.search(text)
    return found[1] if found else ""


class S3Listing:
    """Lists the objects below a prefix, such as "s3://bucket/photos", behind the key `after`. Its methods block.

    options: obstore's options. Raises ImportError if boto3 is missing.
    """

    def __init__(self, url: str, after: str, options: Mapping[str, str], limits: HttpConfig, proxies: Proxies) -> None:
        import boto3  # noqa: F401 - a second way to list must be there before it is taken

        self._url, (self._bucket, _, prefix) = url, url.partition("://")[2].partition("/")
        self._prefix = f"{prefix.rstrip('/')}/" if prefix else ""
        self._place: dict[str, str] | None = {"StartAfter": after} if after else {}
        self._options = {plain_name(name): value for name, value in options.items()}
        self._limits, self._proxies = limits, proxies
        self._client: Any = None

    def page(self) -> list[tuple[str, int]] | None:
        """Returns key and size of the next objects, in the store's order; None at the end. Raises HttpFailure."""
        from botocore.exceptions import BotoCoreError, ClientError

        if self._place is None:
            return None
        try:
            self._client = self._client or self._connect()
            answer = self._client.list_objects_v2(
                Bucket=self._bucket, MaxKeys=_PAGE, Prefix=self._prefix, **self._place
            )
        except ClientError as error:
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            failure = failure_of(self._url, f"http-{status}", "listed with boto3", status)
        except BotoCoreError as error:
            failure = failure_of(self._url, "connection", f"boto3 got no response ({type(error).__name__})")
        else:
            token = answer.get("NextContinuationToken")
            self._place = {"ContinuationToken": token} if token else None
            return [(each["Key"], each["Size"]) for each in answer.get("Contents", ())]
        raise failure

    def _connect(self) -> Any:
        """Returns a boto3 client with the options, limits and proxies that obstore has."""
        import boto3
        from botocore import UNSIGNED
        from botocore.config import Config

        given, limits = self._options, self._limits
        endpoint = given.get("endpoint") or given.get("endpoint_url") or os.environ.get("AWS_ENDPOINT") or None
        anonymous = given.get("skip_signature", os.environ.get("AWS_SKIP_SIGNATURE", "")).lower() in ("true", "1")
        config = Config(
            connect_timeout=limits.connect_timeout_s,
            read_timeout=limits.stall_timeout_s,
            retries={"total_max_attempts": limits.max_tries, "mode": "standard"},
            proxies=_proxies(given.get("proxy_url", ""), endpoint or "", self._proxies),
            s3={"addressing_style": "path"} if endpoint else None,
            signature_version=UNSIGNED if anonymous else None,
        )
        return boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name=given.get("region") or given.get("default_region") or os.environ.get("AWS_REGION"),
            aws_access_key_id=given.get("access_key_id"),
            aws_secret_access_key=given.get("secret_access_key"),
            aws_session_token=given.get("session_token") or given.get("token"),
            config=config,
        )

    def close(self) -> None:
        """Closes the connections."""
        if self._client is not None:
            self._client.close()


def ends_listing(url: str, key: str) -> HttpFailure:
    """Returns the failure for a listing that an odd key ends."""
    way = ", or install boto3 (pip install boto3), which lists such buckets" if url.startswith("s3://") else ""
    what = f"the key {key!r} ends the listing, because obstore does not support keys with {_ODD}"
    return failure_of(url, ODD_KEY, f"{what}. Rename or remove that object{way}")


def cannot_be_read(url: str) -> HttpFailure:
    """Returns the failure for the object at `url`, which has an odd key."""
    return failure_of(url, ODD_KEY, f"obstore does not support keys with {_ODD}: rename the object")


def _proxies(given: str, endpoint: str, proxies: Proxies) -> dict[str, str]:
    """Returns the proxies in botocore's form; botocore itself would read the environment's differently."""
    split = urlsplit(endpoint or "https://s3.amazonaws.com")
    found = proxies.of(split.scheme, split.hostname or "", split.port)
    address = given or (found.given if found else "")
    return {"http": address, "https": address} if address else {}
