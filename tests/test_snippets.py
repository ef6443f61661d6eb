"""The Python and JSON of README.md, SKILL.md and docs/ work as they stand, on small data in place of their paths."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from PIL import Image

from datago_gpu import Loader, LoaderConfig
from datago_gpu.server import DataroomServer
from tests.support.images import SHAPES, add_pictures
from tests.support.needs import needs

ROOT = Path(__file__).parent.parent
RUN_ELSEWHERE = {
    "docs/frameworks.md": "tests/support/frameworks.py",
    "docs/metrics.md": "tests/metrics/test_documents.py",
    "docs/migrating.md": "tests/test_migrating.py",
    "docs/several-gpus.md": "tests/test_several_gpus.py",
}
"""Pages whose Python needs more than small data: several processes, servers of metrics, other loaders."""
SKILL = "datago_gpu/.agents/skills/datago-gpu/SKILL.md"
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (ROOT / "README.md", ROOT / SKILL, *(ROOT / "docs").rglob("*.md"))
}


def blocks(language: str) -> list[Any]:
    """The blocks of a language, of all pages that are not run elsewhere."""
    return [
        pytest.param(block, id=f"{page}-{number}")
        for page, text in sorted(PAGES.items())
        if page not in RUN_ELSEWHERE
        for number, block in enumerate(re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL))
    ]


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Dataroom whose images have the masks and latents that the docs name."""
    root, parts = tmp_path / "room", tmp_path / "room" / "parts"
    parts.mkdir(parents=True)
    names = {"segmentation": "mask.png", "image_depth": "depth.png", "vae": "vae.npy"}
    Image.new("L", (60, 40), 7).save(parts / "mask.png")
    Image.new("RGB", (60, 40), (7, 8, 9)).save(parts / "depth.png")
    np.save(parts / "vae.npy", np.zeros((4, 64, 64), np.float16))
    for name in add_pictures(root, [SHAPES[0]] * 3):
        latents = [
            {"latent_type": kind, "file": f"parts/{file}", "is_mask": kind == "segmentation"}
            for kind, file in names.items()
        ]
        (root / name).with_suffix(".json").write_text(json.dumps({"latents": latents}))
    with DataroomServer(root, watch_interval_s=None) as server:
        monkeypatch.setenv("DATAROOM_API_URL", server.url)
        monkeypatch.setenv("DATAROOM_API_KEY", server.key)
        yield


@pytest.mark.parametrize("block", blocks("python"))
def test_a_snippet_runs(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """A snippet that makes no loader is given one, and one that makes no config is given that of this loader."""
    torch = needs("torch")
    photos = tmp_path / "photos"
    add_pictures(photos, SHAPES * 3)
    for folder in ("train/daisy", "train/tulip", "val/tulip"):
        add_pictures(tmp_path / "flowers" / folder, SHAPES)
    if "has_masks" in block:
        request.getfixturevalue("room")
    monkeypatch.chdir(tmp_path)
    config = {"source_type": "file", "source_config": {"root_path": str(photos)}, "batch_size": 2}
    found: dict[str, Any] = {"config": config, "model": torch.nn.Linear(2, 2)}
    is_given = "loader." in block and "as loader" not in block
    with ExitStack() as stack:
        loader = stack.enter_context(Loader(config, device="cpu")) if is_given else None
        if loader:
            next(loader)
            found["loader"] = loader
        exec(block.replace("/data/photos", str(photos)).replace("/data/flowers", str(tmp_path / "flowers")), found)
    (LoaderConfig.load_for_rows if "source=rows" in block else LoaderConfig.load)(found["config"])
    if "batch" in found:
        assert len(found["batch"]) >= 1
    if "load_state_dict" in block:
        assert found["loader"] is not loader
        assert len(next(found["loader"])) == 2
    if "loader" in found:
        found["loader"].close()


@pytest.mark.parametrize("page", ["README.md", SKILL])
def test_each_source_that_a_page_lists_is_a_valid_config(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAROOM_API_URL", "http://localhost/api/")
    monkeypatch.setenv("DATAROOM_API_KEY", "k" * 40)
    rows = re.findall(r"^\| `\"(\w+)\"` \|.*\| `(\{.*\})` \|$", PAGES[page], re.MULTILINE)
    assert {kind for kind, _ in rows} >= {"file", "webdataset", "table", "db"}
    for kind, settings in rows:
        LoaderConfig.load({"source_type": kind, "source_config": json.loads(settings)})


@pytest.mark.parametrize("page", ["README.md", SKILL])
def test_each_command_that_a_page_shows_takes_these_arguments(page: str) -> None:
    lines = re.findall(r"^    datago-gpu (.*?)(?: +#.*)?$", PAGES[page], re.MULTILINE)
    assert len(lines) >= 5
    for line in lines:
        name, *arguments = shlex.split(line)
        command = getattr(import_module(f"datago_gpu.cli.{name}"), name)
        command.make_parser(click.Context(command)).parse_args(arguments)


def test_the_skill_says_what_tools_look_for() -> None:
    """The name is that of the folder: https://agentskills.io/specification."""
    _, front, text = PAGES[SKILL].split("---\n", 2)
    fields = dict(line.split(": ", 1) for line in front.splitlines())
    assert fields["name"] == (ROOT / SKILL).parent.name
    assert 100 < len(fields["description"]) <= 1024
    assert ": " not in fields["description"], "it would be no plain text in YAML"
    assert len(text.splitlines()) < 500


@pytest.mark.parametrize("block", blocks("json"))
def test_a_block_of_json_is_a_config_or_describes_an_image(block: str) -> None:
    """tests/server/test_sidecars.py loads the image that is described."""
    found = json.loads(block)
    if "source_type" in found:
        LoaderConfig.load(found)
    else:
        assert "latents" in found


def test_each_page_with_python_of_its_own_is_read_by_the_test_that_runs_it() -> None:
    for page, test in RUN_ELSEWHERE.items():
        assert "```python" in PAGES[page]
        assert Path(page).name in (ROOT / test).read_text()
