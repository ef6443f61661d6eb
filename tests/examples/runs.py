"""Runs the examples of training small, in this process, and collects their losses."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from unittest import mock

__all__ = ["EXAMPLES", "NAMES", "losses_of"]

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
NAMES = ["classification", "contrastive", "self_supervised", "diffusion"]
SMALL = ["--size", "32", "--pictures", "96", "--batch-size", "8"]


def losses_of(name: str, folder: Path, steps: int, *more: str) -> dict[int, float]:
    """Runs an example. Returns the loss of each step."""
    losses: dict[int, float] = {}
    given = [f"{name}.py", *SMALL, "--folder", str(folder), "--steps", str(steps), *more]
    with mock.patch.object(sys, "path", [str(EXAMPLES), *sys.path]), mock.patch.object(sys, "argv", given):
        import training

        with mock.patch.object(training, "report", lambda step, _, loss: losses.update({step: loss.item()})):
            runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return losses
