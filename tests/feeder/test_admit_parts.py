"""What goes with an image, as far as the tests of the loader do not see it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from datago_gpu.feeder.admit_parts import Frame, PartAdmission
from datago_gpu.sources.reference import Part
from tests.long.exif_blocks import exif_segment, good_blocks
from tests.support.images import file_config
from tests.support.pictures import encode, picture

IMPORTS_AT_ONCE = """
import io, sys, threading
from datago_gpu.config import LoaderConfig
from datago_gpu.feeder.admit_parts import Frame, PartAdmission
from datago_gpu.sources.reference import Part

assert "numpy" not in sys.modules
sys.setswitchinterval(1e-5)
with open(sys.argv[1], "rb") as file:
    array = file.read()
config = LoaderConfig.load({"source_type": "file", "source_config": {"root_path": "/"}})
part, frame = Part("vae", "latent"), Frame((8, 8), (0, 0, 8, 8), None)
imports = threading.Thread(target=lambda: __import__("datago_gpu.imaging.pixels"))
imports.start()
while "numpy" not in sys.modules:
    pass
print(PartAdmission(config).quick(part, array, frame).array.shape)
imports.join()
"""


def test_a_latent_is_read_while_a_thread_loads_numpy(tmp_path: Path) -> None:
    """A picture for Pillow and the first latent may come at the same moment: neither import gets half a module."""
    import numpy as np

    np.save(tmp_path / "a.npy", np.zeros((4, 8, 8), np.float16))
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS_AT_ONCE, str(tmp_path / "a.npy")],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("(4, 8, 8)\n", "")


def test_a_further_image_with_two_exif_segments_is_handed_on_with_a_plain_one() -> None:
    """DALI would crash on the file as it is."""
    jpeg, blocks = encode(picture(24, 40), "JPEG"), good_blocks()
    payload = jpeg[:2] + exif_segment(blocks[-1]) + exif_segment(blocks[0]) + jpeg[2:]
    frame = Frame((40, 24), (0, 0, 40, 24), None)
    part = PartAdmission(file_config("/")).quick(Part("edges", "image"), payload, frame)
    assert part is not None
    assert (part.orientation, part.size) == (8, (40, 24))
    assert part.payload.count(b"Exif\0\0") == 1
    assert len(part.payload) < len(payload)
