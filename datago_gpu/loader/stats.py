"""What a run has counted: a snapshot to print, log or compare."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
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
    flawed: dict[str, int] = field(default_factory=dict)
    """Reason -> samples that were handed out without something: "bad-attributes", without attributes, as theirs cannot
    be read; "further-images", with the first of several images in a shard of which none was asked for by name.
    `max_failures` does not count them."""
    rescued: int = 0
    """Samples of which the decoder refused a picture that Pillow decoded. Each costs its batch some time."""

    passed_over: dict[str, int] = field(default_factory=dict)
    """Kind -> files of the listing that are no samples: "hidden" (a hidden folder counts as one), "extension" (those of
    other endings) and "link". Known once the listing is complete; all ranks list the same files."""

    dropped: int = 0
    """Samples that were left out at the end of the run, since their batches are not full and `drop_last` is true."""

    @property
    def slowest(self) -> str:
        """The stage that others wait for: it waited least itself."""
        return min(self.stages, key=lambda stage: stage.waited_input + stage.waited_output).name

    def __str__(self) -> str:
        """A table to print: what came, a line for each stage, and which stage is the slowest."""
        rows = [["stage", "samples", "samples/s", "waited for input", "waited for output"]]
        for stage in self.stages:
            waits = (f"{share:.0%}" for share in (stage.waited_input, stage.waited_output))
            rows.append([stage.name, f"{stage.items:,}", f"{stage.per_s:,.0f}", *waits])
        first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
        table = ["  ".join([name.ljust(first), *map(str.rjust, values, others)]) for name, *values in rows]
        skipped = ", ".join(f"{count:,} {reason}" for reason, count in self.skipped.items()) or "none"
        flawed = "".join(f", delivered with {reason}: {count:,}" for reason, count in self.flawed.items())
        passed = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.passed_over.items()))
        flawed += f"; passed over: {passed}" if passed else ""
        skipped += f"; dropped at the end: {self.dropped:,}" if self.dropped else ""
        skipped += f"; rescued by Pillow: {self.rescued:,}" if self.rescued else ""
        came = f"{self.delivered:,} samples in {self.seconds:.2f} s ({self.delivered / self.seconds:,.0f} a second)"
        took = f"slowest: {self.slowest}; the feeder used {self.feeder_cores:.0%} of a core"
        return "\n".join([f"{came}, {self.bytes / 1e6:,.1f} MB encoded, skipped: {skipped}{flawed}", *table, took])

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "stages": [asdict(stage) for stage in self.stages], "slowest": self.slowest}
