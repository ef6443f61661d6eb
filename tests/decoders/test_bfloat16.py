"""dtype "bfloat16": rounded as torch rounds, on every back end, and taken as bfloat16 by torch."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from datago_gpu import Loader
from datago_gpu.config import ImageConfig
from datago_gpu.decoders.bfloat16 import Bfloat16Array, as_bfloat16
from datago_gpu.decoders.device import lend_array
from datago_gpu.decoders.output_format import OutputFormat, bfloat16_bits
from datago_gpu.decoders.parking import Parking
from datago_gpu.decoders.select import choose
from tests.decoders.conftest import MakeDecoder
from tests.decoders.fakecuda import FakeArray, FakeGpu, install
from tests.support.images import SHAPES, add_pictures, file_config
from tests.support.needs import needs
from tests.support.pictures import decode, pictures

torch = needs("torch")

NORMALISED: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def rounded_by_torch(numbers: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits: NDArray[np.uint16] = torch.from_numpy(numbers).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    return bits


def test_every_kind_of_number_is_rounded_as_torch_does() -> None:
    rng = np.random.default_rng(0)
    ties = (np.arange(1 << 16, dtype=np.uint32) << 16) | 0x8000
    bits = np.concatenate([rng.integers(0, 1 << 32, 200_000, np.uint32), ties, ties - 1, ties + 1])
    numbers = bits.astype(np.uint32).view(np.float32)
    numbers = numbers[np.isfinite(numbers)]
    assert np.array_equal(bfloat16_bits(numbers), rounded_by_torch(numbers))
    assert np.array_equal(bfloat16_bits(numbers), numbers.astype(ml_dtypes.bfloat16).view(np.uint16))


@given(st.tuples(*[st.floats(-1, 1)] * 3), st.tuples(*[st.floats(0.001, 1)] * 3), st.sampled_from(["HWC", "CHW"]))
def test_images_are_those_of_float32_rounded_once(mean: Any, std: Any, layout: Any) -> None:
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    written = []
    for dtype in ("float32", "bfloat16"):
        form = OutputFormat(ImageConfig(layout=layout, dtype=dtype, mean=mean, std=std))  # type: ignore[arg-type]
        written.append(form.empty(16, 16))
        form.write(levels, written[-1])
    assert np.array_equal(rounded_by_torch(written[0]), written[1])


@pytest.mark.parametrize("normalisation", [{}, NORMALISED], ids=["plain", "normalised"])
@pytest.mark.parametrize("layout", ["HWC", "CHW"])
def test_dali_gives_the_numbers_of_its_own_pixels(
    make: MakeDecoder, device: str, layout: str, normalisation: Any
) -> None:
    """Exactly those that the Pillow back end makes of the same pixels."""
    dali, images = choose(device, "dali"), pictures(3, (32, 40))
    levels = host(decode(make(dali), images).image)
    settings = {"layout": layout, "dtype": "bfloat16", **normalisation}
    bits = host(decode(make(dali, **settings), images).image)
    form = OutputFormat(ImageConfig(**settings))
    wanted = form.empty(32, 40, 3)
    for pixels, out in zip(levels, wanted, strict=True):
        form.write(pixels, out)
    assert bits.dtype == np.uint16
    assert np.array_equal(bits, wanted)


def host(image: Any) -> NDArray[Any]:
    return np.asarray(image if isinstance(image, np.ndarray) else image.on_host())


def test_an_array_is_bfloat16_to_torch_to_numpy_and_after_a_pickle() -> None:
    numbers = (np.arange(2 * 4 * 6, dtype=np.float32) * np.float32(0.37)).reshape(2, 4, 6)
    image = as_bfloat16(bfloat16_bits(numbers))
    for part in (image, image[1], image[:, 1:3, ::2], pickle.loads(pickle.dumps(image))):
        tensor = torch.from_dlpack(part)
        assert tensor.dtype == torch.bfloat16
        assert tensor.float().numpy().tolist() == part.astype(np.float32).tolist()
    assert torch.equal(torch.from_dlpack(image), torch.from_numpy(numbers).to(torch.bfloat16))
    assert (image.dtype, str(image.dtype)) == (ml_dtypes.bfloat16, "bfloat16")
    torch.from_dlpack(image)[:] = 3  # the same memory
    assert (image == 3).all()


def test_a_computed_array_is_exported_as_what_it_is() -> None:
    image = as_bfloat16(bfloat16_bits(np.ones(4, np.float32)))
    wide = image.astype(np.float32)
    assert isinstance(wide, Bfloat16Array)
    assert torch.from_dlpack(wide).dtype == torch.float32
    assert torch.from_dlpack(image + image).dtype == torch.bfloat16


class _Exporting(FakeArray):
    """Exports an array of numpy, in the way that cupy exports one."""

    def __dlpack__(self, *, stream: Any, **options: Any) -> Any:
        self.orders.append(stream)
        return np.zeros(self.shape, self.dtype).__dlpack__(max_version=options["max_version"])


@pytest.mark.parametrize("version", [None, (1, 0)])
def test_an_array_on_a_gpu_is_exported_as_bfloat16(monkeypatch: pytest.MonkeyPatch, version: Any) -> None:
    """cupy has no bfloat16: its array of uint16 is exported, with another name for the dtype."""
    install(monkeypatch, FakeGpu())
    import cupy

    memory = cupy.cuda.UnownedMemory(64, 12, None, 0)
    bits = cupy.ndarray((2, 3), np.dtype(np.uint16), cupy.cuda.MemoryPointer(memory, 0))
    lent = as_bfloat16([lend_array(Parking(0), bits)])[0]
    lent._array.__class__ = _Exporting
    assert (lent.dtype, lent[:1].dtype) == (ml_dtypes.bfloat16, ml_dtypes.bfloat16)
    assert torch.utils.dlpack.from_dlpack(lent.__dlpack__(stream=1, max_version=version)).dtype == torch.bfloat16
    assert not hasattr(lent, "__cuda_array_interface__")


@pytest.mark.parametrize("image", [{}, {"crop_and_resize": False}], ids=["dense", "whole"])
@pytest.mark.parametrize(("backend", "processes"), [("pillow", 0), ("pillow", 2), ("dali", 0)])
def test_a_loader_delivers_bfloat16(tmp_path: Path, backend: str, processes: int, image: dict[str, Any]) -> None:
    from datago_gpu.torch import as_tensors

    add_pictures(tmp_path, SHAPES[:3])
    found: dict[str, dict[str, Any]] = {}
    for dtype in ("float32", "bfloat16"):
        settings = {"dtype": dtype, "layout": "CHW", **NORMALISED, **image}
        config = file_config(tmp_path, image=settings, decode_config={"processes": processes, "threads": 1})
        with Loader(config, device="cpu", backend=backend) as loader:
            batches = [as_tensors(batch) for batch in loader]
        found[dtype] = {
            name: each for batch in batches for name, each in zip(batch["ids"], batch["image"], strict=True)
        }
    assert found["float32"].keys() == found["bfloat16"].keys()
    for name, wide in found["float32"].items():
        assert found["bfloat16"][name].dtype == torch.bfloat16
        if backend == "pillow":
            assert torch.equal(found["bfloat16"][name], wide.to(torch.bfloat16))
        else:  # DALI itself computes float32 with an error of one unit in the last place
            assert torch.allclose(found["bfloat16"][name].float(), wide, rtol=2**-8, atol=1e-6)
