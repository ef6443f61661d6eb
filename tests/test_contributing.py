"""What CONTRIBUTING.md, SECURITY.md, AGENTS.md and the workflows name is there and can be run."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.needs import needs

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "datago_gpu"
PAGES = ["CONTRIBUTING.md", "SECURITY.md", "AGENTS.md", ".github/pull_request_template.md"]
WORKFLOWS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / ".github" / "workflows").iterdir())
FORMS = ["bug.yml", "slow.yml"]


def read(page: str) -> str:
    return (ROOT / page).read_text()


def targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", read("Makefile"), re.MULTILINE))


@pytest.mark.parametrize("page", ["README.md", *PAGES, *WORKFLOWS])
def test_each_make_command_is_a_target(page: str) -> None:
    named = set(re.findall(r"(?:`| {4}|run: )make ([a-z][a-z-]+)", read(page)))
    assert named <= targets()


def test_the_changelog_has_a_section_for_the_version() -> None:
    sections = re.findall(r"^## (.*)$", read("CHANGELOG.md"), re.MULTILINE)
    headings = [re.fullmatch(r"(\d+\.\d+\.\d+) \((unreleased|\d{4}-\d\d-\d\d)\)", each) for each in sections]
    versions = [heading[1] for heading in headings if heading]
    assert len(versions) == len(sections) == len(set(versions))
    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    assert version in versions[:2], "the first section is of this version, or of the next one"


@pytest.mark.parametrize("page", PAGES)
def test_each_path_that_is_named_is_there(page: str) -> None:
    text = read(page)
    for name in re.findall(r"`([\w./-]+(?:/|\.py|\.md|\.toml|\.yml|\.sh))`", text):
        assert any(path.exists() for path in (ROOT / name, PACKAGE / name, *PACKAGE.glob(f"*/{name}"))), name
    for link in re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", text):
        assert (ROOT / link).exists(), link


def test_each_file_that_a_hint_of_pytest_names_is_there() -> None:
    for page in PAGES:
        for name in re.findall(r"pytest (tests/[\w/]+\.py)", read(page)):
            assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")))
def test_each_test_that_a_document_names_is_there(page: str) -> None:
    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py")}
    for name in re.findall(r"`((?:[\w/]+/)?test_\w+\.py)`", read(page)):
        assert any(path.endswith(f"/{name}") or path == name for path in there), name


def test_each_folder_of_the_package_has_one_of_tests() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert {room for room in rooms if not any((ROOT / "tests" / room).glob("test_*.py"))} == set()


def test_the_map_names_every_folder_of_the_package() -> None:
    text = read("CONTRIBUTING.md")
    folders = {path.parent.name for path in (ROOT / "datago_gpu").glob("*/__init__.py")}
    assert {name for name in folders if f"{name}/`" not in text} == set()


def test_the_workflow_tests_each_python_that_is_supported() -> None:
    yaml = needs("yaml")
    jobs = yaml.safe_load(read(".github/workflows/test.yml"))["jobs"]
    versions = jobs["suite"]["strategy"]["matrix"]["python"]
    lowest = tomllib.loads(read("pyproject.toml"))["project"]["requires-python"].removeprefix(">=")
    assert versions[0] == lowest
    (wheel,) = [
        step["with"]["python-version"]
        for step in jobs["wheel"]["steps"]
        if "with" in step and "python-version" in step["with"]
    ]
    assert sorted(wheel.split()) == sorted(versions)


def test_the_workflows_may_only_read_and_only_the_upload_signs() -> None:
    yaml = needs("yaml")
    for name in WORKFLOWS:
        workflow = yaml.safe_load(read(name))
        assert workflow["permissions"] == {"contents": "read"}
        for job, body in workflow["jobs"].items():
            assert body["timeout-minutes"] <= 90
            assert ("permissions" in body) == (job == "upload")


def test_the_check_of_a_release_says_which_version_it_is() -> None:
    """The step is run as the workflow has it."""
    yaml = needs("yaml")
    steps = yaml.safe_load(read(".github/workflows/publish.yml"))["jobs"]["build"]["steps"]
    (script,) = [step["run"] for step in steps if step.get("name") == "The tag is the version"]
    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    for tag, status in ((f"v{version}", 0), ("v0.0.0", 1)):
        environment = {"GITHUB_REF_NAME": tag, "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
        command = ["bash", "-ec", script]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr


@pytest.mark.parametrize("form", FORMS)
def test_a_form_asks_only_for_commands_that_exist(form: str) -> None:
    yaml = needs("yaml")
    body = yaml.safe_load(read(f".github/ISSUE_TEMPLATE/{form}"))["body"]
    named = set(re.findall(r"datago-gpu (\w+)", str(body)))
    assert named
    for name in named:
        assert (ROOT / "datago_gpu" / "cli" / f"{name}.py").exists()
    assert len({field["id"] for field in body}) == len(body)
