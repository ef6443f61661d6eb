"""The state of a stream: a Loader can begin from it, and refuses what is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from datago_gpu import ConfigError, Loader
from tests.images import SHAPES, add_pictures, file_config


def test_a_loader_begins_from_a_state(tmp_path: Path) -> None:
    add_pictures(tmp_path, [SHAPES[number % 3] for number in range(14)])
    config = file_config(tmp_path)
    with Loader(config, device="cpu", backend="pillow") as loader:
        next(loader)
        state = loader.state_dict()
        rest = [batch.ids for batch in loader]
    with Loader(config, device="cpu", backend="pillow", state=state) as loader:
        assert loader.state_dict() == state
        assert [batch.ids for batch in loader] == rest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": None}, "its order is a NoneType"),
        ({"resume": 3}, "not the state of a Loader"),
        ({"version": 2}, "version 2, this package reads 1"),
    ],
)
def test_what_is_no_state_is_refused_before_anything_starts(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    config = file_config(tmp_path)
    with Loader(config, device="cpu", backend="pillow") as loader:
        state = loader.state_dict() | change
    with pytest.raises(ConfigError, match=message):
        Loader(config, device="cpu", backend="pillow", state=state)
