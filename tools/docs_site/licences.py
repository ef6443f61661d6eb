"""Writes docs/licences.md, the licences of all packages that the package and its extras install.

`python -m tools.docs_site.licences` writes the page from the metadata of what is installed here, with the extra `test`.
"""

from __future__ import annotations

import tomllib
from collections import defaultdict
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

__all__ = ["PAGE", "licence_of", "page", "rows", "users_extras"]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "licences.md"
NVIDIA = "NVIDIA's terms"

_NOT_HERE = {
    **dict.fromkeys(("nvidia-cuda-nvrtc-cu12", "nvidia-cuda-runtime-cu12"), NVIDIA),
    **dict.fromkeys(("nvidia-cuda-nvrtc", "nvidia-cuda-runtime", "nvidia-nvjpeg"), NVIDIA),
    **dict.fromkeys(("nvidia-nvjpeg2k-cu13", "nvidia-nvtiff-cu13", "nvidia-libnvcomp-cu13"), NVIDIA),
    **dict.fromkeys(("nvidia-dali-cuda130", "nvidia-nvimgcodec-cu13"), "Apache-2.0"),
    "cupy-cuda13x": "MIT",
    "nvidia-ml-py": "BSD",
}
"""What the tests do not install: its licence as the package index gives it."""
_BROUGHT_BY = {
    "nvidia-dali-cuda130": (
        *("nvidia-nvimgcodec-cu13", "nvidia-nvjpeg", "nvidia-nvjpeg2k-cu13", "nvidia-nvtiff-cu13"),
        *("nvidia-libnvcomp-cu13", "astunparse", "gast", "six", "optree", "packaging", "nvtx", "makefun", "libcst"),
    ),
    "cupy-cuda13x": ("cuda-pathfinder",),
}
"""What packages that are not installed here require, beside the core."""
_NAMES = {
    "MIT License": "MIT",
    "Apache Software License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "BSD License": "BSD",
    "Python Software Foundation License": "PSF-2.0",
}

_HEAD = """\
# Licences

What you may do with datago_gpu, with what ships in it, and with the packages that it installs. This page is written
from their metadata; read the licences themselves before you redistribute them.

- **The package** is under the [MIT licence](../LICENSE).
- **The photographs** in `datago_gpu/photos` are public domain or CC0 1.0: [credits](../datago_gpu/photos/CREDITS.md).
- **Nothing else ships in the wheel.** pip installs the packages below beside it, each under its own licence.

## These need care

- **NVIDIA's libraries**, with the extras `cuda12` and `cuda13` only, are not open source: nvJPEG, nvJPEG2000, nvTIFF,
  nvCOMP, NVRTC and the CUDA runtime. NVIDIA's agreements come with each package, in the folder `licenses` of its
  metadata. Whoever passes the libraries on, also in a container image such as [ours](docker.md), must fulfil what the
  agreements ask for distribution.
- **DALI and nvImageCodec** are under Apache-2.0 themselves, and bring these libraries. DALI's wheel also contains
  libraries of others: its file `Acknowledgements.txt` has their licences.
- **numpy and Pillow** contain libraries, too. numpy's wheel for Linux has GCC's runtime (GPL with the exception for
  runtime libraries) and libquadmath (LGPL). The licence files in the metadata of both packages name all of them.
- **torch, datago, SPDL** and all else that the extras `bench` and `test` install are for comparisons and tests. They
  are not listed here.

## All packages

"""

_TAIL = "\n\n**Read next:** [Machines](machines.md), and [Containers](docker.md).\n"


def page() -> str:
    """Returns the text of docs/licences.md."""
    head = "| for | licence | packages |\n| --- | --- | --- |\n"
    lines = [f"| {extra} | {licence} | {', '.join(names)} |" for (extra, licence), names in rows().items()]
    return _HEAD + head + "\n".join(lines) + _TAIL


def rows() -> dict[tuple[str, str], list[str]]:
    """Returns (the core or an extra, licence) -> names of packages, without those of the core in the extras."""
    core = _closure(Requirement(each) for each in _project()["dependencies"])
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for extra, listed in {"the core": core, **{name: users_extra - core for name, users_extra in _extras()}}.items():
        for name in sorted(listed):
            found[extra, licence_of(name)].append(name)
    return dict(sorted(found.items(), key=lambda each: (each[0][0] != "the core", each[0])))


def users_extras() -> dict[str, list[str]]:
    """Returns extra -> requirements, without the extras that are for this project itself."""
    extras: dict[str, list[str]] = _project()["optional-dependencies"]
    return {name: asked for name, asked in extras.items() if name.partition("-")[0] not in ("bench", "test")}


def licence_of(name: str) -> str:
    """Returns the licence of a package, as SPDX where its metadata allow that.

    Raises LookupError if the package is not installed, and not in the list of those.
    """
    if name in _NOT_HERE:
        return _NOT_HERE[name]
    told = metadata.metadata(name)
    kinds = [each.rpartition(" :: ")[2] for each in told.get_all("Classifier") or [] if each.startswith("License ::")]
    text, plain = (told[key] or "" if key in told else "" for key in ("License-Expression", "License"))
    plain = plain.partition("\n")[0]
    if "nvidia" in f"{text} {plain}".lower():
        return NVIDIA
    return text or " OR ".join(sorted(_NAMES[each] for each in kinds)) or _NAMES.get(plain, plain)


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project


def _extras() -> list[tuple[str, set[str]]]:
    return [(name, _closure(map(Requirement, asked))) for name, asked in users_extras().items()]


def _closure(asked: Iterable[Requirement]) -> set[str]:
    """Returns the names of all packages that these requirements install on this machine."""
    found: set[str] = set()
    waiting = [each for each in asked if _wanted(each, "")]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name not in found or requirement.extras:
            found.add(name)
            waiting += _required(name, requirement.extras)
    return found


def _required(name: str, extras: set[str]) -> list[Requirement]:
    """Returns what a package requires itself. Its extras are those that are asked for."""
    if name in _NOT_HERE:
        return [Requirement(each) for each in _BROUGHT_BY.get(name, ())]
    asked = [Requirement(each) for each in metadata.requires(name) or ()]
    return [each for each in asked if any(_wanted(each, extra) for extra in (*extras, ""))]


def _wanted(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


if __name__ == "__main__":
    PAGE.write_text(page())
