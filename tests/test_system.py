"""Systems other than Linux: what macOS lacks is done without, and Windows is refused in one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from datago_gpu import ConfigError, Loader
from datago_gpu.system import descriptor_path, path_of, usable_cpus
from tests.support import without
from tests.support.images import add_pictures

WITHOUT = str(Path(without.__file__).parent / "blocking")


def run(script: str, missing: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, without.VARIABLE: missing, "PYTHONPATH": WITHOUT}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=environment, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip


@pytest.mark.timeout(120)
def test_a_loader_does_without_what_macos_lacks(tmp_path: Path) -> None:
    """Memory without a name, the number of usable CPUs, and room reserved in a file."""
    add_pictures(tmp_path / "pictures", [(40, 40)] * 5)
    config = {"source_type": "file", "source_config": {"root_path": str(tmp_path / "pictures")}, "batch_size": 2}
    script = f"""
import os
from datago_gpu import Loader
from datago_gpu.doctor.machine import shared_memory
assert not hasattr(os, "memfd_create") and not hasattr(os, "sched_getaffinity")
for decode in ({{}}, {{"processes": 2}}):
    config = {config!r} | {{"decode_config": decode}}
    with Loader(config, device="cpu", backend="pillow") as loader:
        print(sum(len(batch) for batch in loader), loader.stats().decode_processes, loader.stats().skipped)
print(shared_memory().found)
"""
    done = run(script, without.MACOS)
    assert done.stdout == (
        "5 0 {}\n5 0 {}\nPOSIX shared memory works; threads decode, as decode processes need Linux\n"
    ), done.stderr
    assert "threads decode in place of 2 processes: this system has no memfd_create" in done.stderr


def test_windows_is_refused_in_a_sentence_that_names_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ConfigError, match=r"does not run on Windows.* Use Linux; on this machine, WSL is one"):
        Loader({"source_type": "file", "source_config": {"root_path": "/"}})


def test_the_package_is_imported_without_modules_that_windows_lacks() -> None:
    """Otherwise a traceback would come before the sentence."""
    script = """
import datago_gpu.cli, sys
from datago_gpu import Loader, LoaderConfig
sys.platform, sys.argv = "win32", ["datago-gpu", "doctor"]
datago_gpu.cli.main()
"""
    done = run(script, "fcntl,resource,termios,pwd,grp")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("datago-gpu: datago_gpu does not run on Windows")
    assert done.stderr.count("\n") == 1


def test_an_open_file_is_found_by_its_descriptor(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    descriptor = os.open(tmp_path / "link", os.O_RDONLY)
    try:
        assert path_of(descriptor) == str((tmp_path / "a").resolve())
        assert Path(descriptor_path(descriptor)).read_bytes() == b"abc"
    finally:
        os.close(descriptor)
    assert usable_cpus() >= 1
