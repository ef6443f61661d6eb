"""Odd surroundings of a program: a locale without UTF-8, no memfd_create, limits on files, Python without docstrings.

Each works, or says in one sentence what to do.
"""

from __future__ import annotations

import errno
import io
import json
import os
import platform
import re
import resource
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from datago_gpu import FeederError, Loader
from datago_gpu.doctor import machine
from datago_gpu.feeder import arena
from tests.support.images import SHAPES, add_picture, add_pictures, file_config
from tests.support.needs import needs

ODD = "caf\N{LATIN SMALL LETTER E WITH ACUTE} \N{CJK UNIFIED IDEOGRAPH-5199}"
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
EVERYWHERE = """
import os, sys
from datago_gpu import Loader
from datago_gpu.server import DataroomServer

def run(kind, source, **more):
    config = {"source_type": kind, "source_config": source, "batch_size": 4, "http_config": {"max_tries": 1}, **more}
    with Loader(config, device="cpu", backend="pillow") as loader:
        ids = sorted(name for batch in loader for name in batch.ids)
        print(ascii((ids, loader.stats().skipped)))

assert sys.getfilesystemencoding() == "ascii"
above, root = sys.argv[1], sys.argv[1] + "/" + sys.argv[2]
text = root.encode("utf-8", "surrogateescape").decode()  # as a config file has it
for given in (root, text):
    run("file", {"root_path": given})
    run("webdataset", {"url": given})
    run("webdataset", {"url": given + "/1.tar"})
run("file", {"root_path": above})
run("webdataset", {"url": above + "/*/*.tar"})
run("webdataset", {"url": "@" + above + "/list.txt"})
os.chdir(root)
run("file", {"root_path": "."}, skipped_file="skipped " + text.rpartition("/")[2])
with DataroomServer(text) as server:
    run("db", {"api_url": server.url, "api_key": server.key})
"""


def tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", encoding="utf-8") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder, with names that are not ASCII everywhere."""
    root = tmp_path / ODD
    picture = add_picture(root / f"{ODD}.jpg").read_bytes()
    (root / f"bad {ODD}.jpg").write_bytes(b"no picture")
    (root / "1.tar").write_bytes(tar({f"{ODD}.jpg": picture, f"bad {ODD}.jpg": b"no picture"}))
    (tmp_path / "list.txt").write_text(f"{root}/1.tar\n", encoding="utf-8")
    return root


def test_names_that_are_not_ascii_work_in_a_locale_without_utf_8(odd: Path) -> None:
    done = subprocess.run([sys.executable, "-c", EVERYWHERE, odd.parent, odd.name], env={**os.environ, **C_LOCALE},
                          capture_output=True, text=True, timeout=50, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    folder, shard = ([f"{ODD}.jpg"], {"unknown-format": 1}), ([ODD], {"unknown-format": 1})
    below = ([f"{ODD}/{ODD}.jpg"], {"unknown-format": 1})
    assert lines[:-1] == [ascii(each) for each in (2 * [folder, shard, shard] + [below, shard, shard, folder])]
    assert lines[-1].startswith("(['caf")  # an id that the server makes of the name
    assert json.loads((odd / f"skipped {ODD}").read_text(encoding="utf-8"))["id"] == f"bad {ODD}.jpg"


def test_commands_work_in_a_locale_without_utf_8(odd: Path) -> None:
    config = odd.parent / "config.json"
    config.write_text(json.dumps(
        {"source_type": "file", "source_config": {"root_path": str(odd)}, "batch_size": 1, "image_config": {}}
    ), encoding="utf-8")  # fmt: skip
    command = [sys.executable, "-m", "datago_gpu.cli", "doctor", config, "--device", "cpu", "--backend", "pillow"]
    done = subprocess.run(command, env={**os.environ, **C_LOCALE}, capture_output=True, timeout=50, check=False)
    out = done.stdout.decode()
    assert f"2 images in 1 folder below {odd}" in out
    assert f"'{ODD}.jpg'" in out


REFUSED = """
import ctypes, errno, platform, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
number = {"x86_64": 319, "aarch64": 279}[platform.machine()]
# load the number of the call; if it is that one, EPERM, else allow
program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in (
    (0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | errno.EPERM), (0x06, 0, 0, 0x7FFF0000))))
header = struct.pack("HxxxxxxP", 4, ctypes.addressof(program))
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.create_string_buffer(header), 0, 0):
    sys.exit(77)
import logging
from datago_gpu import Loader
logging.basicConfig(format="%(message)s", stream=sys.stdout)
with Loader({"source_type": "file", "source_config": {"root_path": sys.argv[1]}}, device="cpu", backend="pillow") as it:
    print(sum(map(len, it)))
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="the number of the system call is unknown")
def test_where_memfd_create_is_refused_an_unnamed_file_takes_its_place(tmp_path: Path) -> None:
    """By a filter of the kernel's, as containers have."""
    add_pictures(tmp_path / "root", SHAPES)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    done = subprocess.run([sys.executable, "-c", REFUSED, tmp_path / "root"], capture_output=True, text=True,
                          timeout=50, check=False, env={**os.environ, "TMPDIR": str(temporary)})  # fmt: skip
    if done.returncode == 77:
        pytest.skip("this kernel takes no filter")
    assert done.returncode == 0, done.stderr
    threads, warning, count = done.stdout.splitlines()
    assert re.match(r"threads decode in place of \d+ processes: memfd_create is refused .*Allow memfd_create", threads)
    assert warning.startswith("memfd_create is refused (Operation not permitted): an unnamed file in the folder")
    assert count == str(len(SHAPES))
    assert not list(temporary.iterdir())


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    def memfd_create(*_: Any) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "memfd_create", memfd_create)
    return monkeypatch


def test_where_there_is_no_temporary_folder_either_the_error_says_what_to_allow(
    tmp_path: Path, refused: pytest.MonkeyPatch
) -> None:
    add_pictures(tmp_path, SHAPES)
    refused.setattr("tempfile.tempdir", "/nowhere")
    with pytest.raises(FeederError, match=r"memfd_create is refused .*, and no temporary file can be made .*\. Allow"):
        Loader(file_config(tmp_path), device="cpu", backend="pillow")
    assert machine.shared_memory().state == "fail"


def test_a_full_temporary_folder_is_an_error_at_once(tmp_path: Path, refused: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    refused.setattr(os, "posix_fallocate", full)
    add_pictures(tmp_path, SHAPES)
    with pytest.raises(FeederError, match=r"^2 MiB of memory shared .* \(No space left on device\); memfd"):
        Loader(file_config(tmp_path), device="cpu", backend="pillow")


def test_doctor_tells_of_a_refused_memfd(refused: pytest.MonkeyPatch) -> None:
    check = machine.shared_memory()
    assert (check.state, check.remedy) == ("warn", "allow the system call memfd_create in the container's profile")


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """As `ulimit -f` sets it."""
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, allowed[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, allowed)


def test_a_limit_on_files_that_is_below_the_arena_is_named(tmp_path: Path) -> None:
    add_pictures(tmp_path, SHAPES)
    with (
        file_limit(arena.MiB),
        pytest.raises(FeederError, match=r"^2 MiB of memory .*ulimit -f unlimited.*, or lower arena_mb$"),
    ):
        Loader(file_config(tmp_path), device="cpu", backend="pillow")
    with file_limit(2 * arena.MiB), Loader(file_config(tmp_path), device="cpu", backend="pillow") as loader:
        assert sum(map(len, loader)) == len(SHAPES)


PLAIN = """
import sys
from datago_gpu import ConfigError, Loader
config = {"source_type": "file", "source_config": {"root_path": sys.argv[1]}}
try:
    with Loader(config, device="cpu", backend=sys.argv[2]) as loader:
        print(sum(map(len, loader)))
except ConfigError as error:
    print(error)
"""


@pytest.mark.parametrize(("way", "backend"), [(["-OO"], "pillow"), (["-O"], "dali"), ([], "dali")])
def test_python_without_docstrings_and_asserts(tmp_path: Path, way: list[str], backend: str) -> None:
    """DALI puts its own together as it is imported. The last way is by the environment."""
    if backend == "dali":
        needs("nvidia.dali")
    add_pictures(tmp_path, SHAPES)
    optimized = {} if way else {"PYTHONOPTIMIZE": "2"}
    done = subprocess.run([sys.executable, *way, "-c", PLAIN, tmp_path, backend], env={**os.environ, **optimized},
                          capture_output=True, text=True, timeout=50, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    if backend == "dali" and way != ["-O"]:
        assert done.stdout.startswith("backend 'dali' cannot be used: DALI needs docstrings, which this Python leaves")
    else:
        assert done.stdout.strip() == str(len(SHAPES))
