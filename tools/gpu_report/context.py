"""What a check is given: where to run, on which photographs, and for how long."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from datago_gpu.config import DecodeConfig, ImageConfig
from datago_gpu.decoders.decoder import Decoder
from datago_gpu.decoders.make import make_decoder
from datago_gpu.decoders.select import Backend, choose

__all__ = ["Context"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Context:
    """device: "cpu", "cuda" or "cuda:INDEX". material: the folder made by material.py. budget_s: seconds for the check.

    small: the sizes of the suite, which prove the script and measure nothing. began_at: when its process was started.
    """

    device: str
    material: Path
    budget_s: float
    small: bool = False
    began_at: float = field(default_factory=time.monotonic)

    @property
    def backend(self) -> Backend:
        """DALI on the device; raises ConfigError where that cannot be."""
        return choose(self.device, "dali")

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    @property
    def device_id(self) -> int | None:
        """Index of the GPU; None on the CPU. Known without cupy, which `backend` wants."""
        return int(self.device.partition(":")[2] or 0) if self.on_gpu else None

    def amount(self, full: T, small: T) -> T:
        """A number, or anything, for a measurement or for the suite."""
        return small if self.small else full

    def left_s(self) -> float:
        """Seconds left of the budget, never below 0."""
        return max(0.0, self.began_at + self.budget_s - time.monotonic())

    @property
    def sizes(self) -> list[str]:
        """The sizes of photographs that there are, smallest first."""
        return [name for name in ("500px", "1mp", "2.5mp", "8mp") if (self.material / name).is_dir()]

    def target(self, size: str) -> tuple[int, int]:
        """What images of a size are cut and scaled to."""
        side = self.amount({"500px": 224}.get(size, 512), 64)
        return side, side

    def decoder(
        self,
        batch_size: int,
        *,
        crop: bool = True,
        image: dict[str, Any] | None = None,
        mask: bool = False,
        reference: bool = False,
        **decode: Any,
    ) -> Decoder:
        """The loader's own decoder on the device. image, decode: settings of ImageConfig and DecodeConfig.

        mask: for masks. reference: with DALI on the CPU, whatever the device.
        """
        backend = choose("cpu", "dali") if reference else self.backend
        settings: dict[str, Any] = {"threads": 2} if self.small else {}
        form = ImageConfig(crop_and_resize=crop, **(image or {}))
        return make_decoder(backend, form, DecodeConfig(**(settings | decode)), batch_size, mask=mask)
