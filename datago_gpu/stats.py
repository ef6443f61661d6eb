"""What a run has counted: a snapshot to print, log or compare."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Stage", "Stats"]


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of the flow. Shares are of the time since the start, 0 to 1."""

    name: str
    items: int
    """Samples that have left the stage."""
    per_s: float
    """Samples a second."""
    waited_input: float
    """Share of the time for which it waited for the stage before it."""
    waited_output: float
    """Share of the time for which it waited for the stage behind it."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts since the loader was made or its state was loaded."""

    delivered: int
    """Samples handed out."""
    skipped: dict[str, int]
    """Reason -> samples that were not."""
    bytes: int
    """Encoded bytes of the samples that reached the decoder."""
    seconds: float
    """From the start to now, or to the end of the stream."""
    stages: tuple[Stage, ...]
    """In the order of the flow: fetch, pack, decode, trainer."""
    feeder_cores: float
    """CPU time of the feeder process by the time since the start: it has one core, and near 1 it can do no more. What
    others download for it does not count."""

    @property
    def slowest(self) -> str:
        """The stage that others wait for: it waited least itself."""
        return min(self.stages, key=lambda stage: stage.waited_input + stage.waited_output).name

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "stages": [asdict(stage) for stage in self.stages], "slowest": self.slowest}
