"""The files of docker/: locks that fit pyproject.toml, images that are not root's, a compose file that means something.

Building and running them is `make docker-check`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from datago_gpu.server import DataroomServer

ROOT = Path(__file__).parent.parent
DOCKER = ROOT / "docker"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
SERVICES: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
EXTRAS = "cuda12", "cloud", "table", "zstd"
TRAINING = (DOCKER / "training.Dockerfile").read_text()


def pins(name: str) -> dict[str, str]:
    """Package -> version of a lock file, each with its hashes."""
    blocks = re.split(r"^(?=[a-z0-9])", (DOCKER / name).read_text(), flags=re.MULTILINE)[1:]
    found = {}
    for block in blocks:
        package, _, version = block.split()[0].partition("==")
        assert version, block
        assert "--hash=sha256:" in block, package
        found[package] = version.partition(";")[0]
    return found


def assert_pinned(wanted: list[str], lock: dict[str, str]) -> None:
    for text in wanted:
        requirement = Requirement(text)
        version = lock.get(canonicalize_name(requirement.name))
        assert version, f"{text} is in no lock: make docker-lock"
        assert requirement.specifier.contains(version), f"{text}, locked is {version}: make docker-lock"


def test_the_locks_pin_what_the_project_asks_for() -> None:
    lock = pins("requirements.lock")
    assert_pinned(PROJECT["project"]["dependencies"], lock)
    for extra in EXTRAS:
        assert_pinned(PROJECT["project"]["optional-dependencies"][extra], lock)
    assert_pinned(PROJECT["build-system"]["requires"], pins("build.lock"))


@pytest.mark.parametrize("name", ["requirements.lock", "bench.lock"])
def test_a_lock_is_for_more_than_one_kind_of_machine(name: str) -> None:
    """tests/wheel/test_wheels.py asks the package index for the wheels."""
    resizer = re.findall(r"^cykooz-resizer==\S+ ; (.+) \\$", (DOCKER / name).read_text(), re.MULTILINE)
    assert [marker.count("platform_machine == 'x86_64'") for marker in resizer] == [1]


def test_torch_is_in_the_image_of_the_gpu_benchmark_only() -> None:
    assert set(pins("torch.lock")) & {"torch"}
    stages = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL))
    assert {stage for stage, text in stages.items() if "--from=torch-dependencies" in text} == {"bench-gpu"}
    assert SERVICES["bench-gpu"]["build"]["target"] == "bench-gpu"
    assert SERVICES["bench"]["build"]["target"] == "bench"


def test_the_example_adds_the_loader_to_an_image_of_ones_own() -> None:
    (asked,) = re.findall(r"/tmp/datago_gpu\[(.+)\]", TRAINING)
    chosen = re.findall(r"^ARG CUDA=(.+)$", TRAINING, re.MULTILINE)
    extras = [extra for name in asked.split(",") for extra in (chosen if name == "${CUDA}" else [name])]
    assert set(extras) <= set(PROJECT["project"]["optional-dependencies"])
    assert "--constraint" in TRAINING
    for text in (DOCKERFILE, TRAINING):
        assert "NVIDIA_VISIBLE_DEVICES=all" in text
        assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video" in text


def test_the_lock_of_the_benchmarks_only_adds() -> None:
    lock = pins("bench.lock")
    assert pins("torch.lock").items() & lock.items()
    assert lock.items() >= pins("requirements.lock").items()
    assert_pinned(PROJECT["project"]["optional-dependencies"]["bench"], lock)


@pytest.mark.parametrize("stage", ["app", "bench"])
def test_an_image_runs_as_nobody_special(stage: str) -> None:
    text = DOCKERFILE.partition(f" AS {stage}\n")[2].partition("\nFROM ")[0]
    assert re.findall(r"^USER (.+)$", text, re.MULTILINE)[-1] == "1000:1000"


def test_the_image_without_a_target_is_the_small_one() -> None:
    assert re.findall(r"^FROM (.+)$", DOCKERFILE, re.MULTILINE)[-1] == "app AS runtime"


def test_the_label_has_the_version() -> None:
    assert f'image.version="{PROJECT["project"]["version"]}"' in DOCKERFILE


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_no_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["user"] == "${DATAGO_UID:-1000}:${DATAGO_GID:-1000}"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "ports" not in service


def test_only_the_gpu_profile_asks_for_a_gpu() -> None:
    asking = {name for name, service in SERVICES.items() if "deploy" in service}
    assert asking == {"bench-gpu"}
    assert {name for name, service in SERVICES.items() if "gpu" in service["profiles"]} == {*SERVICES} - {"bench"}
    assert {name for name, service in SERVICES.items() if "cpu" in service["profiles"]} == {*SERVICES} - {"bench-gpu"}


@pytest.mark.parametrize("place", ["compose.yaml", "Dockerfile"])
def test_the_health_check_tells_a_server_that_lives_from_one_that_does_not(place: str, tmp_path: Path) -> None:
    (line,) = re.findall(r"^HEALTHCHECK .*\n +CMD (.+)$", DOCKERFILE, re.MULTILINE)
    in_compose = SERVICES["server"]["healthcheck"]["test"]
    kind, python, *words = in_compose if place == "compose.yaml" else ["CMD", *json.loads(line)]
    assert (kind, python) == ("CMD", "python")

    def healthy(port: str) -> bool:
        command = [sys.executable, *(word.replace(":8000", f":{port}") for word in words)]
        return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0

    with DataroomServer(tmp_path) as server:
        port = server.url.rpartition(":")[2].partition("/")[0]
        assert healthy(port)
    assert not healthy(port)


def test_the_build_sees_only_what_it_is_told_of() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] != "#"]
    assert lines[0] == "*"
    allowed = [line[1:] for line in lines if line.startswith("!")]
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE + TRAINING, re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    assert all(any(Path(source).match(pattern) for pattern in allowed) for source in sources)
    assert all((ROOT / source).exists() for source in sources)


def test_docker_check_says_what_it_lacks(tmp_path: Path) -> None:
    result = subprocess.run([sys.executable, str(DOCKER / "check.py")], env={**os.environ, "PATH": str(tmp_path)},
                            capture_output=True, text=True, timeout=20, check=False)  # fmt: skip
    assert result.returncode == 2
    assert "apt-get install buildah debootstrap" in result.stderr
