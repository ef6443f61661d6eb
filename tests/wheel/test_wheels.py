"""The package and its extras install without a compiler, by what the package index has for each machine."""

from __future__ import annotations

import os
import subprocess
import tomllib
import urllib.error
import urllib.request
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest

from tests.support.needs import needs

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LINUX = "x86_64-manylinux_2_28", "aarch64-manylinux_2_28"
PYTHONS = "3.11", "3.12", "3.13", "3.14"
NOT_FOR_USERS = {"bench", "test"}
"""Extras with datago, which has no wheels for aarch64. Markers leave it out there, so they need not be asked."""
AMBIENT = dict(os.environ)
"""With proxies and indexes, which the fixtures of tests take away."""
AMBIENT.setdefault("UV_DEFAULT_INDEX", AMBIENT.get("PIP_INDEX_URL", "https://pypi.org/simple"))


@pytest.fixture(scope="module")
def uv() -> str:
    """The path of uv, which knows the markers and wheels of other machines, as pip does not."""
    try:
        with urllib.request.urlopen(AMBIENT["UV_DEFAULT_INDEX"].rstrip("/") + "/braceexpand/", timeout=15):
            pass
    except (OSError, urllib.error.URLError) as error:
        pytest.skip(f"the package index does not answer: {error}")
    path: str = needs("uv").find_uv_bin()
    return path


def installed(
    uv: str, platform: str, python: str, extras: Sequence[str], files: Sequence[str] = ("pyproject.toml",)
) -> str:
    """What would be installed, or a failure of the test."""
    command = [uv, "pip", "compile", "--quiet", "--only-binary", ":all:", "--no-header", "--no-annotate"]
    command += ["--python-version", python, "--python-platform", platform]
    asked = [word for extra in extras for word in ("--extra", extra)]
    done = subprocess.run(
        [*command, *asked, *files], cwd=ROOT, env=AMBIENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("platform", "python"), list(product(LINUX, PYTHONS)))
def test_there_is_a_wheel_of_each_package_and_extra(uv: str, platform: str, python: str) -> None:
    extras = [extra for extra in PROJECT["optional-dependencies"] if extra.partition("-")[0] not in NOT_FOR_USERS]
    found = installed(uv, platform, python, extras)
    assert {"cloud", "table", "zstd", "cuda12", "cuda13"} <= set(extras)
    assert "simplejpeg==" in found
    assert ("cykooz-resizer==" in found) == platform.startswith("x86_64")
    assert ("backports-zstd==" in found) == (python != "3.14")


@pytest.mark.timeout(300)
def test_there_is_a_wheel_of_each_package_in_the_images(uv: str) -> None:
    locks = [f"docker/{name}.lock" for name in ("bench", "torch")]
    found = installed(uv, "aarch64-manylinux_2_36", "3.11", [], locks)
    assert "torch==" in found


@pytest.mark.timeout(300)
def test_there_is_a_wheel_of_each_package_for_macs(uv: str) -> None:
    assert "cykooz-resizer==" in installed(uv, "aarch64-apple-darwin", "3.13", ["cloud", "table", "zstd"])
