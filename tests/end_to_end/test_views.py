"""`image_config.views`, in whole runs. tests/decoders/test_views.py looks at the pixels in detail."""

from __future__ import annotations

import io
import json
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from datago_gpu import Batch, ConfigError, ImageConfig, Loader, LoaderConfig, Row, decode
from datago_gpu.doctor.memory import MemorySum
from datago_gpu.feeder.region_choice import RegionChoice
from datago_gpu.sources.reference import SampleRef
from datago_gpu.sources.sample_info import SampleInfo
from tests.end_to_end.test_flip import files_of
from tests.support.needs import needs
from tests.support.shards import tar_bytes

SEED, COUNT = 11, 18
LARGE = {"default_image_size": 64, "crop": "random_resized", "crop_scale": [0.32, 1.0], "flip": 0.5}
SMALL = {"default_image_size": 32, "crop": "random_resized", "crop_scale": [0.05, 0.32], "flip": 0.5}
DINO = [LARGE, LARGE, SMALL, SMALL, SMALL]
IMAGES: dict[str, Any] = {"crop_and_resize": True, "downsampling_ratio": 16, "views": DINO}
WAYS = [("pillow", 0), ("pillow", 2), ("dali", 0)]


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of many kinds (some reach DALI as pixels only), each with a mask and another picture."""
    path = tmp_path_factory.mktemp("shards") / "0.tar"
    path.write_bytes(tar_bytes([(f"{n:02}.{name}", data) for n in range(COUNT) for name, data in files_of(n).items()]))
    return path


def config_of(shard: Path, image: dict[str, Any] | None = None, **more: Any) -> LoaderConfig:
    source = {"url": str(shard), "masks": "seg.png", "additional_images": "other.jpg", **more.pop("source", {})}
    return LoaderConfig.load(
        {
            "source_type": "webdataset",
            "source_config": source,
            "image_config": IMAGES | (image or {}),
            "decode_config": {"processes": 0, "threads": 1, "draft": False, **more.pop("decode", {})},
            "batch_size": 5,
            "seed": SEED,
            "arena_mb": 8,
            "http_config": {"max_payload_mb": 4},
            **more,
        }
    )


@cache
def load(config: LoaderConfig, backend: str = "pillow") -> list[Batch]:
    """What a run delivers, which no test changes: several tests look at the same runs."""
    with Loader(config, device="cpu", backend=backend) as loader:
        return list(loader)


def shown(batches: list[Batch]) -> dict[tuple[int, str], list[NDArray[Any]]]:
    """Epoch and id of each sample -> its views."""
    return {(each.epoch, each.id): [np.array(view) for view in each.views] for batch in batches for each in batch}


@pytest.mark.parametrize(("backend", "processes"), WAYS)
def test_each_view_is_dense_and_the_first_is_the_image(shard: Path, backend: str, processes: int) -> None:
    config = config_of(shard, decode={"processes": processes})
    batches = load(config, backend)
    assert sum(map(len, batches)) == COUNT
    for batch in batches:
        assert batch.bucket is not None
        assert len(batch.views) == len(batch.view_crops) == len(batch.view_flipped) == len(DINO)
        assert batch.image is batch.views[0]
        assert (batch.crops is batch.view_crops[0], batch.flipped is batch.view_flipped[0]) == (True, True)
        for number, view in enumerate(batch.views):
            assert view.shape == (len(batch), *config.image_config.view_bucket(number, batch.bucket), 3)
            assert batch.view_crops[number].shape == (len(batch), 4)
        assert batch.views[1].shape == batch.image.shape
        assert batch.views[2].shape[1] <= 64
        for name, parts in (("seg.png", batch.masks), ("other.jpg", batch.additional_images)):
            assert parts[name].shape[:3] == batch.image.shape[:3]


def test_all_ways_show_the_same_regions_and_nearly_the_same_pixels(shard: Path) -> None:
    threads, processes, dali = (load(config_of(shard, decode={"processes": n}), name) for name, n in WAYS)
    for ours, others, theirs in zip(threads, processes, dali, strict=True):
        assert ours.ids == others.ids == theirs.ids
        for number in range(len(DINO)):
            assert np.array_equal(ours.views[number], others.views[number])
            assert np.array_equal(ours.view_crops[number], theirs.view_crops[number])
            assert np.array_equal(ours.view_flipped[number], theirs.view_flipped[number])
            assert np.abs(ours.views[number].astype(int) - theirs.views[number]).mean() <= 1.5
    assert all(np.array_equal(a.masks["seg.png"], b.masks["seg.png"]) for a, b in zip(threads, dali, strict=True))


@pytest.mark.parametrize("backend", ["pillow", "dali"])
def test_the_first_view_masks_and_further_images_are_those_of_a_run_with_it_alone(shard: Path, backend: str) -> None:
    """Also where the feeder decodes a picture itself, and sends all views in one picture."""
    many, one = load(config_of(shard), backend), load(config_of(shard, LARGE | {"views": None}), backend)
    for batch, alone in zip(many, one, strict=True):
        assert (batch.ids, batch.bucket, alone.views[1:]) == (alone.ids, alone.bucket, [])
        assert np.array_equal(batch.image, alone.image)
        assert np.array_equal(batch.masks["seg.png"], alone.masks["seg.png"])
        assert np.array_equal(batch.additional_images["other.jpg"], alone.additional_images["other.jpg"])


def test_views_draw_their_regions_each_by_its_number(shard: Path) -> None:
    config = config_of(shard, {"min_aspect_ratio": 1.0, "max_aspect_ratio": 1.0})
    choices = [RegionChoice(config.image_config.of_view(view), SEED, view) for view in range(len(DINO))]
    seen = set()
    for batch in load(config):
        for sample in batch:
            ref = SampleRef(0, SampleInfo(sample.id), epoch=sample.epoch)
            for view, choose_region in enumerate(choices):
                size = sample.views[view].shape[:2]
                region, flipped = choose_region(ref, *sample.original_size, size)
                assert sample.view_crops[view] == tuple(np.float32(region).tolist())
                assert sample.view_flipped[view] == flipped
                seen.add((sample.id, region, flipped))
    assert len(seen) > 0.9 * len(DINO) * COUNT


@pytest.mark.parametrize("stop", [1, 7, 22])
def test_a_resumed_run_shows_the_same_views(shard: Path, stop: int) -> None:
    config = config_of(shard, source={"random_sampling": True}, epochs=2, decode={"processes": 1})
    whole = shown(load(config))
    with Loader(config, device="cpu", backend="pillow") as loader:
        samples = loader.samples()
        begun = [(each.epoch, each.id) for each in (next(samples) for _ in range(stop))]
        state = json.loads(json.dumps(loader.state_dict()))
    with Loader(config, device="cpu", backend="pillow", state=state) as loader:
        rest = shown(list(loader))
    assert len(rest) == len(whole) - len(begun)
    assert all(np.array_equal(ours, whole[key][view]) for key, views in rest.items() for view, ours in enumerate(views))


def test_any_number_of_ranks_shows_the_same_views(shard: Path) -> None:
    whole, found = shown(load(config_of(shard))), {}
    for rank in range(3):
        found |= shown(load(config_of(shard, source={"rank": rank, "world_size": 3})))
    assert found.keys() == whole.keys()
    assert all(
        np.array_equal(ours, found[key][view]) for key, views in whole.items() for view, ours in enumerate(views)
    )


@pytest.mark.parametrize(("backend", "processes"), WAYS)
def test_every_form_of_an_image_is_a_form_of_a_view(shard: Path, backend: str, processes: int) -> None:
    torch = needs("torch")
    from datago_gpu.torch import as_tensors

    form = {"layout": "CHW", "dtype": "bfloat16", "mean": [0.5, 0.4, 0.5]}
    plain = shown(load(config_of(shard), backend))
    for batch in load(config_of(shard, form, decode={"processes": processes}), backend):
        tensors = as_tensors(batch)
        assert tensors["views"][0] is tensors["image"]
        assert len(tensors["view_crops"]) == len(tensors["view_flipped"]) == len(DINO)
        for number, view in enumerate(tensors["views"]):
            assert (view.dtype, view.shape[:2]) == (torch.bfloat16, (len(batch), 3))
            levels = np.stack([plain[batch.epoch, name][number] for name in batch.ids]).astype(np.float32)
            wanted = (levels / 255 - np.array([0.5, 0.4, 0.5], np.float32)).transpose(0, 3, 1, 2)
            assert torch.allclose(view.float(), torch.from_numpy(wanted), atol=2**-8)


def test_slices_samples_and_copies_have_their_views(shard: Path) -> None:
    batch = load(config_of(shard))[0]
    cut, copied = batch[1:4], pickle.loads(pickle.dumps(batch))
    assert cut.image is cut.views[0]
    for number, view in enumerate(batch.views):
        assert np.array_equal(cut.views[number], view[1:4])
        assert np.shares_memory(cut.views[number], view)
        assert np.array_equal(copied.views[number], view)
        sample = batch[-1]
        assert np.array_equal(sample.views[number], view[-1])
        assert sample.view_crops[number] == tuple(batch.view_crops[number][-1].tolist())
        assert sample.view_flipped[number] is bool(batch.view_flipped[number][-1])


def test_points_are_mapped_to_each_view(shard: Path) -> None:
    batch = load(config_of(shard))[0]
    for view in range(len(DINO)):
        height, width = batch.views[view].shape[1:3]
        crops, flipped = batch.view_crops[view], batch.view_flipped[view]
        corner = np.stack([crops[:, 1], crops[:, 0]], axis=1)[:, None]
        wanted = np.where(flipped[:, None], [[width, 0.0]], [[0.0, 0.0]])[:, None]
        assert np.allclose(batch.to_image(corner, view=view), wanted, atol=1e-3)
        points = np.array([[[3.0, 5.0], [width / 2, height / 2]]] * len(batch))
        assert np.allclose(batch.to_image(batch.from_image(points, view=view), view=view), points, atol=1e-3)
        assert np.allclose(batch[1].from_image(points[1], view=view), batch.from_image(points, view=view)[1])


def test_a_loader_dataset_hands_over_views(shard: Path) -> None:
    needs("torch")
    from torch.utils.data import DataLoader

    from datago_gpu.torch import LoaderDataset

    wanted = load(config_of(shard))
    found = list(DataLoader(LoaderDataset(config_of(shard), device="cpu", backend="pillow"), batch_size=None))
    for tensors, batch in zip(found, wanted, strict=True):
        assert [view.shape for view in tensors["views"]] == [view.shape for view in batch.views]
        assert all(np.array_equal(a.numpy(), b) for a, b in zip(tensors["views"], batch.views, strict=True))


def test_a_run_of_one_view_has_no_further_tensors(shard: Path) -> None:
    needs("torch")
    from datago_gpu.torch import as_tensors

    batch = load(config_of(shard, {"views": None}))[0]
    assert batch.views[0] is batch.image
    assert not {"views", "view_crops", "view_flipped", "further_views"} & as_tensors(batch).keys()


@pytest.mark.parametrize("processes", [0, 1])
def test_a_bad_picture_costs_itself_in_every_view(tmp_path: Path, processes: int) -> None:
    for number in range(6):
        Image.effect_noise((64, 64), 50).convert("RGB").save(tmp_path / f"{number}.jpg")
    path = tmp_path / "3.jpg"
    path.write_bytes(path.read_bytes()[:600] + b"\xff\xd9")
    image = IMAGES | {"min_aspect_ratio": 1.0, "max_aspect_ratio": 1.0}
    config = {"source_type": "file", "source_config": {"root_path": str(tmp_path)}, "image_config": image}
    decode = {"decode_config": {"processes": processes, "threads": 1}}
    with Loader(LoaderConfig.load(config | decode), device="cpu", backend="pillow") as loader:
        (batch,) = loader
        assert loader.stats().skipped == {"undecodable": 1}
    assert batch.ids == [f"{number}.jpg" for number in (0, 1, 2, 4, 5)]
    assert [len(view) for view in batch.views] == [5] * len(DINO)
    assert [len(crops) for crops in batch.view_crops] == [5] * len(DINO)


def encoded(*pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), pixels).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(("backend", "processes"), WAYS)
def test_places_are_filled_in_every_view_in_lockstep(backend: str, processes: int) -> None:
    """The second batch has a bad sample, the third has no good one: it is gray."""
    payloads = [*(encoded(40 * n, 0, 0) for n in range(4)), b"no image", *(encoded(40 * n, 0, 9) for n in range(3))]
    rows = [Row(str(at), payload, 64, 64) for at, payload in enumerate([*payloads, *[b"no image"] * 4])]
    image = IMAGES | {"min_aspect_ratio": 1.0, "max_aspect_ratio": 1.0}
    config = {"image_config": image, "batch_size": 4, "lockstep": True, "decode_config": {"processes": processes}}
    with Loader(config, device="cpu", backend=backend, source=rows) as loader:
        batches = list(loader)
        assert loader.shapes() == [(4, 64, 64)]
    assert [batch.real.tolist() for batch in batches] == [[True] * 4, [False, *[True] * 3], [False] * 4]
    for batch in batches:
        assert [view.shape for view in batch.views] == [(4, 64, 64, 3)] * 2 + [(4, 32, 32, 3)] * 3
        for view in batch.views:
            assert np.abs(view.mean((1, 2)) - batch.image.mean((1, 2))).max() <= 1  # pictures of one colour
    assert (batches[2].views[3] == 128).all()
    assert batches[2].view_crops[3].tolist() == [[0, 0, 0, 0]] * 4


VIEW = st.fixed_dictionaries(
    {"default_image_size": st.integers(2, 10).map(lambda n: 8 * n)},
    optional={
        "crop": st.just("centre"),
        "flip": st.sampled_from([0, 1]),
        "min_aspect_ratio": st.just(0.5),
        "max_aspect_ratio": st.floats(1, 3),
    },
)
PICTURES = [files_of(number)["jpg"] for number in range(6)]


@given(st.lists(VIEW, min_size=1, max_size=6), st.integers(0, 5), st.sampled_from(["pillow", "dali"]))
@settings(max_examples=20)
def test_views_of_any_number_and_size_are_those_of_single_calls(views: Any, number: int, backend: str) -> None:
    """Centred and mirrored always or never, so that nothing depends on the number of the view."""
    common = {"crop_and_resize": True, "downsampling_ratio": 8}
    image = ImageConfig(**common, views=views)
    exact = {"draft": False}
    batch = decode([PICTURES[number]], image, "cpu", backend, decode_config=exact)
    assert batch.bucket is not None
    assert len(batch.views) == len(views)
    for at, pixels in enumerate(batch.views):
        bucket = image.view_bucket(at, batch.bucket)
        assert pixels.shape == (1, *bucket, 3)
        alone = decode([PICTURES[number]], image.of_view(at), "cpu", backend, decode_config=exact)
        if alone.bucket == bucket:  # a view follows the shape of the first one's bucket
            assert np.array_equal(pixels, alone.image)
            assert np.array_equal(batch.view_crops[at], alone.crops)


def test_memory_that_is_shared_holds_all_views(shard: Path) -> None:
    """The doctor's sum counts them, and batches that the trainer keeps lie in shared memory."""
    config = config_of(shard, decode={"processes": 1}, samples_buffer_size=5)
    with Loader(config, device="cpu", backend="pillow") as loader:
        kept = list(loader)
    assert not any(view.flags.owndata for batch in kept[:2] for view in batch.views)
    one = config_of(shard, LARGE | {"views": None}, decode={"processes": 1}, samples_buffer_size=5)
    pixels = {
        name: MemorySum.of(each, "pillow").shared["decoded batches"] for name, each in (("many", config), ("one", one))
    }
    largest = max(height * width for height, width in one.bucket_choice().sizes)
    assert pixels["many"] >= pixels["one"] + (64**2 + 3 * 30**2) * 5 * 3
    assert pixels["one"] % largest == 0


@pytest.mark.parametrize("dtype", ["uint8", "bfloat16"])
def test_a_view_that_is_kept_stays_as_it_is(shard: Path, dtype: str) -> None:
    """Its memory, which decode processes share, is used again only once no view of the batch is left."""
    config = config_of(shard, {"dtype": dtype}, decode={"processes": 1}, samples_buffer_size=1, epochs=6)
    kept: list[tuple[NDArray[Any], NDArray[Any]]] = []
    with Loader(config, device="cpu", backend="pillow") as loader:
        for number, batch in enumerate(loader):
            if number % 4 == 0:
                view = batch.views[number // 4 % len(DINO)]
                kept.append((view, view.copy()))
            del batch
    assert len(kept) > len(DINO)
    assert all(np.array_equal(view, copied) for view, copied in kept)


REFUSED = [
    ({"crop_and_resize": False}, "views makes a dense array of each view, which needs crop_and_resize true"),
    ({"image_to_rgb8": False}, "which needs image_to_rgb8 true: set it so, or leave views out"),
    ({"pre_encode_images": True}, "which needs pre_encode_images false: set it so, or leave views out"),
    ({"mixed_buckets": True}, "which needs mixed_buckets false: set it so, or leave views out"),
    ({"views": []}, "image_config.views must have 1 to 64 views, got 0: leave views out for one view of each image"),
    ({"views": {}}, "image_config.views must be a list of dicts or None, got dict"),
    ({"views": [{}, 3]}, "image_config.views[1] must be a dict, got int"),
    ({"views": [{}, {"layout": "CHW"}]}, "unknown key image_config.views[1].layout; a view may have default_image"),
    ({"views": [{}, {"crop": "left"}]}, "image_config.views[1].crop must be 'centre', 'random', 'random_resized' or"),
    ({"views": [{"crop_scale": [0.1, 1]}]}, "image_config.views[0].crop_scale and crop_aspect need crop 'random_res"),
    ({"views": [{"default_image_size": 8}]}, "image_config.views[0]: no bucket of 8 px in steps of 16"),
    ({"views": [{"min_aspect_ratio": 3}]}, "image_config.views[0].min_aspect_ratio (3.0) is above max_aspect_ratio"),
]  # fmt: skip


@pytest.mark.parametrize(("image", "words"), REFUSED)
def test_what_cannot_be_is_refused_with_a_way_out(image: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ImageConfig(**(IMAGES | image))
    assert words in str(caught.value)


def test_a_single_call_refuses_pictures_of_different_buckets() -> None:
    pictures = [encoded(1, 2, 3), files_of(1)["jpg"]]
    with pytest.raises(ConfigError, match=r"these images have different buckets: give min_aspect_ratio and max_aspect"):
        decode(pictures, IMAGES, "cpu", "pillow")
    batch = decode(pictures, IMAGES | {"min_aspect_ratio": 1.0, "max_aspect_ratio": 1.0}, "cpu", "pillow")
    assert [view.shape for view in batch.views] == [(2, 64, 64, 3)] * 2 + [(2, 32, 32, 3)] * 3


def test_settings_of_views_survive_the_way_to_the_feeder() -> None:
    image = ImageConfig(**IMAGES)
    assert msgspec.json.decode(msgspec.json.encode(image), type=ImageConfig) == image
    assert hash(image) == hash(ImageConfig(**IMAGES))
