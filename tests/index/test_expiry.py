"""When signed addresses expire."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datago_gpu.index.expiry import earliest_expiry, expiry_of

AMAZON = "https://b.s3.amazonaws.com/k?X-Amz-Date=20261130T120000Z&X-Amz-Expires=86400&X-Amz-Signature=1"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (AMAZON, datetime(2026, 12, 1, 12, tzinfo=UTC)),
        ("https://g/k?X-Goog-Date=20261130T000000Z&X-Goog-Expires=60", datetime(2026, 11, 30, 0, 1, tzinfo=UTC)),
        ("https://a/k?se=2026-11-30T10%3A00%3A00Z&sig=x", datetime(2026, 11, 30, 10, tzinfo=UTC)),
        ("https://c/k?Expires=1796040000&Signature=x", datetime(2026, 11, 30, 12, tzinfo=UTC)),
        ("https://c/k?Expires=never", None),
        ("https://c/k?width=3", None),
        ("https://c/k", None),
    ],
)
def test_the_forms_of_stores(url: str, expected: datetime | None) -> None:
    assert expiry_of(url) == expected


def test_the_earliest_of_many() -> None:
    assert earliest_expiry([None, "https://c/k", AMAZON, AMAZON.replace("86400", "60")]) == datetime(
        2026, 11, 30, 12, 1, tzinfo=UTC
    )
    assert earliest_expiry([None, "https://c/k"]) is None


@given(st.text(), st.text(max_size=30))
def test_no_query_breaks_it(name: str, value: str) -> None:
    expiry_of(f"https://c/k?X-Amz-Date={name}&X-Amz-Expires={value}&Expires={value}&se={name}&sig=1")
