"""Tests of `datago_gpu.jax` on eight devices of the CPU.

Run by test_jax.py in a process of their own: JAX starts threads, which would disturb all tests that fork.
"""

from __future__ import annotations

import doctest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

import datago_gpu
from datago_gpu import Batch, ConfigError, Loader, Row
from datago_gpu.index.build import build_index
from datago_gpu.jax import FIELDS, rank_and_world_size, sharded
from tests.support.frameworks import blocks
from tests.support.images import SHAPES, add_pictures, file_config, small_jpeg

Arrays = dict[str, Any]
P = PartitionSpec
LINE = Mesh(np.array(jax.devices()), ("data",))
GRID = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))
DATA = NamedSharding(LINE, P("data"))


def load(count: int, processes: int = 0, **image: Any) -> Batch:
    """A batch with all that can be an array."""
    picture = small_jpeg(7)
    rows = [
        Row(str(number), small_jpeg(number), label=number, masks={"seg": picture}, additional_images={"depth": picture})
        for number in range(count)
    ]
    config = {
        "image_config": {"crop_and_resize": True, "default_image_size": 32, **image},
        "decode_config": {"processes": processes, "threads": None if processes else 1},
        "batch_size": count,
    }
    with Loader(config, "cpu", source=rows) as loader:
        return next(loader)


@pytest.fixture(scope="module")
def batch() -> Batch:
    return load(16, views=[{}, {"default_image_size": 64}], flip=0.5)


SHARDINGS = {
    "rows": (DATA, (2,)),
    "rows of four axes": (NamedSharding(LINE, P("data", None, None, None)), (2,)),
    "rows and height": (NamedSharding(GRID, P("data", "model")), (4, 16)),
    "rows by both axes": (NamedSharding(GRID, P(("data", "model"))), (2,)),
    "every other device": (NamedSharding(GRID, P("model")), (8,)),
    "copies": (NamedSharding(LINE, P()), (16,)),
    "width alone": (NamedSharding(LINE, P(None, None, "data")), (16, 32, 4)),
    "one device": (SingleDeviceSharding(jax.devices()[3]), (16,)),
}


@pytest.mark.parametrize("name", SHARDINGS)
def test_the_arrays_are_those_of_the_batch(name: str, batch: Batch) -> None:
    sharding, shard = SHARDINGS[name]
    fields = (*FIELDS, "crops", "original_sizes", "image_sizes", "flipped", "view_crops", "view_flipped")
    arrays = sharded(batch, sharding, fields)
    assert tuple(arrays) == fields
    expected = {name: getattr(batch, name) for name in fields}
    jax.tree.map(np.testing.assert_array_equal, arrays, expected)
    image = arrays["image"]
    assert image.sharding.is_equivalent_to(sharding, 4)
    assert {each.data.shape for each in image.addressable_shards} == {(*shard, *image.shape[len(shard) :])}
    assert {each.data.shape for each in arrays["labels"].addressable_shards} == {shard[:1]}
    for each in image.addressable_shards:
        np.testing.assert_array_equal(each.data, np.asarray(batch.image)[each.index])
    assert (arrays["labels"].dtype, arrays["real"].dtype) == (jnp.int32, jnp.bool_)


def test_a_compiled_function_takes_the_arrays_as_they_are(batch: Batch) -> None:
    @jax.jit
    def mean(arrays: Arrays) -> jax.Array:
        means = arrays["image"].astype(jnp.float32).mean((1, 2, 3))
        return (means * arrays["real"]).sum() / arrays["real"].sum()

    np.testing.assert_allclose(mean(sharded(batch, DATA)), np.asarray(batch.image).mean(), rtol=1e-5)


@pytest.mark.parametrize(("processes", "image"), [(0, {"dtype": "bfloat16", "layout": "CHW"}), (1, {})])
def test_nothing_is_copied_on_the_cpu(processes: int, image: dict[str, Any]) -> None:
    batch = load(16, processes, **image)
    arrays = sharded(batch, DATA)
    assert str(arrays["image"].dtype) == image.get("dtype", "uint8")
    for ours, theirs in ((arrays["image"], batch.image), (arrays["masks"]["seg"], batch.masks["seg"])):
        begin, size = theirs.ctypes.data, theirs.nbytes // 8
        found = {shard.index[0].start // 2: shard.data.unsafe_buffer_pointer() for shard in ours.addressable_shards}
        assert found == {place: begin + place * size for place in range(8)}
    image_array = np.array(np.asarray(batch.image).view(np.uint8))
    del batch, ours, theirs
    np.testing.assert_array_equal(np.asarray(arrays["image"]).view(np.uint8), image_array)


class OnlyDlpack:
    """What a GPU's array has, for an array of the CPU."""

    def __init__(self, array: np.ndarray) -> None:
        self._array, self.shape, self.dtype = array, array.shape, array.dtype

    def __len__(self) -> int:
        return len(self._array)

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()


def test_an_array_that_only_has_dlpack_is_taken(batch: Batch) -> None:
    batch = batch[:]
    batch.image = OnlyDlpack(np.asarray(batch.image))
    arrays = sharded(batch, DATA, ["image"])
    np.testing.assert_array_equal(arrays["image"], batch.image._array)
    assert arrays["image"].sharding == DATA


def without(**changes: Any) -> Callable[[Batch], Batch]:
    def change(batch: Batch) -> Batch:
        changed = batch[:]
        for name, value in changes.items():
            setattr(changed, name, value)
        return changed

    return change


@pytest.mark.parametrize(
    ("change", "sharding", "fields", "words"),
    [
        (lambda batch: batch[:13], DATA, FIELDS, "image has 13 samples, which cannot be divided among 8 parts"),
        (without(image=[np.zeros((4, 4, 3))] * 16), DATA, FIELDS, "image is a list of 16 single values"),
        (without(latents={"vae": [b""] * 16}), DATA, FIELDS, r"latents\['vae'\] is a list of 16 single values"),
        (without(), NamedSharding(LINE, P(None, None, None, "data")), FIELDS, "image of shape .* cannot be divided"),
        (without(), DATA, ["image", "ids"], "fields names 'ids', which holds no array: known are image, "),
        (without(), DATA, "image", r"fields must be a list of names, got 'image': write \['image'\]"),
        (lambda batch: {"image": batch.image}, DATA, FIELDS, "sharded takes a Batch, as a Loader yields it, got dict"),
        (without(), jax.devices()[0], FIELDS, "sharding must be a jax.sharding.Sharding, got Device"),
    ],
)
def test_what_cannot_be_divided_is_an_error_in_words(
    change: Callable[[Batch], Any], sharding: Any, fields: Any, words: str, batch: Batch
) -> None:
    with pytest.raises(ConfigError, match=words):
        sharded(change(batch), sharding, fields)


def test_what_the_batch_does_not_have_is_none_or_left_out() -> None:
    batch = Batch(["a", "b"], ["", ""], None, np.zeros((2, 2), np.int32), np.zeros((2, 4), np.float32), None)
    sharding = SingleDeviceSharding(jax.devices()[0])
    arrays = sharded(batch, sharding)
    assert "views" not in arrays
    assert {name: value for name, value in arrays.items() if name != "real"} == {
        "image": None, "masks": {}, "additional_images": {}, "latents": {}, "present": {}, "embeddings": None,
        "labels": None,
    }  # fmt: skip


def test_one_process_loads_all_samples() -> None:
    assert {rank_and_world_size(sharding) for sharding, _ in SHARDINGS.values()} == {(0, 1)}


def test_the_recipe_of_the_page_runs(tmp_path: Path) -> None:
    add_pictures(tmp_path / "photos", [SHAPES[number % 2] for number in range(20)])
    build_index(file_config(tmp_path / "photos"), tmp_path / "index.arrow", readers=0)
    (block,) = blocks("JAX", tmp_path)
    found: dict[str, Any] = {}
    exec(block, found)
    assert found["weights"].shape == (3, 8)
    assert found["loader"].stats().delivered == 20
    assert found["state"] == found["loader"].state_dict()


def test_the_example_of_the_docstring_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").symlink_to(Path(datago_gpu.__file__).parent / "photos")
    monkeypatch.chdir(tmp_path)
    (example,) = doctest.DocTestFinder(recurse=False).find(sharded, "sharded", globs={"jax": jax, "sharded": sharded})
    printed: list[str] = []
    runner = doctest.DocTestRunner()
    runner.run(example, out=printed.append)
    assert (runner.failures, bool(example.examples)) == (0, True), "".join(printed)
