"""Embeddings in batches: each sample has its own, whatever is odd about others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from datago_gpu import Loader
from datago_gpu.server import DataroomServer
from tests.images import add_pictures, file_config

COUNT = 9


@pytest.mark.parametrize("batch_size", [2, 3])
@pytest.mark.parametrize("odd", [{0}, {4, 5, 8}])
def test_rows_are_those_of_their_samples(tmp_path: Path, odd: set[int], batch_size: int) -> None:
    for number, name in enumerate(add_pictures(tmp_path, [(40, 40)] * COUNT)):
        vector = [float(number)] * (5 if number in odd else 3)
        (tmp_path / name).with_suffix(".json").write_text(json.dumps({"coca_embedding": vector}))
    like = file_config(tmp_path)
    with DataroomServer(tmp_path, payload_port=0) as server:
        source = {"api_url": server.url, "api_key": server.key, "require_embeddings": True}
        settings = {"source_type": "db", "source_config": source, "batch_size": batch_size, "arena_mb": 2}
        settings |= {"image_config": like.image_config, "http_config": like.http_config}
        with Loader(settings, device="cpu", backend="pillow") as loader:
            batches = list(loader)
            assert loader.stats().skipped == {"bad-entry": len(odd)}
    rows = np.concatenate([batch.embeddings for batch in batches])
    expected = [number for number in range(COUNT) if number not in odd]
    assert rows.tolist() == [[float(number)] * 3 for number in expected]
