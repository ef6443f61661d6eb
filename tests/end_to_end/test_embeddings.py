"""Embeddings in batches: each sample has its own, whatever is odd about others."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datago_gpu import Loader
from datago_gpu.server import DataroomServer
from tests.support.images import add_pictures, file_config

COUNT = 9


def add_samples(root: Path, odd: set[int]) -> None:
    """Pictures with embeddings of 3 numbers, the odd ones of 5."""
    for number, name in enumerate(add_pictures(root, [(40, 40)] * COUNT)):
        vector = [float(number)] * (5 if number in odd else 3)
        (root / name).with_suffix(".json").write_text(json.dumps({"coca_embedding": vector}))


def settings_for(server: DataroomServer, root: Path, *, batch_size: int = 2, **source: Any) -> dict[str, Any]:
    like = file_config(root)
    source |= {"api_url": server.url, "api_key": server.key, "require_embeddings": True}
    settings = {"source_type": "db", "source_config": source, "batch_size": batch_size, "arena_mb": 2}
    return settings | {"image_config": like.image_config, "http_config": like.http_config}


@pytest.mark.parametrize("batch_size", [2, 3])
@pytest.mark.parametrize("odd", [{0}, {4, 5, 8}])
def test_rows_are_those_of_their_samples(tmp_path: Path, odd: set[int], batch_size: int) -> None:
    add_samples(tmp_path, odd)
    with DataroomServer(tmp_path, payload_port=0) as server:
        settings = settings_for(server, tmp_path, batch_size=batch_size)
        with Loader(settings, device="cpu", backend="pillow") as loader:
            batches = list(loader)
            assert loader.stats().skipped == {"bad-entry": len(odd)}
    rows = np.concatenate([batch.embeddings for batch in batches])
    expected = [number for number in range(COUNT) if number not in odd]
    assert rows.tolist() == [[float(number)] * 3 for number in expected]


@pytest.mark.parametrize("more", [{}, {"random_sampling": True, "shuffle_buffer": 3}], ids=["listed", "shuffled"])
def test_the_samples_that_a_run_begins_with_do_not_decide_how_long_an_embedding_is(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    """Here they are odd ones: at the start, on the second rank, and behind each state."""
    odd = {0, 1, 4, 5}
    add_samples(tmp_path, odd)
    found = []
    with DataroomServer(tmp_path, payload_port=0) as server:
        for rank in range(2):
            settings = settings_for(
                server, tmp_path, batch_size=1, page_size=1, rank=rank, world_size=2, check_count=False, **more
            )
            state = None
            while True:
                with Loader(settings, device="cpu", backend="pillow", state=state) as loader:
                    some = list(islice(loader.samples(), 2))
                    state = loader.state_dict()
                if not some:
                    break
                found += [sample.embedding.tolist() for sample in some]
    assert sorted(found) == [[float(number)] * 3 for number in range(COUNT) if number not in odd]
