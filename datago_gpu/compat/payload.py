"""The payloads of a sample, with datago's names: images that act as PIL images, and latents as bytes.

Copies are made on first use only: pixels stay on the GPU until `data`, PIL or numpy need them.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datago_gpu.decoders.device import DeviceArray, on_host
from datago_gpu.errors import DatagoError

__all__ = ["ImagePayload", "LatentPayload", "RawImage"]


class RawImage:
    """The values of an image, which `ImagePayload.get_payload()` returns. datago calls this class ImagePayload, too.

    pixels: an array (H, W, C) on the loader's device, bytes of a PNG or JPEG, or None for no image.
    original_size: (height, width) of the image before it was cropped and scaled; None if it was not.
    """

    def __init__(self, pixels: Any = None, original_size: tuple[int, int] | None = None) -> None:
        self.height = self.width = self.channels = self.bit_depth = 0
        self.is_encoded = isinstance(pixels, bytes)
        self._pixels = pixels
        self._data: bytes | None = pixels if isinstance(pixels, bytes) else None if pixels is not None else b""
        if isinstance(pixels, bytes):
            with Image.open(io.BytesIO(pixels)) as header:
                self.width, self.height = header.size
                self.channels, self.bit_depth = -1, 16 if header.mode.startswith("I") else 8
        elif pixels is not None:
            self.height, self.width, self.channels = map(int, pixels.shape)
            self.bit_depth = 8 * pixels.dtype.itemsize
        self.original_height, self.original_width = original_size or (self.height, self.width)

    @property
    def data(self) -> bytes:
        """Rows of pixels (16 bits in the machine's byte order), or the PNG or JPEG. Copied from a GPU on first use."""
        if self._data is None:
            self._data = on_host(self._pixels).tobytes()
        return self._data

    @data.setter
    def data(self, value: bytes) -> None:
        self._data = value
        self._pixels = None

    def cuda(self) -> Any:
        """Returns the pixels (H, W, C) on the GPU, without a copy, for `torch.from_dlpack` and similar functions.

        Raises DatagoError if they are not on a GPU.
        """
        if isinstance(self._pixels, DeviceArray):
            return self._pixels
        where = "encoded, and so in host memory" if self.is_encoded else "on the CPU: no GPU decoded them"
        raise DatagoError(f"the pixels are {where}; to_numpy_array() and to_pil_image() give them there")

    def to_numpy_array(self) -> NDArray[Any]:
        """Returns (H, W, C): uint8, uint16 for 16 bits per channel, or int32 for 32-bit labels. Decodes if encoded."""
        if self.is_encoded:
            pixels = np.asarray(Image.open(io.BytesIO(self.data)))
            return pixels if pixels.ndim == 3 else pixels[:, :, None]
        if self._pixels is not None:
            return on_host(self._pixels)
        dtype = {16: np.uint16, 32: np.int32}.get(self.bit_depth, np.uint8)
        return np.frombuffer(self.data, dtype).reshape(self.height, self.width, self.channels)

    def to_pil_image(self) -> Image.Image:
        """Returns a PIL image in mode L, LA, RGB or RGBA; 16-bit gray in I;16. PIL has no 16-bit colours: only the
        upper 8 bits are kept."""
        if self.is_encoded:
            return Image.open(io.BytesIO(self.data))
        pixels = self.to_numpy_array()
        if pixels.dtype == np.uint16 and pixels.shape[2] > 1:
            pixels = (pixels >> 8).astype(np.uint8)
        return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)

    def __repr__(self) -> str:
        form = f"{len(self.data)} bytes" if self.is_encoded else f"{self.channels} channels of {self.bit_depth} bits"
        return f"ImagePayload({self.height} x {self.width}, {form})"


class ImagePayload:
    """An image that acts as its PIL image: all other attributes are those of the PIL image."""

    __slots__ = ("_inner",)

    def __init__(self, inner: RawImage) -> None:
        self._inner = inner

    def __call__(self) -> Image.Image:
        return self._inner.to_pil_image()

    def get_payload(self) -> RawImage:
        """Returns the values of the image."""
        return self._inner

    def to_pil_image(self) -> Image.Image:
        """See RawImage."""
        return self._inner.to_pil_image()

    def to_numpy_array(self) -> NDArray[Any]:
        """See RawImage."""
        return self._inner.to_numpy_array()

    def cuda(self) -> Any:
        """See RawImage."""
        return self._inner.cuda()

    def __getattr__(self, name: str) -> Any:
        if name == "_inner":  # not initialised yet, for example during unpickling
            raise AttributeError(name)
        return getattr(self._inner.to_pil_image(), name)

    def __repr__(self) -> str:
        return repr(self._inner)


class LatentPayload:
    """A latent as a file: its bytes and their number."""

    def __init__(self, value: Any) -> None:
        self._value = value
        self._data = value if isinstance(value, bytes) else None

    @property
    def data(self) -> bytes:
        """The bytes. An array is converted to an npy file on first use."""
        if self._data is None:
            file = io.BytesIO()
            np.save(file, on_host(self._value), allow_pickle=False)
            self._data = file.getvalue()
        return self._data

    @property
    def len(self) -> int:
        """The number of bytes of `data`."""
        return len(self.data)

    def cuda(self) -> Any:
        """Returns the array on the GPU, without a copy. Raises DatagoError if it is not on a GPU."""
        if isinstance(self._value, DeviceArray):
            return self._value
        raise DatagoError("the latent is in host memory: data holds its bytes")

    def __repr__(self) -> str:
        return f"LatentPayload({type(self._value).__name__})"
