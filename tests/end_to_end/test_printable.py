"""No control character of a file's name, an address or a server's words reaches a terminal or a log as it is."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import tarfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from datago_gpu import DatagoError, Loader, SourceError
from datago_gpu.errors import DecodeError
from datago_gpu.loader.skips import Skips
from datago_gpu.redact import printable, printable_json
from datago_gpu.sources.reference import Skipped, utf8_text
from tests.support.images import add_picture
from tests.support.servers import Answer, MisbehavingServer, json_answer

EVIL = "\x1b[31mred\x1b]0;title\x07\nWARNING forged\x9b1m\u202etxt"
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")


def is_shown_safely(text: str) -> None:
    """No control character, and no line that begins with what the attacker wrote."""
    assert not RAW.search(text), text
    assert not re.search("^WARNING forged", text, re.MULTILINE), text
    assert "forged" in text


@given(st.text())
@example(EVIL)
def test_what_is_printable_holds_no_control_character_and_stays_as_it_is(text: str) -> None:
    shown = printable(text)
    assert not [letter for letter in shown if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")]
    assert printable(shown) == shown
    if text.isprintable() and "\\" not in text:
        assert shown == text


@given(st.text())
@example(EVIL)
def test_json_that_can_be_shown_means_the_same(text: str) -> None:
    shown = printable_json(json.dumps(text, ensure_ascii=False))
    assert json.loads(shown) == text
    assert not RAW.search(shown)


@given(st.binary())
def test_names_that_are_not_utf_8_are_text_that_can_be_sent(name: bytes) -> None:
    text = utf8_text(name.decode("utf-8", "surrogateescape"))
    assert text == name.decode("utf-8", "backslashreplace")


@given(st.text(alphabet=st.characters(codec=None, categories=["Cs", "Ll"])))
def test_any_surrogate_is_text_that_can_be_sent(name: str) -> None:
    utf8_text(name).encode()


def test_errors_and_the_list_of_skips_are_printable(tmp_path: Path) -> None:
    is_shown_safely(str(DatagoError(EVIL.replace("\n", " "))))
    error = DecodeError(EVIL, EVIL, "truncated", EVIL)
    is_shown_safely(str(error))
    is_shown_safely(error.where)
    failures = Skips(None, str(tmp_path / "skipped.jsonl"))
    failures.add([Skipped(0, EVIL, EVIL, "truncated", EVIL)])
    written = (tmp_path / "skipped.jsonl").read_text()
    is_shown_safely(written)
    assert json.loads(written)["where"] == EVIL
    assert written.count("\n") == 1


def folder_of(root: Path) -> dict[str, Any]:
    (root / f"e{EVIL.replace('/', '')}.jpg").write_bytes(b"no image")
    add_picture(root / "good.jpg")
    return {"source_type": "file", "source_config": {"root_path": str(root)}}


def shard_of(root: Path) -> dict[str, Any]:
    with tarfile.open(root / "a.tar", "w") as tar:
        for name in (f"e{EVIL}.jpg", "good.jpg"):
            source = root / "payload"
            source.write_bytes(b"no image") if name != "good.jpg" else add_picture(root / "x.jpg").rename(source)
            tar.add(source, name)
    return {"source_type": "webdataset", "source_config": {"url": str(root / "a.tar")}}


@pytest.mark.parametrize(("made", "command"), [(folder_of, "doctor"), (shard_of, "preview")])
def test_the_log_of_a_run_and_of_a_command_is_printable(
    made: Callable[[Path], dict[str, Any]], command: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = made(tmp_path)
    caplog.set_level(logging.DEBUG, "datago_gpu")
    with Loader(config, device="cpu", backend="pillow") as loader:
        assert sum(len(batch) for batch in loader) == 1
    is_shown_safely("\n".join(record.getMessage() for record in caplog.records))
    (tmp_path / "config.json").write_text(json.dumps(config))
    out = ["--out", str(tmp_path / "out.png")] if command == "preview" else []
    words = [sys.executable, "-m", "datago_gpu.cli", command, str(tmp_path / "config.json"), *out]
    done = subprocess.run([*words, "--backend", "pillow"], capture_output=True, timeout=50, check=False)
    assert not RAW.search((done.stdout + done.stderr).decode()), done.stderr


@pytest.mark.parametrize(
    "answer",
    [
        Answer(raw=b"HTTP/1.1 404 \x1b]0;forged\x07\r\nContent-Length: 0\r\n\r\n"),
        json_answer({"detail": EVIL}, status=400),
        Answer(302, headers={"Location": "\x1b[31mforged:/x"}),
        json_answer({"next": "ftp://\x1b[31mforged/", "results": [{"id": "a", "image_direct_url": ""}]}),
    ],
)
def test_what_a_server_says_is_printable_in_errors(answer: Answer) -> None:
    with MisbehavingServer() as server:
        server.route("/api/images/", lambda _request: answer)
        config = {"source_config": {"api_url": f"{server.url}/api/", "check_count": False},
                  "http_config": {"max_tries": 1}}  # fmt: skip
        with Loader(config, device="cpu", backend="pillow") as loader, pytest.raises(SourceError) as caught:
            list(loader)
    assert not RAW.search(str(caught.value).replace("\n", "")), str(caught.value)


def test_an_address_of_a_payload_is_printable_where_it_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    with MisbehavingServer() as server:
        results = [{"id": "a", "image_direct_url": f"{server.url}/{EVIL}"}, {"id": "b", "image_direct_url": EVIL}]
        server.route("/api/images/", lambda _request: json_answer({"next": None, "results": results}))
        config = {"source_config": {"api_url": f"{server.url}/api/", "check_count": False},
                  "http_config": {"max_tries": 1}}  # fmt: skip
        with Loader(config, device="cpu", backend="pillow") as loader, pytest.raises(DatagoError) as caught:
            list(loader)
    is_shown_safely(str(caught.value))
    is_shown_safely(caplog.text)


def test_a_shard_that_is_missing_is_named_without_an_empty_id() -> None:
    assert str(DecodeError("", "/data/3.tar", "missing")) == "/data/3.tar: missing"
    assert str(DecodeError("a", "/data/3.tar!a.jpg", "missing")) == "sample 'a' (/data/3.tar!a.jpg): missing"
