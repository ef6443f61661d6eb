"""Masks, further images and latents through the whole loader: from the same region as the image, or skipped."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datago_gpu import Batch, Loader
from datago_gpu.decoders.select import Backend, choose
from datago_gpu.server import DataroomServer
from tests.support.listing import KEY, Listing, names
from tests.support.pictures import on_host, oriented_jpeg
from tests.support.servers import Answer, MisbehavingServer

PILLOW = choose("cpu", "pillow")
SHAPES = [(120, 90), (90, 160), (100, 100), (77, 131), (200, 64), (64, 190), (101, 99), (150, 80)]
"""(height, width) of the images; some are cut at the sides, some at top and bottom."""


def coordinates(height: int, width: int) -> np.ndarray:
    """A picture that carries its own coordinates: red grows across, green downwards; blue is constant."""
    y, x = (np.arange(size, dtype=np.float32) + 0.5 for size in (height, width))
    planes = np.broadcast_arrays(x * 255 / width, (y * 255 / height)[:, None], np.float32(77))
    return np.stack(planes, -1).round().astype(np.uint8)


class Folder:
    """Images for the embedded server, each with what goes with it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.latents: dict[str, list[dict[str, Any]]] = {}

    def image(self, name: str, height: int, width: int) -> None:
        Image.fromarray(coordinates(height, width)).save(self.root / f"{name}.png")
        self.latents[name] = []

    def add(self, name: str, kind: str, payload: bytes | Image.Image | np.ndarray, *, mask: bool = False) -> None:
        file = f"{name}.{kind}.bin"
        if isinstance(payload, bytes):
            (self.root / file).write_bytes(payload)
        elif isinstance(payload, np.ndarray):
            with open(self.root / file, "wb") as opened:
                np.save(opened, payload)
        else:
            payload.save(self.root / file, "PNG")
        self.latents[name].append({"latent_type": kind, "file": file, "is_mask": mask})

    def serve(self) -> DataroomServer:
        for name, latents in self.latents.items():
            (self.root / f"{name}.json").write_text(json.dumps({"latents": latents}))
        return DataroomServer(self.root)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path)
    for number, shape in enumerate(SHAPES):
        made.image(f"{number:02}", *shape)
    return made


def load(folder: Folder, backend: Backend, **more: Any) -> tuple[list[Batch], dict[str, int]]:
    with folder.serve() as server:
        config = {
            "source_config": {"api_url": server.url, "api_key": server.key, **more.pop("source", {})},
            "image_config": {
                "crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 16, **more.pop("image", {})
            },
            "batch_size": 4,
            **more,
        }  # fmt: skip
        with Loader(config, device=backend.device, backend=backend.name) as loader:
            return [hosted(batch) for batch in loader], dict(loader.stats().skipped)


def hosted(batch: Batch) -> Batch:
    """The batch with all its arrays in numpy's hands, to be looked at."""
    for named in (batch.masks, batch.additional_images, batch.latents):
        named.update({name: _hosted(value) for name, value in named.items()})
    batch.image, batch.embeddings = _hosted(batch.image), _hosted(batch.embeddings)
    return batch


def _hosted(value: Any) -> Any:
    if isinstance(value, list):
        return [_hosted(each) for each in value]
    return value if value is None or isinstance(value, bytes) else on_host(value)


def by_id(batches: list[Batch]) -> dict[str, Any]:
    return {sample.id: sample for batch in batches for sample in batch}


@pytest.mark.parametrize("layout", ["HWC", "CHW"])
@pytest.mark.parametrize("scale", [1, 2.5, 0.5])
def test_masks_and_images_show_the_same_region(folder: Folder, backend: Backend, scale: float, layout: str) -> None:
    """The mask is the picture's red channel, the further image the picture itself, both of another size."""
    for number, (height, width) in enumerate(SHAPES):
        pixels = Image.fromarray(coordinates(round(height * scale), round(width * scale)))
        folder.add(f"{number:02}", "seg", pixels.getchannel("R"), mask=True)
        folder.add(f"{number:02}", "image_again", pixels)
    wanted = {"has_masks": "seg", "has_latents": "image_again"}
    batches, skipped = load(folder, backend, source=wanted, image={"layout": layout})
    assert skipped == {}
    assert sorted(name for batch in batches for name in batch.ids) == [f"{number:02}" for number in range(len(SHAPES))]
    for batch in batches:
        height, width = batch.bucket or (0, 0)
        image, mask, again = batch.image, batch.masks["seg"], batch.additional_images["image_again"]
        if layout == "CHW":
            image, mask, again = (array.transpose(0, 2, 3, 1) for array in (image, mask, again))
        assert image.shape == again.shape == (len(batch), height, width, 3)
        assert (mask.shape, mask.dtype) == ((len(batch), height, width, 1), np.uint8)
        inside = np.s_[:, 4:-4, 4:-4]  # at the edges Lanczos sees less of the one than of the other
        # A mask is not smoothed: it may be off by half a pixel of its own, which has up to 255 / 32 levels.
        assert np.abs(image[inside][..., :1].astype(int) - mask[inside]).max() <= 8
        assert np.abs(image[inside][..., :1].astype(int) - mask[inside]).mean() <= 2
        assert np.abs(image[inside].astype(int) - again[inside]).max() <= 6
        assert np.abs(image[inside].astype(int) - again[inside]).mean() <= 1
        assert batch.present["seg"].all()


def test_nearest_keeps_labels_and_lanczos_does_not(folder: Folder, backend: Backend) -> None:
    """Labels of a coloured palette come as numbers, those of a gray one as gray."""
    labels = np.random.default_rng(0).integers(0, 5, (80, 70), dtype=np.uint8)
    coloured = Image.fromarray(labels, "P")
    coloured.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    gray = Image.fromarray(labels, "P")
    gray.putpalette([level for value in (0, 60, 120, 180, 240) for level in (value,) * 3])
    for number in range(len(SHAPES)):
        folder.add(f"{number:02}", "labels", coloured, mask=True)
        folder.add(f"{number:02}", "plain", Image.fromarray(labels), mask=True)
        folder.add(f"{number:02}", "gray", gray, mask=True)
        folder.add(f"{number:02}", "bits", Image.fromarray(labels > 2), mask=True)
    source = {"has_masks": "labels,plain,gray,bits"}
    for sample in by_id(load(folder, backend, source=source)[0]).values():
        assert set(np.unique(sample.masks["labels"])) == {0, 1, 2, 3, 4}
        # Palettes go through Pillow in the feeder. Of two pixels that are equally near DALI may take the other.
        same = (sample.masks["labels"] == sample.masks["plain"]).mean()
        assert same == 1 if backend.name == "pillow" else same > 0.9
        assert np.array_equal(sample.masks["labels"] * 60, sample.masks["gray"])
        assert np.array_equal((sample.masks["labels"] > 2) * 255, sample.masks["bits"])
    smoothed = by_id(load(folder, backend, source=source, image={"mask_interpolation": "lanczos"})[0])
    assert len(np.unique(smoothed["00"].masks["gray"])) > 20


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_a_further_image_is_applied(folder: Folder, backend: Backend, orientation: int) -> None:
    for number, shape in enumerate(SHAPES):
        folder.add(f"{number:02}", "image_jpeg", oriented_jpeg(coordinates(*shape), orientation))
    batches, skipped = load(folder, backend, source={"has_latents": "image_jpeg"})
    assert skipped == {}
    for batch in batches:
        difference = np.abs(batch.image.astype(int) - batch.additional_images["image_jpeg"])
        assert difference.mean() <= 3, "JPEG at 4:4:4 keeps coordinates to within its quantisation"


def test_without_crops_masks_keep_their_own_sizes(folder: Folder, backend: Backend) -> None:
    for number, (height, width) in enumerate(SHAPES):
        folder.add(f"{number:02}", "seg", Image.new("L", (width * 2, height * 3), number), mask=True)
    samples = by_id(load(folder, backend, source={"has_masks": "seg"}, image={"crop_and_resize": False})[0])
    for number, (height, width) in enumerate(SHAPES):
        sample = samples[f"{number:02}"]
        assert sample.image.shape == (height, width, 3)
        assert sample.masks["seg"].shape == (height * 3, width * 2, 1)
        assert (sample.masks["seg"] == number).all()


def test_optional_ones_may_be_missing(folder: Folder, backend: Backend) -> None:
    for number in range(0, len(SHAPES), 2):
        folder.add(f"{number:02}", "seg", Image.new("L", (20, 20), 9), mask=True)
        folder.add(f"{number:02}", "vae", np.full((2, 3), number, np.float32))
    source = {"optional_masks": "seg,none_has_it", "optional_latents": "vae"}
    batches, skipped = load(folder, backend, source=source)
    assert skipped == {}
    assert len(by_id(batches)) == len(SHAPES)
    for batch in batches:
        there = np.array([int(name) % 2 == 0 for name in batch.ids])
        for name in ("seg", "vae"):
            assert np.array_equal(batch.present[name], there)
        assert batch.masks["none_has_it"] is None
        assert not batch.present["none_has_it"].any()
        if batch.masks["seg"] is not None:
            assert np.array_equal(batch.masks["seg"].max(axis=(1, 2, 3)), there * 9)
        for sample, has in zip(batch, there, strict=True):
            assert (sample.masks["seg"] is not None) == has
            assert sample.masks["none_has_it"] is None
            assert not has or (sample.latents["vae"] == int(sample.id)).all()
            assert has or sample.latents["vae"] is None


BAD: dict[str, Callable[[Folder, str], None]] = {
    "a mask that is no image": lambda folder, name: folder.add(name, "seg", b"<html>", mask=True),
    "a cut mask": lambda folder, name: folder.add(name, "seg", _png()[:-30], mask=True),
    "an empty mask": lambda folder, name: folder.add(name, "seg", b"", mask=True),
    "a mask that is a bomb": lambda folder, name: folder.add(name, "seg", _bomb(), mask=True),
    "a mask with damaged pixels": lambda folder, name: folder.add(name, "seg", _damaged(), mask=True),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_mask_costs_its_sample_and_no_other(folder: Folder, backend: Backend, bad: str) -> None:
    for number in range(len(SHAPES)):
        if number != 2:
            folder.add(f"{number:02}", "seg", Image.new("L", (30, 30), number), mask=True)
    BAD[bad](folder, "02")
    batches, skipped = load(folder, backend, source={"has_masks": "seg"})
    assert sum(skipped.values()) == 1
    samples = by_id(batches)
    assert sorted(samples) == [f"{number:02}" for number in range(len(SHAPES)) if number != 2]
    for name, sample in samples.items():
        assert (sample.masks["seg"] == int(name)).all(), "the others keep their own masks"
        assert np.abs(sample.image[..., 2].astype(int) - 77).max() <= 1


def test_latents_come_as_arrays_lists_or_bytes(folder: Folder, backend: Backend) -> None:
    for number in range(len(SHAPES)):
        name = f"{number:02}"
        folder.add(name, "even", np.full((4, 8, 8), number, np.float16))
        folder.add(name, "fortran", np.asfortranarray(np.arange(6).reshape(2, 3) + number))
        folder.add(name, "big_endian", np.arange(3, dtype=">f4") * number)
        folder.add(name, "ragged", np.full(number + 1, number, np.int32))
        folder.add(name, "scalar", np.array(number, np.float64))
        folder.add(name, "nothing", np.zeros((0, 5), np.uint8))
        folder.add(name, "text", f"number {number}".encode())
    kinds = "even,fortran,big_endian,ragged,scalar,nothing,text"
    batches, skipped = load(folder, backend, source={"has_latents": kinds})
    assert skipped == {}
    for batch in batches:
        numbers, latents = np.array([int(name) for name in batch.ids]), batch.latents
        assert (latents["even"].shape, latents["even"].dtype) == ((len(batch), 4, 8, 8), np.float16)
        assert np.array_equal(latents["even"][:, 0, 0, 0], numbers)
        assert np.array_equal(latents["fortran"], np.arange(6).reshape(2, 3) + numbers[:, None, None])
        assert latents["big_endian"].dtype == np.dtype("=f4")
        assert np.array_equal(latents["big_endian"][:, 2], 2 * numbers)
        assert [array.tolist() for array in latents["ragged"]] == [[number] * (number + 1) for number in numbers]
        assert np.array_equal(latents["scalar"], numbers)
        assert latents["nothing"].shape == (len(batch), 0, 5)
        assert latents["text"] == [f"number {number}".encode() for number in numbers]


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("a pickle was loaded",))


def _header(text: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


BAD_ARRAYS: dict[str, Any] = {
    "pickled objects": np.array([_Evil()], dtype=object),
    "a structured dtype": np.zeros(3, [("a", "f4"), ("b", "O")]),
    "too short": _header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }\n") + bytes(16),
    "too long": _header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n") + bytes(16),
    "negative": _header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-4,), }\n") + bytes(16),
    "an endless header": b"\x93NUMPY\x02\x00" + (2**31).to_bytes(4, "little") + bytes(16),
    "code": _header(b"{'descr': __import__('os').system('x'), 'fortran_order': False, 'shape': (4,), }\n") + bytes(16),
    "another version": b"\x93NUMPY\x09\x00" + bytes(40),
}


@pytest.mark.parametrize("bad", BAD_ARRAYS)
def test_a_bad_array_costs_its_sample_and_loads_no_pickle(
    folder: Folder, bad: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for number in range(len(SHAPES)):
        if number != 2:
            folder.add(f"{number:02}", "vae", np.full((2, 2), number, np.float32))
    given = BAD_ARRAYS[bad]
    if isinstance(given, np.ndarray):
        with open(folder.root / "02.vae.bin", "wb") as file:
            np.save(file, given, allow_pickle=True)
        given = (folder.root / "02.vae.bin").read_bytes()
    folder.add("02", "vae", given)
    batches, skipped = load(folder, PILLOW, source={"has_latents": "vae"})
    assert sum(skipped.values()) == 1
    assert len(by_id(batches)) == len(SHAPES) - 1
    assert "pickle" not in capfd.readouterr().out


def test_latents_alone_without_any_image(folder: Folder, backend: Backend) -> None:
    for number in range(len(SHAPES)):
        folder.add(f"{number:02}", "vae", np.full((4, 4), number, np.float32))
    source = {"has_latents": "vae", "require_images": False}
    with folder.serve() as server:
        config = {"source_config": {"api_url": server.url, "api_key": server.key, **source}, "batch_size": 3}
        with Loader(config, device=backend.device, backend=backend.name) as loader:
            batches = [hosted(batch) for batch in loader]
    assert [len(batch) for batch in batches] == [3, 3, 2]
    for batch in batches:
        assert batch.image is None
        assert batch[0].image is None
        assert "image=none" in repr(batch)
        assert np.array_equal(batch.latents["vae"][:, 0, 0], [int(name) for name in batch.ids])


@pytest.fixture
def listing() -> Iterator[Listing]:
    with MisbehavingServer() as server:
        yield Listing(server, names(12))


@pytest.mark.parametrize(("answer", "reason"), [(Answer(404), "http-404"), (Answer(410), "http-410")])
@pytest.mark.parametrize("kind", ["seg", "image_2", "vae"])
@pytest.mark.parametrize("optional", [False, True])
def test_a_payload_that_is_gone_costs_its_sample_unless_it_is_optional(
    listing: Listing, answer: Answer, reason: str, kind: str, optional: bool
) -> None:
    server = listing.server
    png = _png()
    for name, entry in listing.entries.items():
        server.script(f"/files/{name}", Answer(200, png))
        server.script(f"/{kind}/{name}", answer if name == "im-00005" else Answer(200, png))
        entry["image_direct_url"] = f"{server.url}/files/{name}"
        url = f"{server.url}/{kind}/{name}?signature=abc"
        entry["latents"] = [{"latent_type": kind, "file_direct_url": url, "is_mask": kind == "seg"}]
    setting = ("optional_" if optional else "has_") + ("masks" if kind == "seg" else "latents")
    config = {
        "source_config": {"api_url": listing.api_url, "api_key": KEY, setting: kind},
        "image_config": {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 16},
    }
    with Loader(config, device="cpu", backend="pillow") as loader:
        delivered = [name for batch in loader for name in batch.ids]
    lost = [] if optional else ["im-00005"]
    assert delivered == [name for name in names(12) if name not in lost]
    assert loader.stats().skipped == ({} if optional else {reason: 1})
    assert all("authorization" not in request.headers for request in server.requests if "/api/" not in request.path)


ODD_ENTRIES = [
    ({"latents": None}, "no-mask"),
    ({"latents": []}, "no-mask"),
    ({"latents": [{"latent_type": "other", "file_direct_url": "http://127.0.0.1:1/x", "is_mask": True}]}, "no-mask"),
    ({"latents": [{"latent_type": "seg", "file_direct_url": None, "is_mask": True}]}, "no-url"),
    ({"latents": [{"latent_type": "seg", "file_direct_url": "file:///etc/passwd", "is_mask": True}]}, "bad-url"),
    ({"latents": [{"file_direct_url": "http://127.0.0.1:1/x"}]}, "bad-entry"),
    ({"latents": "seg"}, "bad-entry"),
]


@pytest.mark.parametrize(("odd", "reason"), ODD_ENTRIES, ids=[str(odd)[:40] for odd, _ in ODD_ENTRIES])
def test_a_sample_that_lacks_its_mask_is_skipped_with_the_reason(
    listing: Listing, odd: dict[str, Any], reason: str
) -> None:
    server, png = listing.server, _png()
    server.script("/file", Answer(200, png))
    for name, entry in listing.entries.items():
        entry["image_direct_url"] = server.url + "/file"
        entry["latents"] = [{"latent_type": "seg", "file_direct_url": server.url + "/file", "is_mask": True}]
        if name == "im-00005":
            entry.update(odd)
    config = {"source_config": {"api_url": listing.api_url, "api_key": KEY, "has_masks": "seg"}}
    with Loader(config, device="cpu", backend="pillow") as loader:
        delivered = [name for batch in loader for name in batch.ids]
    assert delivered == [name for name in names(12) if name != "im-00005"]
    assert loader.stats().skipped == {reason: 1}


def _png(height: int = 40, width: int = 50) -> bytes:
    file = io.BytesIO()
    Image.fromarray(coordinates(height, width)[..., 0]).save(file, "PNG")
    return file.getvalue()


def _damaged() -> bytes:
    """A PNG whose header and end are fine and whose pixels cannot be unpacked."""
    png = _png()
    at = png.index(b"IDAT") + 8
    return png[:at] + bytes(20) + png[at + 20 :]


def _bomb() -> bytes:
    png = bytearray(_png())
    png[16:24] = (50_000).to_bytes(4, "big") * 2
    return bytes(png)
