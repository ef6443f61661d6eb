"""A short suite of the package as installed, with pytest, the standard library and the helper tests.support.servers."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points, version
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import datago_gpu
from datago_gpu import Loader, LoaderConfig
from tests.support.servers import Answer, MisbehavingServer, json_answer

PACKAGE = Path(datago_gpu.__file__).parent
PHOTOS = PACKAGE / "photos"
OPTIONAL = {
    *("pyarrow", "torch", "nvidia", "cupy", "obstore", "backports", "boto3", "cykooz_resizer"),
    *("jax", "lightning", "opentelemetry", "prometheus_client", "ray", "transformers"),
}
SIZES = {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 16}


def test_it_is_the_installed_one() -> None:
    assert not PACKAGE.is_relative_to(os.environ["CHECKOUT"])
    assert PACKAGE.is_relative_to(sys.prefix)
    assert datago_gpu.__version__ == version("datago_gpu")


def test_it_says_that_it_is_typed() -> None:
    assert files("datago_gpu").joinpath("py.typed").is_file()


def test_every_module_can_be_imported_or_names_an_optional_package() -> None:
    for module in pkgutil.walk_packages([str(PACKAGE)], "datago_gpu."):
        if module.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in OPTIONAL:
                raise


def test_a_folder_is_loaded() -> None:
    config = LoaderConfig.load(
        {"source_type": "file", "source_config": {"root_path": str(PHOTOS)}, "image_config": SIZES, "batch_size": 4}
    )
    with Loader(config, device="cpu") as loader:
        batches = list(loader)
    assert sum(map(len, batches)) == sum(path.suffix != ".md" for path in PHOTOS.iterdir())
    assert all(np.asarray(batch.image).shape[1:] == (*batch.bucket, 3) for batch in batches)


@pytest.fixture
def server() -> Iterator[MisbehavingServer]:
    with MisbehavingServer() as running:
        yield running


def test_a_listing_is_loaded_over_http(server: MisbehavingServer) -> None:
    photo = next(PHOTOS.rglob("*.jpg")).read_bytes()
    url = server.script("/a.jpg", Answer(503), Answer(200, photo))
    entries = [{"id": f"{number}", "image_direct_url": url} for number in range(9)]
    server.script("/api/images/", json_answer({"results": entries, "next": None}))
    source = {"api_url": f"{server.url}/api/", "api_key": "key", "check_count": False}
    config = LoaderConfig.load({"source_type": "db", "source_config": source, "image_config": SIZES, "batch_size": 4})
    with Loader(config, device="cpu") as loader:
        assert [name for batch in loader for name in batch.ids] == [entry["id"] for entry in entries]


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command that the wheel has installed."""
    command = Path(sys.executable).parent / "datago-gpu"
    return subprocess.run([str(command), *arguments], capture_output=True, text=True, timeout=50)


def test_the_console_script_is_there() -> None:
    assert [point.name for point in entry_points(group="console_scripts") if "datago" in point.name] == ["datago-gpu"]
    done = script("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage:" in done.stdout
    assert script("--version").stdout == f"datago-gpu {datago_gpu.__version__}\n"


def test_the_demo_draws_its_pictures(tmp_path: Path) -> None:
    done = script("demo", "--samples", "60", "--out", str(tmp_path / "demo.png"))
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "demo.png") as sheet:
        assert sheet.width > 800


def test_bench_prints_figures() -> None:
    done = script("bench", "--root-path", str(PHOTOS), "--crop-and-resize", "--default-image-size", "64",
                  "--downsampling-ratio", "16", "--limit", "10", "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["samples"] == 10
