"""Configs in files: which are read, and that an error says in which file and line."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from datago_gpu import ConfigError, Loader
from datago_gpu.config import LoaderConfig
from tests.support.images import SHAPES, add_pictures

GOOD: dict[str, Any] = {"source_type": "file", "source_config": {"root_path": "/images"}, "batch_size": 8}
YAML = """\
# a comment
source_type: file
source_config:
  root_path: /images
batch_size: 8
"""


class Named:
    """A path that is no pathlib.Path."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __fspath__(self) -> str:
        return self._path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", json.dumps(GOOD).encode()),
        ("CONFIG.JSON", json.dumps(GOOD, indent=1).encode()),
        ("a b.json", b"\xef\xbb\xbf" + json.dumps(GOOD).encode()),
        ("config.yaml", YAML.encode()),
        ("config.yml", b"\xef\xbb\xbf" + YAML.encode()),
    ],
)
def test_a_path_is_read_whatever_its_type(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    expected = LoaderConfig.load(GOOD)
    for path in (name, str(folder / name), folder / name, Path(name), Named(folder / name)):
        assert LoaderConfig.load(path) == expected


def test_a_file_of_another_name_is_read_as_json_by_its_path(folder: Path) -> None:
    (folder / "settings").write_text(json.dumps(GOOD))
    assert LoaderConfig.load(folder / "settings") == LoaderConfig.load(GOOD)
    with pytest.raises(
        ConfigError, match=r"^the config, line 1: not JSON: .* \(to load a file, pass its path as a pathlib"
    ):
        LoaderConfig.load("settings")


def test_a_loader_takes_the_name_of_a_file(folder: Path) -> None:
    add_pictures(folder / "images", SHAPES)
    (folder / "config.json").write_text(json.dumps({**GOOD, "source_config": {"root_path": "images"}}))
    with Loader("config.json", device="cpu") as loader:
        assert sum(map(len, loader)) == len(SHAPES)


NOT_READ: list[tuple[str, bytes, str]] = [
    ("a.json", b"{", "a.json, line 1: not JSON: Expecting property name enclosed in double quotes"),
    ("a.json", b'{\n"x": 1,\n"y": # so\n1}', "a.json, line 3: not JSON: Expecting value; JSON has no comments"),
    ("a.json", b'{\n"x": 1,\n"y": // so\n1}', "a.json, line 3: not JSON: Expecting value; JSON has no comments"),
    ("a.json", b"{\n\n\"x\": 'a'}", "a.json, line 3: not JSON: Expecting value; JSON needs double quotes"),
    ("a.json", b'{"x": 1,\n "y": \n}', "a.json, line 3: not JSON: Expecting value"),
    ("a.json", YAML.encode(), "a.json, line 1: not JSON: Expecting value; JSON has no comments"),
    ("a.json", b"[" * 100_000, "a.json: not JSON: "),
    ("a.json", b"\xff\xfe{\0", "a.json, line 1: the text is not UTF-8: save it as UTF-8"),
    ("a.json", b'{\n"x": "\xe9"}', "a.json, line 2: the text is not UTF-8: save it as UTF-8"),
    ("a.json", b"3", "a.json: the config must be a LoaderConfig, a dict, JSON text or the path of a JSON file, got "),
    ("a.yaml", b"a: 1\nb: [1,\n", "a.yaml, line 3: not YAML: "),
    ("a.yaml", b"a: 1\n\tb: 2\n", "a.yaml, line 2: not YAML: "),
    ("a.yaml", b"a: !!python/object:os.system 1\n", "a.yaml, line 1: not YAML: could not determine a constructor"),
    ("a.yaml", b"a: 2024-99-99\n", "a.yaml: not YAML: month must be in 1..12"),
    ("a.yaml", b"", "a.yaml: the config must be a LoaderConfig, a dict, JSON text or the path of a JSON file, got "),
    ("a.yaml", YAML.replace("8", "0").encode(),
     "a.yaml, line 5: batch_size must be a whole number from 1 to 4096, got 0"),
    ("a.json", json.dumps({**GOOD, "batch_size": 0}, indent=1).encode(),
     "a.json, line 6: batch_size must be a whole number from 1 to 4096, got 0"),
    ("a.json", json.dumps({**GOOD, "btach_size": 0}, indent=1).encode(),
     "a.json, line 7: unknown key btach_size; did you mean batch_size?"),
    ("a.json", json.dumps({**GOOD, "source_config": {"rootpath": "/x"}}, indent=1).encode(),
     "a.json, line 4: unknown key source_config.rootpath; did you mean source_config.root_path?"),
    ("a.json", b'{"source_config": {"batch_size": 1},\n"batch_size": 2}', "a.json: unknown key source_config.batch_"),
    ("a.json", b'{"source_type": "file"}', "a.json: source_config is missing: source_type 'file' needs it"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "words"), NOT_READ, ids=[words[:60] for *_, words in NOT_READ])
def test_an_error_names_the_file_and_the_line(folder: Path, name: str, content: bytes, words: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        LoaderConfig.load(name)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize("name", ["none.json", "none.yaml", "folder.json", "a\0b.json"])
def test_a_file_that_cannot_be_read_is_named(folder: Path, name: str) -> None:
    (folder / "folder.json").mkdir()
    with pytest.raises(ConfigError, match=r"^cannot read the config '"):
        LoaderConfig.load(name)


def test_no_line_of_a_file_is_in_an_error(folder: Path) -> None:
    """It may hold a key."""
    for name, content in (("a.json", '{"api_key": "5ecret", }'), ("a.yaml", "api_key: 5ecret: x\n  [")):
        (folder / name).write_text(content)
        with pytest.raises(ConfigError) as caught:
            LoaderConfig.load(name)
        assert "5ecret" not in str(caught.value)


def test_yaml_without_pyyaml_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "config.yaml").write_text(YAML)
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(
        ConfigError, match=r"^config.yaml is YAML, which needs PyYAML: pip install pyyaml, or use JSON$"
    ):
        LoaderConfig.load("config.yaml")


def test_a_path_in_bytes_is_json_text_and_no_path() -> None:
    with pytest.raises(ConfigError, match=r"^the config, line 1: not JSON: Expecting value$"):
        LoaderConfig.load(os.fsencode("config.json"))
