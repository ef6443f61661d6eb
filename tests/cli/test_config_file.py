"""Data in the place of a config file: the error names the setting where the data belongs."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from datago_gpu.cli.config_file import ConfigFile
from datago_gpu.cli.doctor import doctor
from datago_gpu.cli.index import index


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("photos", "write --root-path 'photos', or name a file of settings"),
        ("rows.PARQUET", "write --path 'rows.PARQUET'"),
        ("train-0001.tar", "write --url 'train-0001.tar'"),
        ("train.tar.zst", "write --url 'train.tar.zst'"),
        ("gone.json", "File 'gone.json' does not exist"),
    ],
)
def test_data_is_no_config(name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    result = CliRunner().invoke(index, [name])
    assert result.exit_code == 2
    assert words in result.stderr


def test_a_command_without_flags_names_the_setting(tmp_path: Path) -> None:
    result = CliRunner().invoke(doctor, [str(tmp_path)])
    assert result.exit_code == 2
    assert "that names it as source_config.root_path" in result.stderr


def test_a_config_file_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text("{}")
    assert ConfigFile().convert(str(tmp_path / "table.json"), None, None) == tmp_path / "table.json"
