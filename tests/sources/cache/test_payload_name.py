"""What identifies a payload: signatures do not, everything else does."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datago_gpu.sources.cache.payload_name import UNKNOWN_VERSION, canonical_address, payload_name
from datago_gpu.sources.reference import Span

PLAIN = "https://host.example/a/b.jpg"
SIGNATURES = [
    "X-Amz-Algorithm=A&X-Amz-Credential=k%2F1&X-Amz-Date={}&X-Amz-Expires=9&X-Amz-SignedHeaders=host&X-Amz-Signature={}",
    "X-Goog-Algorithm=A&X-Goog-Credential=k&X-Goog-Date={}&X-Goog-Expires=9&X-Goog-Signature={}",
    "AWSAccessKeyId=AKIA&Signature={}&Expires={}",
    "GoogleAccessId=me%40x&Expires={}&Signature={}",
    "OSSAccessKeyId=me&Expires={}&Signature={}",
    "Expires={}&Signature={}&Key-Pair-Id=K1",
    "Policy={}&Signature={}&Key-Pair-Id=K1&Hash-Algorithm=SHA1",
    "sv=2022-11-02&se={}&sr=b&sp=r&sig={}",
    "expires={}&signature={}",
]


@pytest.mark.parametrize("form", SIGNATURES)
def test_an_address_that_is_signed_anew_means_the_same_payload(form: str) -> None:
    first, second = (f"{PLAIN}?{form.format(*each)}" for each in (("1", "aa"), ("2", "bb")))
    assert canonical_address(first, ()) == canonical_address(second, ()) == PLAIN
    for kept in ("versionId=3", "snapshot=1", "x-id=GetObject"):
        assert canonical_address(f"{first}&{kept}", ()) == f"{PLAIN}?{kept}"


@pytest.mark.parametrize(
    "query",
    [
        "id=3",
        "sig=3",
        "sv=1&st=2",
        "expires=9",
        "signature=ab",
        "x-amz-date=1",
        "key-pair-id=1&policy=3",
        "a",
        "a=1&a=2",
    ],
)
def test_parameters_that_are_no_whole_signature_say_which_payload_is_meant(query: str) -> None:
    assert canonical_address(f"{PLAIN}?{query}", ()) == f"{PLAIN}?{query}"


def test_logins_fragments_and_named_parameters_are_left_out() -> None:
    assert canonical_address("https://me:pa@host.example/a/b.jpg#top", ()) == PLAIN
    assert canonical_address(f"{PLAIN}?Token=1&id=2", {"token"}) == f"{PLAIN}?id=2"
    assert canonical_address("http://host/a@b.jpg", ()) == "http://host/a@b.jpg"


def test_an_object_s_whole_address_is_its_name() -> None:
    for key in ("a?b.jpg", "a#b.jpg", "x@y/z.jpg", "a?expires=1&signature=2"):
        assert canonical_address(f"s3://bucket/{key}", ()) == f"s3://bucket/{key}"


WORDS = st.text(string.ascii_letters + "-_", min_size=1, max_size=12)


@given(st.dictionaries(WORDS, WORDS, min_size=1, max_size=6), st.integers(0, 5))
def test_two_addresses_that_differ_are_never_one_unless_they_are_signed(given: dict[str, str], at: int) -> None:
    names = {name.lower() for name in given}
    if "signature" in names or "sig" in names or any(name.endswith("-signature") for name in names):
        return
    changed = dict(given)
    changed[list(given)[at % len(given)]] += "x"
    one, other = ("&".join(f"{name}={value}" for name, value in each.items()) for each in (given, changed))
    assert canonical_address(f"{PLAIN}?{one}", ()) != canonical_address(f"{PLAIN}?{other}", ())


def test_a_part_of_a_file_and_a_version_are_part_of_the_name() -> None:
    names = [payload_name(PLAIN, span, "") for span in (None, Span(0, 5), Span(0, 6), Span(1, 5))]
    assert len({name.key for name in names}) == 4
    assert {name.version for name in names} == {UNKNOWN_VERSION}
    one, other = payload_name(PLAIN, None, '"a"'), payload_name(PLAIN, None, '"b"')
    assert one.key == other.key == names[0].key
    assert one.version != other.version
