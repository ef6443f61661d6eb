"""What becomes of each payload: admitted as it is, converted, or refused with a reason."""

from __future__ import annotations

import io
import resource
import struct
import threading
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from datago_gpu.feeder.admit import Admission
from datago_gpu.feeder.admitted import Admitted
from datago_gpu.imaging.geometry import cover_region
from datago_gpu.sources.reference import SampleRef, Skipped
from datago_gpu.sources.sample_info import SampleInfo
from tests.support.images import file_config
from tests.support.pictures import encode, oriented_jpeg, picture

REF = SampleRef(7, SampleInfo("an id"), path="/images/7.jpg")
SHOWN = picture(60, 90)
RGB = Image.fromarray(SHOWN)
BUCKET = (48, 80)
"""The nearest to 60 x 90 of the buckets of 64 px in steps of 16."""


def admission(**more: Any) -> Admission:
    return Admission(file_config("/images", **more))


def decide(payload: bytes, **more: Any) -> Admitted | Skipped:
    chosen = admission(**more)
    return chosen.quick(REF, payload) or chosen.thorough(REF, payload)


def png_header(height: int, width: int) -> bytes:
    """A PNG of these dimensions that ends properly and has hardly any pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )


def jpeg_header(height: int, width: int) -> bytes:
    small = encode(RGB, "JPEG")
    return small.replace(struct.pack(">HH", 60, 90), struct.pack(">HH", height, width), 1)


@pytest.mark.parametrize(
    "payload", [encode(RGB, "JPEG"), encode(RGB), encode(RGB, "WEBP")], ids=["JPEG", "PNG", "WebP"]
)
def test_what_decoders_take_passes_as_it_is(payload: bytes) -> None:
    admitted = admission().quick(REF, payload)
    assert isinstance(admitted, Admitted)
    assert admitted.payload is payload
    assert admitted.bucket == BUCKET
    assert admitted.size == admitted.original_size == (60, 90)
    assert admitted.region == admitted.crop == cover_region(60, 90, BUCKET)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_and_regions_are_those_of_the_upright_picture(orientation: int) -> None:
    admitted = admission().quick(REF, oriented_jpeg(SHOWN, orientation))
    assert isinstance(admitted, Admitted)
    assert admitted.orientation == orientation
    assert (admitted.size, admitted.bucket) == ((60, 90), BUCKET)
    assert admitted.region == cover_region(60, 90, BUCKET)


def test_without_crop_and_resize_all_of_the_picture_is_seen_and_there_is_no_bucket() -> None:
    for payload in (encode(RGB, "JPEG"), encode(RGB, "GIF")):
        admitted = decide(payload, image={"crop_and_resize": False})
        assert isinstance(admitted, Admitted)
        assert admitted.bucket is None
        assert admitted.size == admitted.original_size == (60, 90)
        assert admitted.region == admitted.crop == (0, 0, 60, 90)


REFUSED = {
    "no bytes": (b"", "empty", ""),
    "garbage": (b"\x01\x02garbage" * 50, "unknown-format", "begins with b'\\x01\\x02garbage"),
    "a page": (b"<!DOCTYPE html><html>Not found</html>", "unknown-format", "begins with b'<!DOCTYPE html>"),
    "EPS, for which Pillow starts a program": (b"%!PS-Adobe-3.0 EPSF-3.0\n" * 9, "unknown-format", "begins with"),
    "half a JPEG": (encode(RGB, "JPEG")[:1200], "undecodable", "OSError: image file is truncated"),
    "half a PNG": (encode(RGB)[:1200], "undecodable", "OSError: image file is truncated"),
    "half a WebP": (encode(RGB, "WEBP")[:200], "undecodable", ""),
    "half a GIF": (encode(RGB, "GIF")[:900], "undecodable", ""),
    "the start of a JPEG": (encode(RGB, "JPEG")[:20], "undecodable", ""),
    "PNG bomb": (png_header(50_000, 50_000), "too-many-pixels", "50000 x 50000, above decode_config.max_pixels (1000"),
    "JPEG bomb": (
        jpeg_header(65_500, 65_500),
        "too-many-pixels",
        "65500 x 65500, above decode_config.max_pixels (1000",
    ),
    "PNG bomb of no width": (png_header(50_000, 0), "undecodable", ""),
    "GIF bomb": (
        b"GIF89a" + struct.pack("<HH", 65_000, 65_000) + encode(RGB, "GIF")[10:],
        "too-many-pixels",
        "65000 x",
    ),
    "BMP bomb": (
        encode(RGB, "BMP")[:18] + struct.pack("<ii", 60_000, 60_000) + encode(RGB, "BMP")[26:],
        "too-many-pixels",
        "60000 x 60000",
    ),
}


@pytest.mark.parametrize(("payload", "reason", "detail"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_shown_is_skipped_with_its_reason(payload: bytes, reason: str, detail: str) -> None:
    skipped = decide(payload)
    assert isinstance(skipped, Skipped)
    assert (skipped.index, skipped.id, skipped.where) == (7, "an id", "/images/7.jpg")
    assert skipped.reason == reason
    assert skipped.detail.startswith(detail)


@pytest.mark.parametrize("name", [name for name in REFUSED if "bomb" in name])
def test_a_bomb_is_refused_without_taking_memory(name: str) -> None:
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    decide(REFUSED[name][0])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 100_000


def test_the_limit_on_pixels_is_a_setting_and_inclusive() -> None:
    for payload in (encode(RGB, "JPEG"), encode(RGB, "GIF")):
        assert isinstance(decide(payload, decode_config={"max_pixels": 60 * 90}), Admitted)
        skipped = decide(payload, decode_config={"max_pixels": 60 * 90 - 1})
        assert isinstance(skipped, Skipped)
        assert skipped.reason == "too-many-pixels"


def sixteen_bits() -> bytes:
    return encode(Image.fromarray(SHOWN[..., 0].astype(np.uint16) * 257))


def half_transparent() -> Image.Image:
    image = RGB.convert("RGBA")
    image.putalpha(128)
    return image


CONVERTED = {
    "GIF": (lambda: encode(RGB.convert("L"), "GIF"), SHOWN @ [0.299, 0.587, 0.114]),
    "BMP": (lambda: encode(RGB, "BMP"), SHOWN),
    "TIFF": (lambda: encode(RGB, "TIFF"), SHOWN),
    "lossless JPEG 2000": (lambda: encode(RGB, "JPEG2000"), SHOWN),
    "AVIF": (lambda: encode(RGB, "AVIF", quality=100, subsampling="4:4:4"), SHOWN),
    "PNG with alpha": (lambda: encode(half_transparent()), SHOWN * (128 / 255) + 128 * (127 / 255)),
    "WebP with alpha": (
        lambda: encode(half_transparent(), "WEBP", lossless=True, exact=True),
        SHOWN * (128 / 255) + 128 * (127 / 255),
    ),
    "PNG of 16 bits": (sixteen_bits, SHOWN[..., 0]),
    "CMYK JPEG": (lambda: encode(RGB.convert("CMYK"), "JPEG", quality=100, subsampling=0), SHOWN),
}


@pytest.mark.parametrize(("make", "shown"), CONVERTED.values(), ids=CONVERTED)
def test_what_decoders_would_refuse_or_show_otherwise_is_converted_to_the_bucket(make: Any, shown: Any) -> None:
    payload = make()
    assert admission().quick(REF, payload) is None
    admitted = admission().thorough(REF, payload)
    assert isinstance(admitted, Admitted)
    assert admitted.bucket == admitted.size == BUCKET
    assert admitted.region == (0, 0, *BUCKET)
    assert admitted.orientation == 1
    assert admitted.original_size == (60, 90)
    assert admitted.crop == cover_region(60, 90, BUCKET)
    got = np.asarray(Image.open(io.BytesIO(admitted.payload)).convert("RGB"), np.float64)
    assert got.shape == (*BUCKET, 3)
    whole = Image.fromarray(np.broadcast_to(np.atleast_3d(shown), (60, 90, 3)).round().astype(np.uint8))
    top, left, height, width = admitted.crop
    box = (left, top, left + width, top + height)
    wanted = np.asarray(whole.resize(BUCKET[::-1], Image.Resampling.LANCZOS, box), np.float64)
    assert np.abs(got - wanted).mean() < 2.5


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_what_is_converted_stands_upright(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    admitted = decide(encode(RGB.transpose(Image.Transpose.ROTATE_90), kind, exif=exif, lossless=True))
    assert isinstance(admitted, Admitted)
    assert (admitted.original_size, admitted.size, admitted.orientation) == ((60, 90), BUCKET, 1)


def test_pixels_that_do_not_fit_into_half_the_arena_are_refused() -> None:
    payload = encode(Image.new("L", (700, 700)), "GIF")  # 1.4 MB of RGB, of which half of 2 MB holds no 1.05
    skipped = decide(payload, image={"crop_and_resize": False})
    assert isinstance(skipped, Skipped)
    assert (skipped.reason, skipped.detail) == (
        "too-large",
        f"{700 * 700 * 3 + len(b'P6 700 700 255 ')} bytes of pixels do not fit into half of arena_mb",
    )
    assert isinstance(decide(payload), Admitted)  # cut to its bucket it is small


def test_many_threads_may_ask_at_once() -> None:
    chosen, payload = admission(), encode(RGB, "GIF")
    first = chosen.thorough(REF, payload)
    results: list[Admitted | Skipped] = []
    threads = [threading.Thread(target=lambda: results.append(chosen.thorough(REF, payload))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [first] * 8


SEEDS = [encode(RGB, kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF")]


@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6),
    st.integers(0, 4000) | st.none(),
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_a_damaged_image_is_admitted_or_skipped_and_never_raises(
    payload: bytes, changes: list[tuple[int, int]], cut: int | None
) -> None:
    damaged = bytearray(payload)
    for at, value in changes:
        damaged[at % len(damaged)] = value
    outcome = decide(bytes(damaged[:cut]), decode_config={"max_pixels": 1_000_000})
    if isinstance(outcome, Admitted):
        top, left, height, width = outcome.region
        assert 0 <= top <= top + height <= outcome.size[0] + 1e-6
        assert 0 <= left <= left + width <= outcome.size[1] + 1e-6
        assert outcome.size[0] * outcome.size[1] <= 1_000_000


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
@pytest.mark.parametrize(
    ("size", "planned", "shown"),
    [((60, 90), (48, 80), True), ((60, 90), (64, 64), True), ((60, 120), (64, 64), True), ((60, 130), (64, 64), False)],
)
def test_a_planned_bucket_stays_unless_it_hides_most_of_the_picture(
    kind: str, size: tuple[int, int], planned: tuple[int, int], shown: bool
) -> None:
    chosen, payload = admission(), encode(picture(*size), kind)
    ref = SampleRef(7, SampleInfo("an id"), path="/images/7.jpg", size=(77, 77), bucket=planned)
    outcome = chosen.quick(ref, payload) or chosen.thorough(ref, payload)
    if not shown:
        assert isinstance(outcome, Skipped)
        assert outcome.reason == "other-shape"
        assert "60 x 130, but listed as 77 x 77" in outcome.detail
        return
    assert isinstance(outcome, Admitted)
    assert (outcome.bucket, outcome.crop) == (planned, pytest.approx(cover_region(*size, planned)))


def test_a_shape_beyond_all_buckets_is_no_other_shape() -> None:
    """Its bucket hides most of it, but so it does without a plan."""
    ref = SampleRef(7, SampleInfo("an id"), path="/images/7.jpg", bucket=(32, 128))
    wide = admission(image={"min_aspect_ratio": 0.25, "max_aspect_ratio": 4})
    assert isinstance(wide.quick(ref, encode(picture(20, 300), "JPEG")), Admitted)


RANDOM = {"crop": "random_resized", "crop_scale": [0.2, 0.4], "flip": 0.5}


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_a_random_region_is_that_of_the_id_and_the_epoch(kind: str) -> None:
    """The same whether the header is enough or Pillow decodes."""
    payload = encode(picture(60, 90), kind)
    chosen = admission(image=RANDOM)

    def seen(name: str, epoch: int = 0, pass_number: int | None = None, **more: Any) -> tuple[Any, ...]:
        ref = SampleRef(9, SampleInfo(name, pass_number=pass_number), path="/images/7.jpg", epoch=epoch)
        use = admission(image=RANDOM, **more) if more else chosen
        outcome = use.quick(ref, payload) or use.thorough(ref, payload)
        assert isinstance(outcome, Admitted)
        assert outcome.bucket == BUCKET
        return outcome.crop, outcome.flipped

    shown = [seen("a", epoch) for epoch in range(20)]
    assert len({crop for crop, _ in shown}) == 20
    assert {flipped for _, flipped in shown} == {True, False}
    assert all(0.15 < crop[2] * crop[3] / (60 * 90) < 0.45 for crop, _ in shown)
    assert seen("a", 3, batch_size=7) == shown[3]
    assert seen("a", 7, pass_number=3) == shown[3]  # in a mix, the pass through the own source counts
    assert seen("b", 3) != shown[3]
    assert seen("a", 3, seed=1) != shown[3]


def test_a_flip_changes_no_region_and_a_crop_no_flip() -> None:
    payload = encode(RGB, "JPEG")

    def seen(image: dict[str, Any], epoch: int) -> Admitted:
        outcome = admission(image=image).quick(SampleRef(7, SampleInfo("a"), epoch=epoch), payload)
        assert isinstance(outcome, Admitted)
        return outcome

    for epoch in range(10):
        both, never = seen(RANDOM, epoch), seen(RANDOM | {"flip": 0}, epoch)
        assert both.crop == never.crop
        assert not never.flipped
        assert both.flipped == seen({"flip": 0.5}, epoch).flipped
        assert both.flipped == seen({"flip": 0.5, "crop_and_resize": False}, epoch).flipped
        assert seen(RANDOM | {"flip": 1}, epoch).flipped


@pytest.mark.parametrize("crop", ["random", "random_resized"])
@pytest.mark.parametrize(("width", "shown"), [(120, True), (130, False)])
def test_a_planned_bucket_is_judged_by_what_the_largest_region_would_show(crop: str, width: int, shown: bool) -> None:
    """A random region may be small in any case: that does not count against the bucket."""
    for name in "abcdefgh":
        ref = SampleRef(7, SampleInfo(name), path="/images/7.jpg", size=(77, 77), bucket=(64, 64))
        outcome = admission(image={"crop": crop}).quick(ref, encode(picture(60, width), "JPEG"))
        assert isinstance(outcome, Admitted) == shown
        assert isinstance(outcome, Admitted) or outcome.reason == "other-shape"
