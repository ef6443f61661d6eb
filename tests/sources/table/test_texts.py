"""JSON lines and CSV as people have them: lines that are no rows, columns of several types, other encodings."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from datago_gpu import SourceError
from datago_gpu.sources.reference import SampleRef
from datago_gpu.sources.table import texts
from tests.support.tables import samples_of, table_config

BOM = b"\xef\xbb\xbf"
READ: list[tuple[str, bytes, dict[str, Any]]] = [
    ("bom.jsonl", BOM + b'{"path": "a", "c": "x"}\r\n{"path": "b"}\r\n\r\n', {"a": {"c": "x"}, "b": {"c": None}}),
    ("bom.csv", BOM + b'path,c\r\na,"x, ""y"""\r\nb,\r\n', {"a": {"c": 'x, "y"'}, "b": {"c": ""}}),
    ("lines.csv", b'path,c\na,"x\ny"\n', {"a": {"c": "x\ny"}}),
    ("numbers.csv", b"path,id,n\n007,008,5\n", {"008": {"n": 5}}),
    (
        "times.jsonl",
        b'{"path": "a", "id": "2024-05-01 10:00", "c": "2024-05-01"}',
        {"2024-05-01 10:00": {"c": "2024-05-01"}},
    ),
    (
        "mixed.jsonl",
        b'{"path": "a", "n": 1, "m": null}\n{"path": "b", "n": "x"}',
        {"a": {"n": "1", "m": None}, "b": {"n": "x", "m": None}},
    ),
    ("lists.jsonl", b'{"path": "a", "o": [1, {"y": null}]}', {"a": {"o": '[1, {"y": null}]'}}),
    ("twice.jsonl", b'{"path": "a", "path": "b"}', {"b": {}}),
    (
        "latin.jsonl",
        b'{"path": "a", "\xe9": "\xe9", "x": [{"\xe9": 1}, 2]}',
        {"a": {"\\xe9": "?", "x": '[{"?": 1}, 2]'}},
    ),
    ("nan.jsonl", b'{"path": "a", "n": NaN}\n{"path": "b", "n": 2}', {"a": {"n": None}, "b": {"n": 2}}),
]


ODD = ("mixed.jsonl", "lists.jsonl", "twice.jsonl", "latin.jsonl")
"""Files that pyarrow refuses."""


@pytest.mark.parametrize(("name", "content", "wanted"), READ, ids=[name for name, *_ in READ])
def test_texts_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, wanted: dict[str, Any]
) -> None:
    """Large files are parsed piece by piece, and have to be as pyarrow likes them."""
    (tmp_path / name).write_bytes(content)
    for large in (False, True):
        monkeypatch.setattr(texts, "_LARGE_TEXT", 0 if large else 2**30)
        if large and name in ODD:
            with pytest.raises(SourceError, match=r"check source_config\.path"):
                samples_of(table_config(tmp_path / name))
            continue
        found = samples_of(table_config(tmp_path / name))
        assert {ref.id: json.loads(ref.info.attributes) for ref in found if isinstance(ref, SampleRef)} == wanted


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "cut.jsonl",
            b'{"path": "a"}\n[1]\n{"path": "b"}\n{"path": "c',
            r"2 lines are no .* line 2",
        ),
        ("ragged.csv", b"path,c\na,x\nc,x,y\nd\nb,x\n", r"2 lines have more or fewer .* line 3"),
    ],
)
def test_lines_that_are_no_rows_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with caplog.at_level(logging.WARNING, "datago_gpu"):
        assert [sample.id for sample in samples_of(table_config(tmp_path / name))] == ["a", "b"]
    (record,) = caplog.records
    assert record.getMessage().startswith(str(tmp_path / name))
    assert re.search(words, record.getMessage())


def test_a_column_in_latin_1_costs_only_attributes(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("path,c\na,caf\N{LATIN SMALL LETTER E WITH ACUTE}\nb,x\n".encode("latin-1"))
    first, second = samples_of(table_config(tmp_path / "t.csv"))
    assert isinstance(first, SampleRef)
    assert isinstance(second, SampleRef)
    assert list(first.flaws) == ["bad-attributes"]
    assert second.info.attributes == b'{"c":"x"}'


@pytest.mark.parametrize(
    ("name", "content", "source", "words"),
    [
        ("empty.csv", b"path,c\n", {}, "have no rows"),
        ("empty.jsonl", b"", {}, "no line of the file is a JSON object"),
        ("array.jsonl", b'[{"path": "a"}]', {}, "no line of the file is a JSON object"),
        (
            "t.csv",
            b"path,n\na,1\n",
            {"filter": "n > 1"},
            "none of the 1 rows of .* passes .*filter: n > 1",
        ),
    ],
)
def test_no_rows_at_all_are_an_error(
    tmp_path: Path, name: str, content: bytes, source: dict[str, Any], words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=words):
        samples_of(table_config(tmp_path / name, **source))
