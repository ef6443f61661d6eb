"""The wheel as users get it: built, installed into clean environments of every Python that is at hand, and tried there.

    make wheel-check              make wheel-check DIST=dist   keeps what was built and has passed, for a release

The sdist is built from the checkout and the wheel from the sdist. tests/wheel/installed.py runs in each environment, in
a folder of its own, so that nothing of the checkout can be imported.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHONS = ("python3.11", "python3.12", "python3.13", "python3.14")
SUITE = "tests/wheel/installed.py"
_SUPPORT = ("__init__", "connections", "servers", "without")
HELPERS = ["tests/__init__.py", *(f"tests/support/{name}.py" for name in _SUPPORT)]
IN_SDIST = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "Makefile", "tests/conftest.py", "docs/index.md"}
IN_WHEEL = {
    "datago_gpu/py.typed",
    "datago_gpu/photos/CREDITS.md",
    "datago_gpu/feeder/__main__.py",
    "datago_gpu/.agents/skills/datago-gpu/SKILL.md",
}


def built(folder: Path) -> Path:
    """The wheel, made from the sdist that lies beside the wheel."""
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, ROOT], check=True, stdout=subprocess.DEVNULL)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    with tarfile.open(sdist) as tar:
        lacking = IN_SDIST - {name.partition("/")[2] for name in tar.getnames()}
    files = set(zipfile.ZipFile(wheel).namelist())
    lacking |= IN_WHEEL - files
    strange = {name for name in files if not name.startswith(("datago_gpu/", "datago_gpu-"))}
    assert not lacking | strange, f"missing: {lacking}; in the wheel, and not of the package: {strange}"
    check(sdist, wheel)
    return wheel


def check(sdist: Path, wheel: Path) -> None:
    """Runs the checks of others: whether the package index shows the README, and what a wheel may not hold or lack.

    uv keeps each tool in an environment of its own. W002 is about files that occur twice: the credits of the
    photographs are beside them and, as part of the licence, in the wheel's metadata. By default, the tool expects no
    folder whose name begins with a dot, such as that of SKILL.md.
    """
    tool = [sys.executable, "-m", "uv", "tool", "run", "--quiet", "--from"]
    subprocess.run([*tool, "twine>=6.2", "twine", "check", "--strict", sdist, wheel], check=True)
    package = ["--package", ROOT / "datago_gpu", "--package-omit", "__pycache__"]
    contents = ["check-wheel-contents", "--ignore", "W002", *package, wheel]
    subprocess.run([*tool, "check-wheel-contents>=0.6.3", *contents], check=True)


def pythons() -> dict[str, str]:
    """Name -> command of each Python that runs here. pyenv keeps versions that no command on the PATH starts."""
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = {}
    for name in PYTHONS:
        for command in (shutil.which(name), *sorted(kept.glob(f"*/bin/{name}"))):
            if command and not subprocess.run([command, "-c", ""], capture_output=True).returncode:
                found[name] = str(command)
                break
    return found


def passes(python: str, wheel: Path, folder: Path) -> bool:
    """Whether the suite passes in a new environment of this Python."""
    folder.mkdir()
    subprocess.run([python, "-m", "venv", folder / "venv"], check=True)
    own = folder / "venv" / "bin" / "python"
    install = [own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, wheel, "pytest", "pytest-timeout"], check=True)
    shutil.copy(ROOT / SUITE, folder)
    for name in HELPERS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    suite = [own, "-m", "pytest", "-q", "-W", "error", "--timeout", "60", "-p", "no:cacheprovider", "installed.py"]
    return not subprocess.run(suite, cwd=folder, env={**environment, "CHECKOUT": str(ROOT)}).returncode


def main(kept: str = "") -> int:
    """The exit status. kept: folder for the sdist and the wheel, if they pass everywhere."""
    here = pythons()
    failed = []
    with tempfile.TemporaryDirectory(prefix="datago-wheel-") as temporary:
        wheel = built(Path(temporary) / "dist")
        print(f"built {wheel.name}", flush=True)
        for name, command in here.items():
            clock = time.monotonic()
            good = passes(command, wheel, Path(temporary) / name)
            print(f"{name}: {'passed' if good else 'FAILED'} after {time.monotonic() - clock:.0f} s", flush=True)
            failed += [] if good else [name]
        if kept and here and not failed:
            shutil.copytree(wheel.parent, kept, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
    print("not here:", ", ".join(name for name in PYTHONS if name not in here) or "none")
    return 1 if failed or not here else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
