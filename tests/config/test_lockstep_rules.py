"""Which settings lockstep refuses, and what the error says to do."""

from __future__ import annotations

from typing import Any

import pytest

from datago_gpu.config import LoaderConfig
from datago_gpu.errors import ConfigError

GOOD = {"source_type": "db", "source_config": {}, "image_config": {"crop_and_resize": True}, "lockstep": True}


def test_a_dataroom_can_be_in_lockstep() -> None:
    assert LoaderConfig.load(GOOD).lockstep


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"source_type": "file", "source_config": {"root_path": "x"}}, "datago-gpu index CONFIG --out index.arrow"),
        ({"source_type": "webdataset", "source_config": {"url": "x.tar"}}, "datago-gpu index CONFIG --out index.arrow"),
        ({"image_config": {}}, "crop_and_resize false"),
        ({"image_config": {"crop_and_resize": True, "mixed_buckets": True}}, "mixed_buckets true"),
        ({"source_config": {"require_images": False}}, "require_images"),
        ({"source_config": {"random_sampling": True, "random_method": "server"}, "limit": 99}, "random_method"),
        ({"limit": 31}, "below batch_size"),
        ({"limit": 7, "batch_pixels": 1 << 21}, "limit .7. is below the 8 samples of the largest batch"),
        (
            {
                "image_config": {
                    "crop_and_resize": True,
                    "resolutions": range(3000, 3400, 40),
                    "downsampling_ratio": 1,
                    "min_aspect_ratio": 0.1,
                    "max_aspect_ratio": 10,
                }
            },
            "at most 32,767 buckets",
        ),
    ],
)
def test_settings_that_cannot_be_in_lockstep(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        LoaderConfig.load({**GOOD, **change})
    LoaderConfig.load({**GOOD, **change, "lockstep": False})
