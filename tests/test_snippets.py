"""The Python of README.md and docs/guide.md runs as it stands there, on small data in place of its paths."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
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
ADDRESS = "https://github.com/datago-gpu/datago-gpu/blob/main/"
BLOCKS = [
    pytest.param(block, id=f"{page}-{number}")
    for page in ("README.md", "docs/guide.md")
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL))
]


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Dataroom whose images have the masks and latents that the guide names."""
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


@pytest.mark.usefixtures("room")
@pytest.mark.parametrize("block", BLOCKS)
def test_a_snippet_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = needs("torch")
    photos = tmp_path / "photos"
    add_pictures(photos, SHAPES * 3)
    for folder in ("train/daisy", "train/tulip", "val/tulip"):
        add_pictures(tmp_path / "flowers" / folder, SHAPES)
    monkeypatch.chdir(tmp_path)
    config = {"source_type": "file", "source_config": {"root_path": str(photos)}, "batch_size": 2}
    with Loader(config, device="cpu") as loader:
        next(loader)
        found: dict[str, Any] = {"config": config, "loader": loader, "model": torch.nn.Linear(2, 2)}
        exec(block.replace("/data/photos", str(photos)).replace("/data/flowers", str(tmp_path / "flowers")), found)
    (LoaderConfig.load_for_rows if "source=rows" in block else LoaderConfig.load)(found["config"])
    if "batch" in found:
        assert len(found["batch"]) >= 1
    if found["loader"] is not loader and "load_state_dict" in block:
        assert len(next(found["loader"])) == 2
    found["loader"].close()


def test_each_source_that_the_readme_lists_is_a_valid_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAROOM_API_URL", "http://localhost/api/")
    monkeypatch.setenv("DATAROOM_API_KEY", "k" * 40)
    rows = re.findall(r"^\| `\"(\w+)\"` \|.*\| `(\{.*\})` \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert {kind for kind, _ in rows} == {"file", "webdataset", "table", "db"}
    for kind, settings in rows:
        LoaderConfig.load({"source_type": kind, "source_config": json.loads(settings)})


def test_each_command_that_the_readme_shows_takes_these_arguments() -> None:
    lines = re.findall(r"^    datago-gpu (.*?)(?: +#.*)?$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(lines) >= 5
    for line in lines:
        name, *arguments = shlex.split(line)
        command = getattr(import_module(f"datago_gpu.cli.{name}"), name)
        command.make_parser(click.Context(command)).parse_args(arguments)


def test_links_of_the_readme_lead_somewhere_also_where_pypi_shows_it() -> None:
    text = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 10
    headings = {re.sub(r"\W+", "-", title.lower()) for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
    for link in links:
        if link.startswith("#"):
            assert link[1:] in headings
        else:
            assert link.startswith("https://"), f"{link} is dead on PyPI"
            if link.startswith(ADDRESS):
                assert (ROOT / link.removeprefix(ADDRESS).partition("#")[0]).exists(), link
