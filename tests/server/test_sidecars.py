"""The examples of a NAME.json in docs/sources/dataroom.md and in `serve --help` work as they stand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import datago_gpu
from datago_gpu import Loader
from datago_gpu.cli.serve import serve
from datago_gpu.server import DataroomServer
from tests.support.images import add_picture

PAGE = Path(datago_gpu.__file__).parent.parent / "docs" / "sources" / "dataroom.md"


def of_docs() -> Any:
    section = PAGE.read_text().partition("## The embedded server")[2]
    return json.loads(section.partition("```json")[2].partition("```")[0])


def of_help() -> Any:
    text = CliRunner().invoke(serve, ["--help"]).output
    found = re.search(r"\{.*\}\]\}", text, re.DOTALL)
    assert found
    return json.loads(found[0])


@pytest.mark.parametrize("sidecar", [of_docs(), of_help()], ids=["docs", "help"])
def test_the_example_gives_a_mask_a_further_image_and_a_latent(tmp_path: Path, sidecar: Any) -> None:
    add_picture(tmp_path / "a/cat.jpg", 64, 64)
    (tmp_path / "a/cat.json").write_text(json.dumps(sidecar))
    for latent in sidecar["latents"]:
        path = tmp_path / "a" / latent["file"]
        path.parent.mkdir()
        if path.suffix == ".npy":
            np.save(path, np.arange(6, dtype=np.float16).reshape(2, 3))
        else:
            add_picture(path, 64, 64, color=200)
    with DataroomServer(tmp_path, watch_interval_s=None) as server:
        assert len(server) == 1  # masks and further images are no samples of their own
        config = {
            "source_config": {
                "api_url": server.url,
                "api_key": server.key,
                "has_masks": "segmentation",
                "has_latents": "image_depth,vae",
                "attributes": "caption__match:cat",
                "tags": "indoor",
            },
            "image_config": {"crop_and_resize": True, "default_image_size": 64},
        }
        with Loader(config, device="cpu", backend="pillow") as loader:
            (batch,) = loader
    assert batch.ids == [sidecar.get("id", "cat")]
    assert batch.masks["segmentation"].shape == (1, 64, 64, 1)
    assert batch.additional_images["image_depth"].shape == (1, 64, 64, 3)
    assert batch.latents["vae"].tolist() == [[[0, 1, 2], [3, 4, 5]]]
    assert batch.attributes[0] == sidecar["attributes"]
