"""The examples in docstrings work, beside a folder with the photographs that ship."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import datago_gpu
from tests.support.needs import needs

PHOTOS = Path(datago_gpu.__file__).parent / "photos"


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("config", "LoaderConfig"),
        ("loader", "Loader"),
        ("batch", "Batch"),
        ("row", "Row"),
        ("loader.single_call", "decode"),
        ("torch", "LoaderDataset"),
    ],
)
def test_an_example(module: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if module == "torch":
        needs("torch")
    (tmp_path / "photos").symlink_to(PHOTOS)
    monkeypatch.chdir(tmp_path)
    home = import_module(f"datago_gpu.{module}")
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(
        getattr(home, name), name, module=home, globs={each: getattr(home, each) for each in dir(home)}
    )
    assert example.examples
    printed: list[str] = []
    runner = doctest.DocTestRunner()
    runner.run(example, out=printed.append)
    assert runner.failures == 0, "".join(printed)
