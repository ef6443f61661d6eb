"""Classifies DALI's errors: about an image, memory, or the GPU. DALI raises RuntimeError for nearly all of them.

Only errors in which nvImageCodec or DALI names an image count as about an image. All others end the run: if memory runs
out, no image is to blame, and a fallback to Pillow would hide why everything has become slow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from datago_gpu.config import DecodeConfig, ImageConfig
from datago_gpu.errors import DatagoError

__all__ = ["Refused", "Setup", "classify_error", "clean_message"]

_IMAGE = re.compile(r"Failed to decode sample #(\d+)|nvImageCodec failure: '#(?:3|4|13|14|17|19)'")
"""Errors about one image: it cannot be decoded, or its header cannot be read. The numbers are nvImageCodec statuses."""
_MEMORY = re.compile(
    r"out[ _]of[ _]memory|bad_alloc|allocat(?:e \d|ion failed)|MemoryAllocation|nvImageCodec failure: '#(?:5|15)'",
    re.IGNORECASE,
)
_GPU = re.compile(r"(?i:cuda|nvjpeg|nvimagecodec)|\bcu[A-Z]")


class Refused(Exception):
    """Raised when DALI reports that it cannot decode an image of a batch.

    suspect: index of the image among those that were given to DALI; None if DALI does not say.
    """

    def __init__(self, message: str, suspect: int | None) -> None:
        super().__init__(message)
        self.suspect = suspect


@dataclass(frozen=True, slots=True)
class Setup:
    """The settings of a pipeline."""

    image: ImageConfig
    decode: DecodeConfig
    batch_size: int
    """Maximum number of images in a batch."""
    device_id: int | None
    """Index of the GPU; None is the CPU."""
    mask: str
    """"nearest" or "lanczos" for masks; "" for images."""
    threads: int


def classify_error(error: Exception, doing: str, setup: Setup) -> Refused | DatagoError:
    """Returns the exception to raise for an error of DALI.

    doing: what failed, such as "decode a batch of 3 images".
    """
    said = clean_message(error)
    if found := _IMAGE.search(str(error)):
        return Refused(said, int(found[1]) if found[1] else None)
    if isinstance(error, MemoryError) or _MEMORY.search(said):
        return DatagoError(f"memory ran out{_where(setup)}: DALI could not {doing} ({said}). {_less_memory(setup)}")
    if setup.device_id is not None and _GPU.search(said):
        return DatagoError(
            f"CUDA failed{_where(setup)}: DALI could not {doing} ({said}). This is not the fault of an image. An error "
            "in a kernel of the trainer is reported here as well: CUDA_LAUNCH_BLOCKING=1 shows where it happens, and "
            "dmesg shows whether the GPU itself has failed (Xid)"
        )
    return DatagoError(f"DALI could not {doing}: {said}")


def clean_message(error: Exception) -> str:
    """Returns DALI's message without the graph trace around it, and without the number of a sample tried alone."""
    text = re.sub(r"\s*Current pipeline object is no longer valid\.\s*| sample #\d+ :", "", str(error))
    return " ".join(text.rpartition("encountered:")[2].split()) or type(error).__name__


def _where(setup: Setup) -> str:
    return "" if setup.device_id is None else f" on cuda:{setup.device_id}"


def _less_memory(setup: Setup) -> str:
    advice = (
        "DALI decodes whole images before it resizes them. Decode fewer at once: lower batch_size (now "
        f"{setup.batch_size}) or decode_config.prefetch (now {setup.decode.prefetch}, batches that decode at once). Or "
        f"decode smaller ones: lower image_config.default_image_size (now {setup.image.default_image_size}) or "
        f"decode_config.max_pixels (now {setup.decode.max_pixels}, above which images are skipped)"
    )
    if setup.device_id is None:
        return advice
    return (
        f"{advice}. Or leave more GPU memory to DALI: torch keeps the memory that it has freed, and "
        "torch.cuda.set_per_process_memory_fraction limits its share"
    )
