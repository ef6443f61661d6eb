"""Odd and bad files through the whole loader, on both back ends: shown as they should be, or skipped, and alone."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datago_gpu import Loader
from datago_gpu.batch import Sample
from tests.long import corpus
from tests.support.images import file_config
from tests.support.pictures import Pixels, difference, encode, oriented_jpeg, picture

ROOT = Path(__file__).parents[2]
SHOWN = picture(40, 64)
RGB = Image.fromarray(SHOWN)
GRAY = np.full((40, 64, 3), 128, np.uint8)


@pytest.fixture(scope="module", params=["pillow", "dali"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# Kinds of files, and the pixels that they show.


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[0x0112] = orientation
    return made


def sixteen_bits(channels: int) -> bytes:
    """A PNG of 16 bits, by hand: Pillow writes gray ones only."""
    levels = (SHOWN[..., :channels].astype(">u2") * 257).reshape(40, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in levels)
    return png(40, 64, 16, {1: 0, 3: 2}[channels], zlib.compress(rows))


def png(height: int, width: int, depth: int, colour: int, pixels: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    )


def half_clear_palette() -> tuple[bytes, Pixels]:
    """The left half is of an opaque colour, the right one of a transparent one."""
    image = Image.new("P", (64, 40))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(1, (32, 0, 64, 40))
    shown = GRAY.copy()
    shown[:, :32] = 10, 20, 30
    return encode(image, "PNG", transparency=1), shown


def cmyk(*, adobe: bool) -> bytes:
    payload = encode(RGB.convert("CMYK"), "JPEG", quality=100, subsampling=0)
    at = payload.index(b"\xff\xee\x00\x0eAdobe")
    return payload if adobe else payload[:at] + payload[at + 16 :]


def animated(kind: str) -> bytes:
    return encode(RGB, kind, save_all=True, append_images=[Image.new("RGB", (64, 40))], lossless=True, duration=100)


def lossless(kind: str, orientation: int) -> bytes:
    undo = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    turn = undo[orientation]
    return encode(RGB.transpose(turn) if turn is not None else RGB, kind, lossless=True, exif=exif(orientation))


ONE = np.full((1, 1, 3), (50, 100, 200), np.uint8)
LINE = picture(1, 5000)
HALF_CLEAR = half_clear_palette()
CLEAR = RGB.convert("RGBA")
CLEAR.putalpha(0)

FILES: dict[str, tuple[bytes, Pixels, float]] = {
    "1 x 1 PNG": (encode(ONE), ONE, 0),
    "1 x 1 JPEG": (encode(ONE, "JPEG", quality=100), ONE, 3),
    "1 x 1 WebP": (encode(ONE, "WEBP", lossless=True), ONE, 0),
    "1 x 5000": (encode(LINE), LINE, 0),
    "1 x 5000 JPEG": (encode(LINE, "JPEG", quality=95, subsampling=0), LINE, 3),
    "5000 x 1": (encode(LINE.transpose(1, 0, 2)), LINE.transpose(1, 0, 2), 0),
    "16 bits gray": (sixteen_bits(1), SHOWN[..., :1].repeat(3, axis=2), 0),
    "16 bits RGB": (sixteen_bits(3), SHOWN, 0),
    "palette with transparency": (*HALF_CLEAR, 0),
    "all transparent": (encode(CLEAR), GRAY, 0),
    "CMYK with Adobe marker": (cmyk(adobe=True), SHOWN, 3),
    "CMYK without Adobe marker": (cmyk(adobe=False), SHOWN, 3),
    **{f"EXIF {way} JPEG": (oriented_jpeg(SHOWN, way), SHOWN, 2) for way in range(1, 9)},
    **{f"EXIF {way} {kind}": (lossless(kind, way), SHOWN, 0) for way in (1, 3, 6, 8) for kind in ("PNG", "WEBP")},
    "ICC profile JPEG": (encode(RGB, "JPEG", quality=95, subsampling=0, icc_profile=bytes(5000)), SHOWN, 2),
    "ICC profile PNG": (encode(RGB, "PNG", icc_profile=b"a profile"), SHOWN, 0),
    "ICC profile WebP": (encode(RGB, "WEBP", lossless=True, icc_profile=b"a profile"), SHOWN, 0),
    "animated GIF": (animated("GIF"), SHOWN, 12),
    "animated WebP": (animated("WEBP"), SHOWN, 0),
    "animated PNG": (animated("PNG"), SHOWN, 0),
    "TGA": (encode(RGB, "TGA"), SHOWN, 0),
    "QOI": (encode(RGB, "QOI"), SHOWN, 0),
    "floating point": (encode(Image.fromarray(SHOWN[..., 0].astype(np.float32)), "TIFF"), SHOWN[..., :1], 0),
}
"""Name -> the file, the pixels, and by how much they may differ at the mean."""


def named(name: str) -> str:
    return name.replace(" ", "-") + ".jpg"  # it is the header that counts


def load(folder: Path, backend: str, **more: Any) -> tuple[dict[str, Sample], dict[str, int]]:
    """What is delivered, by id, and what is skipped, by reason."""
    with Loader(file_config(folder, arena_mb=32, batch_size=8, **more), device="cpu", backend=backend) as loader:
        return {sample.id: sample for sample in loader.samples()}, loader.stats().skipped


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    for name, (payload, _, _) in FILES.items():
        (folder / named(name)).write_bytes(payload)
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path, backend: str) -> dict[str, Sample]:
    samples, skipped = load(folder, backend, image={"crop_and_resize": False})
    assert not skipped
    return samples


@pytest.mark.parametrize("name", FILES)
def test_an_odd_file_shows_its_picture(whole: dict[str, Sample], name: str) -> None:
    _, shown, tolerance = FILES[name]
    image = whole[named(name)].image
    assert image.shape == (*shown.shape[:2], 3)
    assert difference(image, np.broadcast_to(shown, image.shape)).mean() <= tolerance


def test_odd_files_are_cut_to_their_buckets(folder: Path, backend: str, whole: dict[str, Sample]) -> None:
    samples, skipped = load(folder, backend)
    assert not skipped
    assert samples.keys() == whole.keys()
    upright = [samples[named(f"EXIF {way} JPEG")].image for way in range(1, 9)]
    assert all(difference(image, upright[0]).mean() <= 1 for image in upright)


BOMBS = {
    "png": png(50_000, 50_000, 8, 2, zlib.compress(bytes(100))),
    "jpeg": encode(RGB, "JPEG").replace(struct.pack(">HH", 40, 64), struct.pack(">HH", 65_500, 65_500), 1),
    "webp": encode(CLEAR, "WEBP", exact=True)[:24] + b"\xfe\x3f\0\xfe\x3f\0" + encode(CLEAR, "WEBP", exact=True)[30:],
    "bmp": encode(RGB, "BMP")[:18] + struct.pack("<ii", 60_000, 60_000) + encode(RGB, "BMP")[26:],
    "gif": b"GIF89a" + struct.pack("<HH", 65_000, 65_000) + encode(RGB, "GIF")[10:],
    "tga": encode(RGB, "TGA")[:12] + struct.pack("<HH", 65_000, 65_000) + encode(RGB, "TGA")[16:],
}
PEAK = """
import json, resource, sys
from datago_gpu import Loader
with Loader(json.loads(sys.argv[1]), device="cpu", backend=sys.argv[2]) as loader:
    ids = sorted(sample.id for sample in loader.samples())
    skipped = loader.stats().skipped
# Not ru_maxrss of this process, which begins with that of the one that started it: the test run.
ours = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
feeder = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps([ids, skipped, ours // 1024, feeder // 1024]))
"""


def test_bombs_are_refused_by_their_headers_before_memory_is_asked_for(tmp_path: Path, backend: str) -> None:
    for kind, bomb in BOMBS.items():
        (tmp_path / f"bomb-{kind}.jpg").write_bytes(bomb)
        (tmp_path / f"good-{kind}.png").write_bytes(encode(RGB))
    config = {"source_type": "file", "source_config": {"root_path": str(tmp_path)}}
    result = subprocess.run(
        [sys.executable, "-c", PEAK, json.dumps(config), backend], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    ids, skipped, ours_mb, feeder_mb = json.loads(result.stdout)
    assert skipped == {"too-many-pixels": len(BOMBS)}
    assert ids == [f"good-{kind}.png" for kind in sorted(BOMBS)]
    # 45 and 121 MB at the most, with the bombs; the smallest of them would take 800.
    assert feeder_mb < 200
    assert ours_mb < 500


@pytest.mark.timeout(120)
def test_odd_files_and_mutations_of_good_ones_cost_themselves_only(tmp_path: Path, backend: str) -> None:
    """No crash, no hang, no neighbour lost or changed, and 99% of what Pillow opens is delivered."""
    images = tmp_path / "source" / "Tests" / "images"
    images.mkdir(parents=True)
    for name, (payload, _, _) in FILES.items():
        (images / name).write_bytes(payload)
    options = ["--pillow-source", str(tmp_path / "source"), "--material", str(tmp_path), "--backend", backend]
    options += ["--mutations", "450", "--seed", "7", "--hang-s", "40"]
    command = [sys.executable, "-m", "tests.long.corpus", *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("passes") == 2
    assert f"Pillow's tests, {backend}: {len(FILES)} files, {len(FILES)} delivered" in result.stdout


def test_the_gates_fail_where_they_should() -> None:
    files = {"00-bad.jpg": True, "00-good-a.jpg": True, "01-good-a.jpg": True, "02-good-a.jpg": True}
    fine = dict.fromkeys(files, 1)

    def failed(**run: Any) -> str:
        return "; ".join(corpus.judge("a title", files, corpus.Run(**run))["failed"])

    assert not failed(delivered=fine)
    assert "crash" in failed(delivered=fine, crash="exit status -11")
    assert "hang" in failed(delivered=fine, hang=True)
    assert "1 neighbours lost or changed (02-good" in failed(delivered=fine | {"02-good-a.jpg": 2})
    rest = dict.fromkeys(list(files)[:3], 1)
    assert "1 neighbours lost or changed (02-good" in failed(delivered=rest, skipped={"02-good-a.jpg": "undecodable"})
    assert "1 neither delivered nor skipped" in failed(delivered=rest)
    rest = dict.fromkeys(list(files)[1:], 1)
    assert "share delivered 0.00%" in failed(delivered=rest, skipped={"00-bad.jpg": "undecodable: why"})


@pytest.mark.parametrize(
    "damage", [lambda payload: payload[:-400], lambda payload: payload[:900] + b"\xff" * 40 + payload[940:]]
)
def test_a_png_broken_behind_its_header_is_not_shown_in_part(
    tmp_path: Path, backend: str, damage: Callable[[bytes], bytes]
) -> None:
    whole = encode(CLEAR)
    (tmp_path / "bad.png").write_bytes(damage(whole))
    (tmp_path / "good.png").write_bytes(whole)
    with pytest.raises(OSError, match="image file"), Image.open(io.BytesIO(damage(whole))) as image:
        image.load()
    samples, skipped = load(tmp_path, backend)
    assert (list(samples), skipped) == (["good.png"], {"undecodable": 1})
