"""The pictures of README.md and docs/ are what their programs draw, and show nothing from elsewhere."""

from __future__ import annotations

import runpy
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"


def test_the_picture_of_buckets_is_what_its_program_draws() -> None:
    drawn = runpy.run_path(str(PICTURES / "buckets.py"))["draw"]()
    kept = Image.open(PICTURES / "buckets.jpg")
    assert kept.size == drawn.size
    assert np.abs(np.asarray(kept, np.int16) - np.asarray(drawn, np.int16)).mean() < 3


@pytest.mark.parametrize("name", sorted(path.name for path in PICTURES.glob("*.svg")))
def test_a_drawing_loads_nothing(name: str) -> None:
    text = (PICTURES / name).read_text()
    for element in ET.fromstring(text).iter():
        assert not element.tag.endswith(("image", "script", "foreignObject")), element.tag
        for key, value in element.attrib.items():
            assert not key.endswith("href") or value.startswith("#"), value
    assert "@import" not in text
    assert "url(http" not in text
