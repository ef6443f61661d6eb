"""What source_type "table" loads through an index is what the source itself has: ids, pixels, parts, attributes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from datago_gpu import Loader
from tests.index.test_folder_index import folder_config
from tests.index.test_shard_index import odd_files, samples, serve, shard_config
from tests.support.indexes import HASTY, make
from tests.support.pictures import encode, oriented_jpeg, picture
from tests.support.servers import MisbehavingServer
from tests.support.shards import tar_bytes

IMAGES = {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 16}


def table(out: Path, **more: Any) -> dict[str, Any]:
    return {"source_type": "table", "source_config": {"path": str(out)}, "http_config": HASTY, **more}


def contents(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
    """id -> all that a Loader delivers of a sample; and the skips."""
    config = {**config, "image_config": IMAGES, "batch_size": 5, "decode_config": {"processes": 0}}
    found = {}
    with Loader(config, device="cpu", backend="pillow") as loader:
        for sample in loader.samples():
            given = {**sample.masks, **sample.latents}
            parts = {name: np.asarray(part).tobytes() for name, part in given.items() if part is not None}
            record = (sample.attributes, sample.source, sample.tags, tuple(sample.original_size), parts)
            found[sample.id] = (np.asarray(sample.image).tobytes(), *record)
        skipped = loader.stats().skipped
    return found, skipped


def test_a_folder_and_its_index(tmp_path: Path) -> None:
    root, out = tmp_path / "photos", tmp_path / "x.arrow"
    (root / "sub").mkdir(parents=True)
    for number in range(7):
        (root / "sub" / f"{number}.jpg").write_bytes(oriented_jpeg(picture(40, 60 + number), 1 + number))
    (root / "bad.png").write_bytes(b"no picture")
    (root / "a.webp").write_bytes(encode(picture(50, 50), "WEBP"))
    make(folder_config(root), out)
    direct, skipped = contents(folder_config(root))
    assert contents(table(out)) == (direct, skipped)
    assert (len(direct), skipped) == (8, {"unknown-format": 1})


def test_shards_and_their_index(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes(odd_files()))
    (tmp_path / "b.tar").write_bytes(tar_bytes(samples(10, 14)))
    config = shard_config(tmp_path, masks=["mask.png"], latents=["npy"], optional=["mask.png", "npy"])
    make(config, tmp_path / "x.arrow")
    direct, skipped = contents(config)
    assert contents(table(tmp_path / "x.arrow")) == (direct, skipped)
    assert len(direct) > 7
    assert sum(skipped.values()) > 3


def test_remote_shards_are_read_sample_by_sample(tmp_path: Path) -> None:
    shards = {f"{number}.tar": tar_bytes(samples(number * 3, number * 3 + 3)) for number in range(2)}
    with MisbehavingServer() as server:
        config = shard_config(serve(server, shards), masks=["mask.png"])
        make(config, tmp_path / "x.arrow")
        direct = contents(config)
        server.requests.clear()
        shuffled = table(tmp_path / "x.arrow")
        shuffled["source_config"]["random_sampling"] = True
        assert contents(shuffled) == direct
        assert all(request.headers["range"] for request in server.requests)
        assert len(server.requests) >= 12


def test_an_index_gives_lockstep_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes(odd_files()))
    make(shard_config(tmp_path / "a.tar"), tmp_path / "x.arrow")
    config = table(tmp_path / "x.arrow", lockstep=True, image_config=IMAGES, batch_size=2)
    with Loader({**config, "decode_config": {"processes": 0}}, device="cpu", backend="pillow") as loader:
        steps, sizes = len(loader), [len(batch) for batch in loader]
    assert sizes == [2] * steps
