"""Statistics of a run: a snapshot to print, log or compare."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from datago_gpu.loader.durations import Durations

__all__ = ["MixCount", "Queue", "Stage", "Stats"]


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
class Queue:
    """How full a queue between two stages is."""

    name: str
    """"fetch": samples that are being loaded, or wait for their turn. "bucket": samples that wait in batches that are
    not full. "decode": batches that are being decoded, or wait for it. "ready": batches that wait for the trainer."""
    depth: int
    """Samples or batches in the queue, when the feeder last sent something; of "ready" now."""
    size: int
    """The most that the queue holds; 0 if memory limits it, not a number."""


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
    """Counts since the loader was created, or since its state was loaded; of a LoaderDataset, since its first pass.

    `since` makes counts and rates of an interval. `flat` returns plain numbers under fixed names.
    """

    delivered: int
    """Samples delivered to the trainer."""
    skipped: dict[str, int]
    """Reason -> number of samples skipped."""
    bytes: int
    """Encoded bytes of the samples that reached the decoder."""
    seconds: float
    """Seconds from the start to now, or to the end of the stream; of a LoaderDataset, of all its passes together."""
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

    data_wait: Durations = field(default_factory=Durations)
    """How long the trainer waited for each batch."""

    step: Durations = field(default_factory=Durations)
    """How long the trainer took between two batches, without the wait."""

    queues: tuple[Queue, ...] = ()
    """The queues in pipeline order: fetch, bucket, decode, ready."""

    epoch: int = 0
    """The current epoch, counted from 0."""

    epoch_done: int = 0
    """Samples of the current epoch that are delivered, skipped or filtered; in lockstep with the repeated samples."""

    epoch_total: int | None = None
    """About how many samples this rank has in the epoch. Known for rows, with lockstep, and for images whose names are
    all listed (with a shuffle: soon after the start); else from the second epoch on, or by `limit`."""

    rank: int = 0
    """The rank that these counts are of. Each rank counts for itself."""

    source: str = ""
    """The setting `source_type`."""

    @property
    def slowest(self) -> str:
        """Returns the name of the bottleneck: the stage that waited least, of several the last one."""
        return min(reversed(self.stages), key=lambda stage: stage.waited_input + stage.waited_output).name

    @property
    def progress(self) -> float | None:
        """Returns the share of the epoch that is done, from 0 to 1; None if the number of samples is not known."""
        return min(1.0, self.epoch_done / self.epoch_total) if self.epoch_total else None

    @property
    def eta_s(self) -> float | None:
        """Returns the seconds to the end of the epoch at the current rate; None as long as it cannot be told."""
        rate = (self.delivered + sum(self.skipped.values()) + self.filtered) / self.seconds
        if self.epoch_total is None or not rate:
            return None
        return max(0, self.epoch_total - self.epoch_done) / rate

    def since(self, earlier: Stats) -> Stats:
        """Returns the counts, rates and shares of the interval between an earlier snapshot and this one. Queues, epoch
        and progress are those of this snapshot.

        If the loader has begun anew in between (`load_state_dict`), the interval begins there.
        """
        from datago_gpu.loader.stats_sums import difference

        return difference(self, earlier)

    def flat(self, prefix: str = "") -> dict[str, float]:
        """Returns plain numbers under fixed names, for TensorBoard, W&B and other logs. docs/metrics.md lists them.

        prefix: stands before each name, such as "data/".
        """
        from datago_gpu.loader.flat import flat_values

        return {prefix + name: value for name, value in flat_values(self).items()}

    def __str__(self) -> str:
        """Returns a table to print: totals, one line for each stage, and the slowest stage."""
        from datago_gpu.loader.stats_text import stats_text

        return stats_text(self)

    def as_dict(self) -> dict[str, Any]:
        """Returns plain values, for JSON."""
        return {
            **asdict(self),
            "stages": [asdict(stage) for stage in self.stages],
            "queues": [asdict(queue) for queue in self.queues],
            "data_wait": self.data_wait.as_dict(),
            "step": self.step.as_dict(),
            "slowest": self.slowest,
            "progress": self.progress,
            "eta_s": self.eta_s,
        }
