"""Tells from a signed address when it expires: of S3 and compatible stores, Google's, Azure's and CloudFront."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

__all__ = ["earliest_expiry", "expiry_of"]

_COMPACT = "%Y%m%dT%H%M%SZ"


def earliest_expiry(urls: Iterable[str | None]) -> datetime | None:
    """Returns the first time at which one of these addresses expires; None if none of them says when."""
    return min((found for url in urls if url and "?" in url and (found := expiry_of(url))), default=None)


def expiry_of(url: str) -> datetime | None:
    """Returns when an address expires, in UTC; None if its query does not say so."""
    try:
        query = {name.lower(): values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        for store in ("amz", "goog"):
            begun, seconds = query.get(f"x-{store}-date"), query.get(f"x-{store}-expires")
            if begun and seconds:
                return datetime.strptime(begun, _COMPACT).replace(tzinfo=UTC) + timedelta(seconds=int(seconds))
        if "se" in query and "sig" in query:
            return datetime.fromisoformat(query["se"]).astimezone(UTC)
        return datetime.fromtimestamp(int(query["expires"]), UTC) if "expires" in query else None
    except (ValueError, OverflowError, OSError):
        return None
