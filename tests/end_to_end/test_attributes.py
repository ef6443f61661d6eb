"""Attributes: whatever a source has, the picture comes, and what cannot be read of them costs nothing but itself."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datago_gpu import Loader, TooManyErrors
from datago_gpu.sources.attributes import DEEPEST, check_attributes
from datago_gpu.sources.dataroom.pages import Entry, _entry
from datago_gpu.sources.reference import SampleRef
from tests.support.images import add_picture, file_config
from tests.support.servers import Answer, MisbehavingServer
from tests.support.shards import listed, tar_bytes

DIGITS = b"9" * 5000
BAD = {
    "a number out of range": b'{"a": 1e999}',
    "a negative one": b'{"a": -1e999}',
    "too many digits": b'{"a": ' + DIGITS + b"}",
    "half a surrogate pair": b'{"a": "\\ud800"}',
    "CESU-8": b'{"a": "\xed\xa0\x80"}',
    "Latin-1": b'{"a": "\xe9"}',
    "a list": b"[1, 2]",
    "a text": b'"x"',
    "a number": b"7",
    "nested too deeply": b'{"a": ' + b"[" * 600 + b"]" * 600 + b"}",
}
"""Of a listing, each valid enough to be a part of a page."""
NOT_JSON = {
    "a comma too many": b'{"a": 1,}',
    "cut short": b'{"a": "caf',
    "nothing": b"",
    "a hundred thousand brackets": b"[" * 100_000,
}
GOOD = {
    "nothing": (b"null", {}),
    "empty": (b"{}", {}),
    "letters": ('{"caption": "café ☕"}'.encode(), {"caption": "café ☕"}),
    "NaN": (b'{"a": NaN, "b": [Infinity, 1]}', {"a": None, "b": [None, 1]}),
    "a number of 128 bits": (b'{"a": %d}' % 2**128, {"a": 2**128}),
    "nested": (b'{"a": ' + b"[" * 499 + b"]" * 499 + b"}", None),
}


def entry(attributes: bytes) -> Any:
    return _entry(b'{"id": "x", "attributes": ' + attributes + b"}")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON_VALUES | st.dictionaries(st.text(), JSON_VALUES), st.booleans())
def test_whatever_an_entry_has_the_trainer_can_read_what_is_passed_on(value: Any, ascii_only: bool) -> None:
    """Python's json writes NaN, lone surrogates, and numbers of any length."""
    text = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    found = entry(text)
    assert isinstance(found, Entry)
    attributes, problem = found.checked_attributes()
    decoded = msgspec.json.decode(attributes)
    assert isinstance(decoded, dict)
    if problem:
        assert decoded == {}
    elif value is not None:
        assert decoded.keys() == value.keys()


@given(st.binary(max_size=50) | st.sampled_from([*BAD.values(), *NOT_JSON.values()]))
def test_what_is_checked_can_be_read(text: bytes) -> None:
    attributes, problem = check_attributes(text)
    assert isinstance(msgspec.json.decode(attributes), dict)
    assert attributes == (b"{}" if problem or text == b"null" else text)


@pytest.mark.parametrize("kind", GOOD)
def test_good_ones_come_as_they_are(tmp_path: Path, kind: str) -> None:
    text, expected = GOOD[kind]
    found = entry(text)
    attributes, problem = found.checked_attributes()
    assert problem == ""
    assert expected is None or msgspec.json.decode(attributes) == expected
    if text != b"null":
        (tmp_path / "a.tar").write_bytes(tar_bytes([("a.jpg", b"x"), ("a.json", text)]))
        (sample,) = listed(tmp_path / "a.tar")
        assert isinstance(sample, SampleRef)
        assert sample.flaws == {}
        assert expected is None or msgspec.json.decode(sample.info.attributes) == expected


@pytest.mark.parametrize("kind", BAD)
def test_bad_ones_are_empty_and_told_of(kind: str) -> None:
    attributes, problem = entry(BAD[kind]).checked_attributes()
    assert attributes == b"{}"
    assert problem


@given(st.integers(DEEPEST - 2, DEEPEST + 2), st.booleans())
def test_how_deeply_they_may_be_nested_is_decided_once(levels: int, objects: bool) -> None:
    """The trainer's stack may be deeper than the feeder's was: what it can decode must not depend on that."""
    begin, end = (b'{"a": ', b"}") if objects else (b"[", b"]")
    text = b'{"a": ' + begin * (levels - 1) + b"0" + end * (levels - 1) + b"}"
    attributes, problem = check_attributes(text)
    if levels > DEEPEST:
        assert (attributes, problem) == (b"{}", f"they are nested more than {DEEPEST} levels deep")
    else:
        assert (attributes, problem) == (text, "")


def test_brackets_are_no_levels() -> None:
    text = json.dumps({"a": "[{" * DEEPEST, "b": [[]] * DEEPEST}).encode()
    assert check_attributes(text) == (text, "")


def dataroom(root: Path, server: MisbehavingServer, texts: list[bytes]) -> dict[str, Any]:
    url = server.script("/a.jpg", Answer(200, add_picture(root / "a.jpg").read_bytes()))
    entries = [b'{"id": "%d", "image_direct_url": "%s", "attributes": %s}' % (number, url.encode(), text)
               for number, text in enumerate(texts)]  # fmt: skip
    server.script("/api/images/", Answer(200, b'{"next": null, "results": [%s]}' % b", ".join(entries)))
    source = {"api_url": f"{server.url}/api/", "api_key": "k", "check_count": False}
    return {"source_type": "db", "source_config": source}


def shards(root: Path, server: MisbehavingServer, texts: list[bytes]) -> dict[str, Any]:
    picture = add_picture(root / "a.jpg").read_bytes()
    members: list[tuple[str, bytes]] = []
    for number, text in enumerate(texts):
        members += [(f"{number}.jpg", picture), (f"{number}.json", text), (f"{number}.more.txt", b"a caption")]
    (root / "a.tar").write_bytes(tar_bytes(members))
    return {"source_type": "webdataset", "source_config": {"url": str(root / "a.tar")}}


@pytest.mark.parametrize("backend", ["pillow", "dali"])
@pytest.mark.parametrize("make", [dataroom, shards])
def test_the_pictures_of_bad_ones_are_delivered_and_counted_apart(
    tmp_path: Path, make: Any, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    bad = [text for kind, text in BAD.items() if kind not in ("a list", "a text", "a number")]
    if make is shards:
        bad += NOT_JSON.values()
    good = b'{"caption": "here", "a": ' + b"[" * (DEEPEST - 1) + b"]" * (DEEPEST - 1) + b"}"
    texts = [each for text in bad for each in (good, text)]
    with MisbehavingServer() as server, caplog.at_level(logging.DEBUG, "datago_gpu"):
        like = file_config(tmp_path)
        settings = make(tmp_path, server, texts) | {"batch_size": 4, "max_failures": 0, "arena_mb": 2}
        settings |= {"image_config": like.image_config, "http_config": like.http_config}
        with Loader(settings, device="cpu", backend=backend) as loader:
            samples = list(loader.samples())
            stats = loader.stats()
    assert [sample.id for sample in samples] == [str(number) for number in range(len(texts))]
    for sample, text in zip(samples, texts, strict=True):
        assert (sample.attributes.get("caption") == "here") == (text == good)
        assert text == good or sample.attributes == {}
    assert (stats.skipped, stats.flawed) == ({}, {"bad-attributes": len(bad)})
    told = [record for record in caplog.records if "delivered with a flaw" in record.getMessage()]
    assert [record.levelname for record in told] == ["WARNING"] + ["DEBUG"] * (len(bad) - 1)
    assert "sample '1'" in told[0].getMessage()


def test_flaws_of_a_batch_that_is_not_delivered_are_not_counted(tmp_path: Path) -> None:
    picture = add_picture(tmp_path / "a.jpg").read_bytes()
    members = [("0.jpg", picture), ("0.json", BAD["a number out of range"]), ("1.json", b"{}")]
    (tmp_path / "a.tar").write_bytes(tar_bytes(members))
    settings = {"source_type": "webdataset", "source_config": {"url": str(tmp_path / "a.tar")}, "max_failures": 0}
    with Loader(settings, device="cpu", backend="pillow") as loader:
        with pytest.raises(TooManyErrors, match="1 no-image"):
            next(loader)
        assert loader.stats().flawed == {}
