"""Statistics of a run: a snapshot to print, log or compare."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["MixCount", "Stage", "Stats"]


@dataclass(frozen=True, slots=True)
class Stage:
    """Statistics of one stage of the pipeline. Shares are fractions of the time since the start, from 0 to 1."""

    name: str
    items: int
    """Samples that have left the stage."""
    per_s: float
    """Samples a second."""
    waited_input: float
    """Share of the time that the stage waited for its input, from the stage before it."""
    waited_output: float
    """Share of the time that the stage waited for its output to be taken, by the stage after it."""


@dataclass(frozen=True, slots=True)
class MixCount:
    """Counts of one source of a mix."""

    delivered: int
    """Samples delivered to the trainer."""
    skipped: dict[str, int]
    """Reason -> number of samples skipped."""
    passes: int
    """Number of passes through the source that had ended in the epoch of the last sample delivered."""
    filtered: int
    """Samples that the source's `where` left out."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts since the loader was created, or since its state was loaded."""

    delivered: int
    """Samples delivered to the trainer."""
    skipped: dict[str, int]
    """Reason -> number of samples skipped."""
    bytes: int
    """Encoded bytes of the samples that reached the decoder."""
    seconds: float
    """Seconds from the start to now, or to the end of the stream."""
    stages: tuple[Stage, ...]
    """The stages in pipeline order: fetch, pack, decode, trainer."""
    feeder_cores: float
    """CPU use of the feeder process, in cores. The feeder has one core: near 1.0 it is the bottleneck. Download
    processes are not included."""
    flawed: dict[str, int] = field(default_factory=dict)
    """Reason -> number of samples delivered incomplete. "bad-attributes": the attributes could not be read and are
    empty. "further-images": the sample of a shard has several images, none was requested by name, and the first was
    delivered. `max_failures` does not count these samples."""
    rescued: int = 0
    """Samples with an image that DALI refused and Pillow decoded. Each of them delays its batch."""

    passed_over: dict[str, int] = field(default_factory=dict)
    """Kind -> number of listed files that are not samples: "hidden" (a hidden folder counts once), "extension" (other
    file extensions) and "link". Known once the listing is complete; all ranks list the same files."""

    filtered: int = 0
    """Samples that `where` left out. They are not bad: neither `skipped` nor `max_failures` counts them."""

    filtered_by_epoch: dict[int, int] = field(default_factory=dict)
    """Epoch -> number of samples that `where` left out in it."""

    dropped: int = 0
    """Samples left out at the end of the run, because their batches are not full and `drop_last` is true."""

    decode_processes: int = 0
    """Number of decode processes; 0 if threads of the trainer's process or DALI decode."""

    decode_cores: float = 0.0
    """CPU use of the decode processes together, in cores."""

    mix: dict[str, MixCount] = field(default_factory=dict)
    """Name of each source of a mix -> its counts; empty without a mix."""

    cache_hits: int = 0
    """Payloads and shards that were read from the folder of `cache_config`."""

    cache_misses: int = 0
    """Payloads and shards that were downloaded because that folder did not have them."""

    cache_bytes: int = 0
    """Bytes read from that folder."""

    @property
    def slowest(self) -> str:
        """Returns the name of the bottleneck: the stage that waited least."""
        return min(self.stages, key=lambda stage: stage.waited_input + stage.waited_output).name

    def __str__(self) -> str:
        """Returns a table to print: totals, one line for each stage, and the slowest stage."""
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
        skipped += f"; filtered: {self.filtered:,}" if self.filtered else ""
        skipped += f"; dropped at the end: {self.dropped:,}" if self.dropped else ""
        skipped += f"; rescued by Pillow: {self.rescued:,}" if self.rescued else ""
        came = f"{self.delivered:,} samples in {self.seconds:.2f} s ({self.delivered / self.seconds:,.0f} a second)"
        took = f"slowest: {self.slowest}; the feeder used {self.feeder_cores:.0%} of a core"
        if self.decode_processes:
            took += f", {self.decode_processes} decode processes {self.decode_cores:.0%}"
        if self.cache_hits or self.cache_misses:
            took += f"; from the cache: {self.cache_hits:,} ({self.cache_bytes / 1e6:,.1f} MB)"
            took += f", not in the cache: {self.cache_misses:,}"
        mix = [f"source {name}: {_describe(count)}" for name, count in self.mix.items()]
        return "\n".join(
            [f"{came}, {self.bytes / 1e6:,.1f} MB encoded, skipped: {skipped}{flawed}", *mix, *table, took]
        )

    def as_dict(self) -> dict[str, Any]:
        """Returns plain values, for JSON."""
        return {**asdict(self), "stages": [asdict(stage) for stage in self.stages], "slowest": self.slowest}


def _describe(count: MixCount) -> str:
    skipped = ", ".join(f"{number:,} {reason}" for reason, number in count.skipped.items())
    skipped = f", skipped: {skipped}" if skipped else ""
    filtered = f", filtered: {count.filtered:,}" if count.filtered else ""
    return f"{count.delivered:,} samples{skipped}{filtered}, {count.passes} passes ended"
