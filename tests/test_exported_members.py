"""The front door: what `import datago_gpu` gives, and what it must not load."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import datago_gpu


def test_the_public_names_are_these() -> None:
    assert datago_gpu.__all__ == [
        "Array",
        "Batch",
        "CacheConfig",
        "ConfigError",
        "DatagoError",
        "DataroomSource",
        "DecodeConfig",
        "DecodeError",
        "FeederError",
        "FileSource",
        "HttpConfig",
        "ImageConfig",
        "Loader",
        "LoaderConfig",
        "Row",
        "Sample",
        "SourceError",
        "TableSource",
        "TooManyErrors",
        "UserSource",
        "WebDatasetSource",
        "decode",
    ]
    assert all(hasattr(datago_gpu, name) for name in datago_gpu.__all__)


def test_the_version_is_that_of_the_installed_package() -> None:
    assert datago_gpu.__version__ == metadata.version("datago-gpu")
    assert "__version__" in dir(datago_gpu)


def test_a_checkout_that_is_not_installed_has_the_version_of_its_project(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    project = tomllib.loads((Path(datago_gpu.__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert datago_gpu.__version__ == project["version"]


@pytest.mark.parametrize("text", [None, '[project]\nname = "another"\nversion = "9"', "[tool.x]"])
def test_files_of_which_nothing_is_known_have_the_version_0(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None
) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    if text:
        (tmp_path / "pyproject.toml").write_text(text)
    monkeypatch.setattr(metadata, "version", absent)
    monkeypatch.setattr(datago_gpu, "__file__", str(tmp_path / "datago_gpu" / "__init__.py"))
    assert datago_gpu.__version__ == "0"


def test_settings_can_be_made_from_what_is_exported() -> None:
    config = datago_gpu.LoaderConfig(
        source_type="file",
        source_config=datago_gpu.FileSource(root_path="/images"),
        image_config=datago_gpu.ImageConfig(layout="CHW"),
    )
    assert config == datago_gpu.LoaderConfig.load(
        {"source_type": "file", "source_config": {"root_path": "/images"}, "image_config": {"layout": "CHW"}}
    )


def test_importing_the_package_loads_no_heavy_library_and_starts_nothing() -> None:
    script = """
import sys, threading, datago_gpu
heavy = {"nvidia.dali", "cupy", "torch", "jax", "ray", "PIL", "aiohttp", "uvloop", "rich", "asyncio", "cykooz_resizer"}
print(sorted(heavy & set(sys.modules)), threading.active_count())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "[] 1\n"


def test_the_feeder_loads_neither_pillow_nor_the_resizer_before_it_needs_them() -> None:
    """Its start is part of the time to the first batch."""
    script = """
import sys, datago_gpu.feeder.main
print(sorted({"PIL", "cykooz_resizer", "nvidia.dali", "cupy", "torch", "click", "rich"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "[]\n"
