"""docs/licences.md has every package that users install, with the licence of its metadata."""

from __future__ import annotations

import re
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.needs import needs_installed
from tools.docs_site.licences import PAGE, ROOT, rows, users_extras

AGAIN = "run: python -m tools.docs_site.licences (on Linux, x86-64, Python 3.11)"


def told() -> dict[tuple[str, str], str]:
    """(the core or an extra, package) -> licence, as the page has it."""
    lines = re.findall(r"^\| ([\w ]+) \| ([^|]+) \| ([^|]+) \|$", PAGE.read_text(), re.MULTILINE)
    return {(extra, name): licence for extra, licence, names in lines for name in names.split(", ")}


def test_the_page_has_the_licence_of_each_package_that_is_installed_here() -> None:
    needs_installed(
        "nvidia.dali", "cupy", "obstore", "pyarrow", "prometheus_client", "opentelemetry.sdk", "backports.zstd"
    )
    here = {(extra, name): licence for (extra, licence), names in rows().items() for name in names}
    assert {key: licence for key, licence in here.items() if told().get(key) != licence} == {}, AGAIN


def test_the_page_has_each_package_that_is_asked_for() -> None:
    core = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    for extra, asked in {"the core": core, **users_extras()}.items():
        names = {canonicalize_name(Requirement(each).name) for each in asked}
        assert names <= {name for place, name in told() if place == extra}, AGAIN


def test_only_the_extras_for_cuda_bring_what_is_not_open_source() -> None:
    assert {extra for (extra, _), licence in told().items() if licence == "NVIDIA's terms"} == {"cuda12", "cuda13"}
