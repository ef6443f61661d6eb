"""What docs/migrating.md says of this package runs as it stands there, on pictures in place of its paths."""

from __future__ import annotations

import json
import re
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from datago_gpu import LoaderConfig
from tests.support.images import SHAPES, add_pictures
from tests.support.needs import needs

PAGE = (Path(__file__).parent.parent / "docs" / "migrating.md").read_text()
OURS = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if block.count("from datago_gpu")]


@pytest.fixture
def material(tmp_path: Path) -> dict[str, str]:
    """The paths of the page, and what stands for them here."""
    photos, shards = tmp_path / "photos" / "class", tmp_path / "shards"
    names = add_pictures(photos, [SHAPES[number % 3] for number in range(12)])
    shards.mkdir()
    for number in range(2):
        with tarfile.open(shards / f"{number:06}.tar", "w") as shard:
            for name in names[number::2]:
                _add(shard, name, (photos / name).read_bytes())
                _add(shard, name.replace(".jpg", ".json"), json.dumps({"caption": name}).encode())
    return {
        '"/data/photos"': repr(str(photos.parent)),
        '"shards/{000000..000009}.tar"': repr(str(shards / "{000000..000001}.tar")),
        '"batch_size": 64': '"batch_size": 4',
    }


def _add(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    shard.addfile(member, BytesIO(content))


def test_every_config_of_the_page_is_one() -> None:
    assert len(OURS) == 4
    for block in OURS:
        found: dict[str, Any] = {}
        exec(re.search(r"^config = \{\n.*?^\}", block, re.DOTALL | re.MULTILINE)[0], found)  # type: ignore[index]
        LoaderConfig.load(found["config"])


@pytest.mark.parametrize("block", [block for block in OURS if "datago_gpu.torch" in block])
def test_the_snippets_run(block: str, material: dict[str, str]) -> None:
    torch = needs("torch")
    for name, here in material.items():
        block = block.replace(name, here)
    found: dict[str, Any] = {}
    exec(block, found)
    image = found["batch"]["image"]
    assert image.shape[0] == 4
    if "layout" not in block:
        assert image.shape[3] == 3
        assert all(meta["caption"] for meta in found["metas"])
    else:
        assert image.shape[1:] in ((3, 224, 224), (3, 512, 512))
        assert image.dtype == torch.float32
