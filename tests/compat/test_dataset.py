"""DatagoIterDataset: by itself, in a DataLoader of torch, and what it says where that cannot work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datago_gpu.compat import DatagoIterDataset
from datago_gpu.errors import ConfigError
from tests.support.images import add_pictures
from tests.support.needs import needs


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    add_pictures(tmp_path, [(40, 40)] * 6)
    source = {"root_path": str(tmp_path)}
    return {"source_type": "file", "source_config": source, "limit": 5, "samples_buffer_size": 4}


def test_each_loop_is_a_pass(config: dict[str, Any]) -> None:
    dataset = DatagoIterDataset(config)
    assert len(dataset) == 5
    first = next(iter(dataset))
    ids = [first["id"], *(sample["id"] for sample in dataset)]  # a loop that was left goes on
    assert len(set(ids)) == 5
    assert [sample["id"] for sample in dataset] == ids
    dataset.client.stop()


def test_a_data_loader_takes_it(config: dict[str, Any]) -> None:
    data = needs("torch").utils.data
    dataset = DatagoIterDataset(config)
    loader = data.DataLoader(dataset, batch_size=None)
    for _ in range(2):
        samples = list(loader)
        assert len({sample["id"] for sample in samples}) == 5
        assert all(isinstance(sample["image"], Image.Image) for sample in samples)
    batches = list(data.DataLoader(DatagoIterDataset(config), batch_size=2, collate_fn=list))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    dataset.client.stop()


def test_workers_of_a_data_loader_are_refused(config: dict[str, Any]) -> None:
    data = needs("torch").utils.data
    dataset = DatagoIterDataset(config)
    dataset.client.stop()
    loader = data.DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="fork")
    with pytest.raises(ConfigError, match="num_workers must be 0"):
        list(loader)


def test_an_index_is_refused_with_what_to_do(config: dict[str, Any]) -> None:
    dataset = DatagoIterDataset(config)
    dataset.client.stop()
    with pytest.raises(TypeError, match="LoaderDataset"):
        dataset[0]
