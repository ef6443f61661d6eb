"""The real datago package streams from the server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from datago_gpu.server import DataroomServer
from tests.server.conftest import KEY, add_image
from tests.support.needs import needs

needs("datago")

STREAM = """
import json, sys
from datago import DatagoClient

client = DatagoClient(sys.argv[1])
samples = []
while (sample := client.get_sample()) is not None and sample.id:
    samples.append({
        "id": sample.id, "source": sample.source, "attributes": sample.attributes, "tags": sample.tags,
        "size": [sample.image.width, sample.image.height], "latents": sorted(sample.latents),
        "masks": sorted(sample.masks), "embedding": list(sample.coca_embedding),
    })
client.stop()
print(json.dumps(samples))
"""


def stream(server: DataroomServer, limit: int, **source: object) -> list[dict[str, object]]:
    config = {
        "source_type": "db",
        "source_config": {"sources": "", "page_size": 7, "require_images": True, **source},
        "limit": limit,
        "num_downloaders": 2,
        "samples_buffer_size": 8,
    }
    environment = {"DATAROOM_API_URL": server.url, "DATAROOM_API_KEY": KEY, "DATAGO_MAX_TASKS": "4", "RUST_LOG": "off"}
    done = subprocess.run(
        [sys.executable, "-c", STREAM, json.dumps(config)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: list[dict[str, object]] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataroomServer]:
    root = tmp_path_factory.mktemp("datago")
    for number in range(20):
        sidecar = {
            "source": "even" if number % 2 == 0 else "odd",
            "attributes": {"number": number},
            "tags": ["first"] if number < 5 else [],
            "coca_embedding": [0.6, 0.8],
            "latents": [
                {"latent_type": "vae", "file": f"latents/{number}.npy"},
                {"latent_type": "fg", "file": f"masks/{number}.png", "is_mask": True},
            ],
        }
        add_image(root / f"image{number:02}.jpg", (40 + number, 30), sidecar, color=number)
        (root / "latents").mkdir(exist_ok=True)
        (root / f"latents/{number}.npy").write_bytes(b"latent")
        add_image(root / f"masks/{number}.png", (40 + number, 30))
    with DataroomServer(root, key=KEY, payload_port=0, watch_interval_s=None) as running:
        yield running


def test_datago_streams_every_image(server: DataroomServer) -> None:
    samples = stream(server, 20)
    assert sorted(sample["id"] for sample in samples) == [f"image{number:02}" for number in range(20)]
    for sample in samples:
        number = int(str(sample["id"]).removeprefix("image"))
        assert sample["size"] == [40 + number, 30]
        assert sample["source"] == ("odd" if number % 2 else "even")
        assert sample["tags"] == (["first"] if number < 5 else [])


def test_datago_filters_and_fetches_latents_masks_and_embeddings(server: DataroomServer) -> None:
    samples = stream(
        server, 3, sources="even", tags="first", has_latents="vae", has_masks="fg", require_embeddings=True,
        attributes="number__gte:0",
    )  # fmt: skip
    assert sorted(sample["id"] for sample in samples) == ["image00", "image02", "image04"]
    for sample in samples:
        assert (sample["latents"], sample["masks"]) == (["vae"], ["fg"])
        assert sample["embedding"] == pytest.approx([0.6, 0.8])


def test_datago_ranks_partition_the_images(server: DataroomServer) -> None:
    shares = [stream(server, 20, rank=rank, world_size=2) for rank in range(2)]
    together = sorted(sample["id"] for share in shares for sample in share)
    assert together == [f"image{number:02}" for number in range(20)]


def test_datago_gets_random_samples_of_a_small_folder(server: DataroomServer) -> None:
    """It asks for one page."""
    samples = stream(server, 7, random_sampling=True)
    assert len({sample["id"] for sample in samples}) == 7
    few = stream(server, 3, random_sampling=True, sources="even", tags="first")
    assert sorted(sample["id"] for sample in few) == ["image00", "image02", "image04"]
