"""The processes that a Loader starts import what the program imports that made it."""

from __future__ import annotations

import multiprocessing
import multiprocessing.spawn
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import psutil
import pytest

import datago_gpu
from datago_gpu import FeederError, Loader
from datago_gpu.interpreter import command
from tests.support.images import SHAPES, add_pictures, file_config

PACKAGE = Path(datago_gpu.__file__).parent
SITE = [path for path in sys.path if path.endswith("site-packages")]
COUNT = 6
TRAIN = """
import os, sys
from datago_gpu import Loader
config = {"source_type": "file", "source_config": {"root_path": sys.argv[1]}, "batch_size": 2, "samples_buffer_size": 2}
with Loader(config, device="cpu", backend="pillow") as loader:
    names = next(loader).ids
    if len(sys.argv) > 2:
        os.chdir(sys.argv[2])
        os.kill(loader.feeder_pid, 9)
    print(len(names + [name for batch in loader for name in batch.ids]))
"""
SHADOWS = ("asyncio", "dataclasses", "enum", "pathlib", "queue", "selectors", "ssl", "token", "typing")
"""Modules of the standard library of which PyPI has backports, or whose names users give to files of their own."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    add_pictures(folder, [SHAPES[number % 3] for number in range(COUNT)])
    return folder


def run(*words: str | Path, cwd: Path | None = None, python: str = sys.executable) -> str:
    """What a program prints that a user starts so."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [python, *words],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        cwd=cwd,
        env=clean,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def with_shadows(folder: Path) -> Path:
    folder.mkdir()
    for name in SHADOWS:
        (folder / f"{name}.py").write_text(f"raise SyntaxError('{name} for a Python of long ago')")
    return folder


def test_backports_beside_the_package_do_not_replace_the_standard_library(root: Path, tmp_path: Path) -> None:
    """As with `pip install asyncio`: the site-packages that hold the package come behind the standard library."""
    site = with_shadows(tmp_path / "site")
    (site / "datago_gpu").symlink_to(PACKAGE)
    program = f"import sys; sys.path[:] = [*(p for p in sys.path if p not in {SITE}), {str(site)!r}, *{SITE}]"
    assert run("-S", "-P", "-c", program + TRAIN, root) == str(COUNT)


def test_files_beside_the_script_do_not_replace_what_only_a_feeder_imports(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "train.py").write_text(TRAIN)
    for name in ("asyncio", "ssl"):  # the program itself imports neither
        (folder / f"{name}.py").write_text("raise SystemExit('of the project')")
    assert run(folder / "train.py", root) == str(COUNT)


def test_a_search_path_that_was_made_at_run_time_holds(root: Path) -> None:
    """As of PEX, Bazel or a notebook: nothing of it is in the environment, or where `site` looks."""
    program = f"import sys; sys.path += {[*SITE, str(PACKAGE.parent)]!r}"
    without_packages = os.path.realpath(sys.executable)  # where the tests run in a virtual environment
    for flags in (["-P"], ["-I", "-S"]):
        assert run(*flags, "-c", program + TRAIN, root, python=without_packages) == str(COUNT)


def test_a_package_in_an_archive_is_found(root: Path, tmp_path: Path) -> None:
    archive = tmp_path / "app.pyz"
    with zipfile.ZipFile(archive, "w") as file:
        for path in PACKAGE.rglob("*.py"):
            file.write(path, path.relative_to(PACKAGE.parent))
    program = f"import sys; sys.path[:] = [*(p for p in sys.path if p not in {SITE}), {str(archive)!r}, *{SITE}]"
    assert run("-S", "-P", "-c", program + TRAIN, root) == str(COUNT)


@pytest.mark.parametrize("entry", ["", "lib"])
def test_a_package_that_was_found_from_the_working_folder_is_found_from_another(
    root: Path, tmp_path: Path, entry: str
) -> None:
    here = tmp_path / "here"
    (here / entry).mkdir(parents=True)
    (here / entry / "datago_gpu").symlink_to(PACKAGE)
    program = f"import sys; sys.path[:] = [{entry!r}, *(p for p in sys.path if p not in {SITE}), *{SITE}]"
    assert run("-S", "-P", "-c", program + TRAIN, root, tmp_path, cwd=here) == str(COUNT)


@pytest.mark.parametrize("given", [None, "/some/where"])
def test_pythonpath_is_left_alone(root: Path, given: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if given is None:
        monkeypatch.delenv("PYTHONPATH", raising=False)
    else:
        monkeypatch.setenv("PYTHONPATH", given)
    with Loader(file_config(root), device="cpu") as loader:
        assert psutil.Process(loader.feeder_pid).environ().get("PYTHONPATH") == given


def test_a_module_gets_its_arguments_and_the_search_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "says.py").write_text("import sys; print(__name__, sys.argv[1:], sys.path, sep='\\n')")
    odd = os.fsdecode(b"/caf\xe9 \xff")
    monkeypatch.setattr(sys, "path", [str(tmp_path), odd, *sys.path, "a\0b", tmp_path, str(tmp_path)])
    done = subprocess.run(command("says", "1", "two words"), capture_output=True, check=True, timeout=20)
    name, arguments, path = done.stdout.decode().splitlines()
    assert (name, arguments) == ("__main__", "['1', 'two words']")
    found = eval(path)
    assert set(found) == {entry for entry in sys.path if isinstance(entry, str) and "\0" not in entry} | {
        str(PACKAGE.parent)
    }
    assert (
        found.index(os.path.dirname(os.__file__)) < found.index(str(tmp_path)) < found.index(odd) < found.index(SITE[0])
    )


@pytest.fixture
def no_other(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(multiprocessing.spawn, "_python_exe", None)
    return monkeypatch


@pytest.mark.parametrize("given", [None, "", "/no/such/python", "/tmp"])
def test_without_an_interpreter_the_error_says_what_to_set(
    root: Path, no_other: pytest.MonkeyPatch, given: str | None
) -> None:
    no_other.setattr(sys, "executable", given)
    with pytest.raises(FeederError) as caught:
        Loader(file_config(root), device="cpu")
    version = ".".join(map(str, sys.version_info[:2]))
    assert str(caught.value) == (
        f"no Python was found to start a process with: sys.executable is {given!r}; "
        f"set sys.executable to a Python {version} that can import datago_gpu"
    )


@pytest.mark.parametrize("given", ["/bin/true", "/bin/cat"])
def test_a_program_that_is_no_python_is_named(root: Path, no_other: pytest.MonkeyPatch, given: str) -> None:
    no_other.setattr(sys, "executable", given)
    with (
        Loader(file_config(root), device="cpu") as loader,
        pytest.raises(
            FeederError, match=rf"(?s)^the feeder process ended with status .*\nIt was started as '{given}': if"
        ),
    ):
        next(loader)


def test_a_frozen_program_does_not_start_itself(root: Path, no_other: pytest.MonkeyPatch) -> None:
    no_other.setattr(sys, "frozen", True, raising=False)
    no_other.setattr(sys, "executable", os.path.realpath("/proc/self/exe"))
    with pytest.raises(FeederError, match="no Python was found to start a process with"):
        Loader(file_config(root), device="cpu")


def test_what_multiprocessing_was_told_to_use_is_used_where_there_is_nothing_else(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiprocessing.spawn, "_python_exe", os.fsencode(sys.executable))
    monkeypatch.setattr(sys, "executable", None)
    with Loader(file_config(root), device="cpu") as loader:
        assert sum(map(len, loader)) == COUNT
