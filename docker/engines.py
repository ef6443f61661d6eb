"""What check.py builds and runs with: a Docker engine, or buildah where there is none; as much of them as it needs."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

__all__ = ["Buildah", "Docker", "Engine", "Failed"]

ROOT = Path(__file__).parent.parent
BASE = "localhost/datago-gpu-base:bookworm"
MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
UID = 1000
SLIM = "usr/share/doc", "usr/share/locale", "usr/share/man", "var/lib/apt/lists", "var/cache/apt"
SLIM_LATER = "".join(f"path-exclude /{folder}/*\n" for folder in SLIM[:3])
"""What Debian's slim images leave out, at first and with each package to come."""
SOURCES = """deb {mirror} bookworm main
deb {mirror} bookworm-updates main
deb {security} bookworm-security main
"""


class Failed(Exception):
    """A command that did not do what it should."""


class Engine(Protocol):
    """Builds the Dockerfile's targets as datago-gpu:TARGET, and runs commands in them."""

    def version(self) -> str: ...
    def prepare(self) -> None: ...
    def build(self, target: str) -> None: ...
    def size(self, target: str) -> int: ...
    def start(self, target: str, command: list[str], results: Path | None = None) -> None: ...
    def benchmark(self, settings: dict[str, str], results: Path) -> None: ...
    def close(self) -> None: ...


def run(*command: str, check: bool = True, quiet: bool = False, environment: dict[str, str] | None = None) -> int:
    """Run a command to its end; its exit status. check: another one than 0 is Failed."""
    sys.stdout.flush()
    sink = subprocess.DEVNULL if quiet else None
    status = subprocess.run(
        command, check=False, stdout=sink, stderr=sink, env={**os.environ, **(environment or {})}
    ).returncode
    if check and status:
        raise Failed(f"exit status {status} of: {' '.join(command)[:300]}")
    return status


def said(*command: str) -> str:
    """What a command printed."""
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise Failed(f"exit status {done.returncode} of: {' '.join(command)[:300]}")
    return done.stdout


def theirs(folder: Path) -> Path:
    """The folder, now of the user that containers run as."""
    os.chown(folder, UID, UID)
    return folder


@contextmanager
def build_secrets() -> Iterator[list[str]]:
    """Options that pass this machine's index and certificates to a build, in no layer."""
    index = os.environ.get("PIP_INDEX_URL") or _pip_setting("global.index-url")
    certificates = os.environ.get("PIP_CERT") or _pip_setting("global.cert") or ssl.get_default_verify_paths().cafile
    with tempfile.TemporaryDirectory(prefix="datago-gpu-") as folder:
        pip = Path(folder) / "pip.conf"
        pip.write_text("[global]\n" + (f"index-url = {index}\n" if index else ""))
        options = ["--secret", f"id=pip,src={pip}"]
        if certificates and Path(certificates).is_file():
            pip.write_text(pip.read_text() + "cert = /run/secrets/ca\n")
            options += ["--secret", f"id=ca,src={certificates}"]
        yield options


def _pip_setting(name: str) -> str:
    command = [sys.executable, "-m", "pip", "config", "get", name]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()


class Docker:
    """A Docker engine with its compose plugin."""

    @staticmethod
    def refusal() -> str:
        """Why this machine cannot; "" where it can."""
        if not shutil.which("docker") or run("docker", "info", check=False, quiet=True):
            return "none answers"
        if run("docker", "compose", "version", check=False, quiet=True):
            return "the compose plugin is missing"
        return ""

    def version(self) -> str:
        return said("docker", "--version").strip()

    def prepare(self) -> None:
        """The engine pulls Debian's image."""

    def build(self, target: str) -> None:
        with build_secrets() as options:
            run("docker", "build", "-f", str(ROOT / "docker" / "Dockerfile"), "--target", target, *options,
                "-t", f"datago-gpu:{target}", str(ROOT), environment={"DOCKER_BUILDKIT": "1"})  # fmt: skip

    def size(self, target: str) -> int:
        return int(said("docker", "image", "inspect", "--format", "{{.Size}}", f"datago-gpu:{target}"))

    def start(self, target: str, command: list[str], results: Path | None = None) -> None:
        mounts = ["-v", f"{results}:/results"] if results else []
        run("docker", "run", "--rm", "--user", self._user(results), *mounts,
            "--entrypoint", command[0], f"datago-gpu:{target}", *command[1:])  # fmt: skip

    def benchmark(self, settings: dict[str, str], results: Path) -> None:
        """As compose.yaml has it: the server in one container, the benchmark in another."""
        uid, _, gid = self._user(results).partition(":")
        settings = {**settings, "DATAGO_UID": uid, "DATAGO_GID": gid}
        compose = ["docker", "compose", "-f", str(ROOT / "docker" / "compose.yaml"), "--profile", "cpu"]
        try:
            run(*compose, "up", "--no-build", "--exit-code-from", "bench", environment=settings)
        finally:
            run(*compose, "down", "--volumes", environment=settings)

    def _user(self, results: Path | None) -> str:
        """Who calls, so that results are theirs; another where that is root."""
        if os.geteuid():
            return f"{os.geteuid()}:{os.getegid()}"
        if results:
            theirs(results)
        return f"{UID}:{UID}"

    def close(self) -> None:
        """The images stay: they are what was asked for."""


class Buildah:
    """buildah on a Debian of debootstrap's, without an engine. storage: the folder for images and containers."""

    def __init__(self, storage: Path) -> None:
        self._storage = storage
        self._command = ["buildah", "--root", str(storage / "root"), "--runroot", str(storage / "run")]
        os.environ.setdefault("BUILDAH_ISOLATION", "chroot")  # containers need more rights than a container has

    @staticmethod
    def refusal() -> str:
        """Why this machine cannot; "" where it can."""
        missing = [tool for tool in ("buildah", "debootstrap") if not shutil.which(tool)]
        if missing:
            return f"apt-get install {' '.join(missing)}"
        return "only root may use it so" if os.geteuid() else ""

    def version(self) -> str:
        return said("buildah", "--version").strip()

    def prepare(self) -> None:
        """What FROM names, where it was not kept."""
        if BASE in self._said("images", "--format", "{{.Name}}:{{.Tag}}").split():
            return
        tree = self._storage / "base"
        run("debootstrap", "--variant=minbase", "bookworm", str(tree), MIRROR, quiet=True)
        for folder in SLIM:
            shutil.rmtree(tree / folder)
            (tree / folder).mkdir()
        (tree / "etc/dpkg/dpkg.cfg.d/slim").write_text(SLIM_LATER)
        security = MIRROR.removesuffix("/") + "-security"
        (tree / "etc/apt/sources.list").write_text(SOURCES.format(mirror=MIRROR, security=security))
        container = self._said("from", "scratch").strip()
        self._run("add", "--quiet", container, str(tree), "/")
        self._run("commit", "--quiet", "--rm", container, BASE)
        shutil.rmtree(tree)

    def build(self, target: str) -> None:
        with build_secrets() as options:
            self._run("build", "--quiet", "--layers", "--format", "docker", "--build-arg", f"BASE={BASE}", *options,
                      "-f", str(ROOT / "docker" / "Dockerfile"), "--ignorefile", str(ROOT / ".dockerignore"),
                      "--target", target, "-t", f"datago-gpu:{target}", str(ROOT))  # fmt: skip

    def size(self, target: str) -> int:
        """The files of an image."""
        with self._container(target) as container:
            tree = self._said("mount", container).strip()
            files = int(said("du", "-s", "--block-size=1", tree).split()[0])
            self._run("umount", container, quiet=True)
        return files

    def start(self, target: str, command: list[str], results: Path | None = None) -> None:
        self._start(target, command, results, {})

    def _start(self, target: str, command: list[str], results: Path | None, settings: dict[str, str]) -> None:
        words = ["--user", f"{UID}:{UID}", *(["--volume", f"{theirs(results)}:/results"] if results else [])]
        for name, value in settings.items():
            words += ["--env", f"{name}={value}"]
        with self._container(target) as container:
            self._run("run", *words, container, "--", *command)

    def benchmark(self, settings: dict[str, str], results: Path) -> None:
        """Without compose: one container has the server, too. Its own network is this machine's."""
        self._start("bench", ["sh", "/opt/datago_gpu/bench.sh", "cpu"], results, settings)

    @contextmanager
    def _container(self, target: str) -> Iterator[str]:
        name = self._said("from", "--pull-never", f"datago-gpu:{target}").strip()
        try:
            yield name
        finally:
            self._run("rm", name, quiet=True)

    def _run(self, *words: str, quiet: bool = False) -> None:
        run(*self._command, *words, quiet=quiet)

    def _said(self, *words: str) -> str:
        return said(*self._command, *words)

    def close(self) -> None:
        """Builds leave containers behind, and the storage is mounted onto itself: it could not be removed."""
        self._run("rm", "--all", quiet=True)
        overlay = self._storage / "root" / "overlay"
        if overlay.is_mount():
            run("umount", str(overlay))
