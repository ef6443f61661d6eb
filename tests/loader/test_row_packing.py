"""Rows of the user's code: wrong values are named with row and field, right ones arrive as they are."""

from __future__ import annotations

import datetime as dt
import os
from collections import UserDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import json
from PIL import Image

from datago_gpu import Row
from datago_gpu.framing import frame
from datago_gpu.loader.given_rows import NotRows
from datago_gpu.loader.row_packing import RowPacking
from datago_gpu.sources.attributes import check_attributes
from datago_gpu.sources.user.row_wire import Given
from tests.support.own_rows import own_config


def pack(row: Any) -> tuple[Given, list[Any]]:
    message, payloads = RowPacking(own_config()).pack(row, 1, 7)
    assert isinstance(message, Given)
    return message, payloads


WRONG: list[tuple[Any, str]] = [
    (None, "row 7 of the source must be a datago_gpu.Row, got None; make one: Row"),
    (("a", b"x"), "row 7 of the source must be a datago_gpu.Row, got a tuple; make one: Row"),
    (Row(3, b"x"), "row 7 of the source: id must be text, got 3: use str"),  # type: ignore[arg-type]
    (Row("a", None), "image must be encoded bytes, a path or an address, got None"),  # type: ignore[arg-type]
    (Row("a", Image.new("RGB", (2, 2))), "image must be encoded bytes, such as the content of a JPEG file, a path or"),  # type: ignore[arg-type]
    (
        Row("a", np.zeros((2, 2, 3), np.uint8)),
        "image must be encoded bytes, such as the content of a JPEG file, a path",
    ),  # type: ignore[arg-type]
    (Row("a", "http://example.org/\ud800"), "image must be UTF-8 text"),
    (Row("a", "hf://models/a"), "image: 'hf://models/a' is not an address of a dataset"),
    (Row("a", ""), "image is not a path: ''"),
    (Row("a", "a\0b"), "image is not a path"),
    (Row("a", "ftp://example.org/a.jpg"), "image begins with ftp://, which is not supported: use http://"),
    (Row("a", b"x", width=-1), "width must be a whole number of at least 0, got -1"),
    (Row("a", b"x", height=1.5), "height must be a whole number of at least 0, got 1.5"),  # type: ignore[arg-type]
    (Row("a", b"x", masks=[b"x"]), "masks must be a dict of name -> payload, got a list"),  # type: ignore[arg-type]
    (Row("a", b"x", masks={3: b"x"}), "masks must have texts as names, got 3"),  # type: ignore[dict-item]
    (Row("a", b"x", latents={"l": 3}), r"latents\['l'\] must be encoded bytes"),  # type: ignore[dict-item]
    (Row("a", b"x", attributes=[1]), "attributes must be a dict, got a list"),  # type: ignore[arg-type]
    (Row("a", b"x", label="cat"), "label must be a whole number or None, got 'cat'"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("row", "words"), WRONG, ids=[words[:40] for _, words in WRONG])
def test_a_wrong_value_is_named_with_row_and_field(row: Any, words: str) -> None:
    with pytest.raises(NotRows, match=words):
        pack(row)


def test_bytes_of_all_kinds_are_sent_without_a_copy() -> None:
    view = memoryview(np.arange(12, dtype=np.uint16))
    for given in (b"abc", bytearray(b"abc"), memoryview(b"abc"), view, np.frombuffer(b"abc", np.uint8)):
        message, (payload,) = pack(Row("a", given))
        assert bytes(payload) == bytes(given)
        assert message.pieces[0].length == len(bytes(given))
    assert bytes(pack(Row("a", memoryview(b"abcdef")[::2]))[1][0]) == b"ace"
    turned = memoryview(np.asfortranarray(np.arange(4, dtype=np.uint8).reshape(2, 2)))
    assert bytes(pack(Row("a", turned))[1][0]) == turned.tobytes()


def test_a_path_is_absolute_and_keeps_bytes_that_are_not_utf_8(tmp_path: Path) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg")
    for given, wanted in (
        ("a.jpg", os.path.join(os.getcwd(), "a.jpg")),
        (Path("/data/a.jpg"), "/data/a.jpg"),
        ("file:///data/a%20b.jpg", "/data/a b.jpg"),
        (odd, odd),
    ):
        message, payloads = pack(Row("a", given))
        assert (os.fsdecode(message.pieces[0].path), payloads) == (wanted, [])


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("https://example.org/Ä.jpg?a=1", "https://example.org/Ä.jpg?a=1"),
        ("HTTP://Example.org/A.jpg", "http://Example.org/A.jpg"),
        (np.str_("s3://bucket/a.jpg"), "s3://bucket/a.jpg"),
        ("hf://datasets/a/b/c d.jpg", "https://huggingface.co/datasets/a/b/resolve/main/c%20d.jpg"),
    ],
)
def test_an_address_is_passed_on(given: str, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    message, payloads = pack(Row("a", given))
    assert (message.pieces[0].url, payloads) == (wanted, [])
    frame(message)


def test_what_json_lacks_becomes_plain_or_is_told_of_and_costs_no_picture() -> None:
    attributes = {
        "number": np.float32(1.5),
        "array": np.arange(3),
        "nan": float("nan"),
        "day": dt.date(2026, 1, 2),
        "own": UserDict(a=1),
        "many": {3},
    }
    message, _ = pack(Row("a", b"x", attributes=attributes))
    assert json.decode(message.attributes) == {
        "number": 1.5, "array": [0, 1, 2], "nan": None, "day": "2026-01-02", "own": {"a": 1}, "many": [3],
    }  # fmt: skip
    circle: dict[str, Any] = {}
    circle["itself"] = circle
    for odd in ({"a": object()}, {"a": "\ud800"}, circle, {(1, 2): 3}):
        message, _ = pack(Row("a", b"x", attributes=odd))
        assert (message.attributes, bool(message.flaw)) == (b"{}", True)
    deep: dict[str, Any] = {}
    for _ in range(600):
        deep = {"a": deep}
    message, _ = pack(Row("a", b"x", attributes=deep))
    assert message.flaw or check_attributes(message.attributes)[1]


def test_a_label_is_an_attribute_that_a_given_one_replaces() -> None:
    assert json.decode(pack(Row("a", b"x", label=np.int64(3)))[0].attributes) == {"label": 3}  # type: ignore[arg-type]
    assert json.decode(pack(Row("a", b"x", label=3, attributes={"label": "x"}))[0].attributes) == {"label": "x"}
