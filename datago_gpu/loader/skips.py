"""Counts and lists the samples that are skipped, and raises TooManyErrors when there are too many."""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from typing import Self

import msgspec

from datago_gpu.config import LoaderConfig
from datago_gpu.config.local_paths import openable, true_text
from datago_gpu.config.lockstep_rules import JUDGED_FROM
from datago_gpu.errors import ConfigError, DecodeError, SourceError, TooManyErrors
from datago_gpu.feeder.wire import Resume
from datago_gpu.redact import printable_json
from datago_gpu.sources.reference import Flaw, Skipped

__all__ = ["Skips"]

SHARE_FROM = 100
"""Number of samples from which on a share of bad ones is checked."""

KEPT = 10

_ASKED_FOR = frozenset(("too-small",))
"""Reasons for which the settings ask that samples are skipped: `max_failures` does not count these samples."""

log = logging.getLogger("datago_gpu")


class Skips:
    """Counts skipped samples against `max_failures`: a number, a share, or None for no limit.

    For a share, a lost shard counts as the number of samples that it held. Images that the settings call too small
    count for neither.

    file: also lists each skipped sample in this file; see `SkippedFile`.
    judged_from: number of bad samples from which a stream without a good one is an error. filtered_from: number of
    samples that `where` leaves out, likewise.
    delivered_before: samples delivered before the state was saved. If there are any, all others may be bad.
    """

    def __init__(
        self,
        allowed: float | None,
        file: str | None = None,
        *,
        delivered_before: int = 0,
        judged_from: int = 1,
        filtered_from: int = 1,
    ) -> None:
        self._allowed, self._delivered_before, self._judged_from = allowed, delivered_before, judged_from
        self._filtered_from = filtered_from
        self._file = SkippedFile(file) if file is not None else None
        self._last: deque[DecodeError] = deque(maxlen=KEPT)
        self.by_reason: Counter[str] = Counter()
        self.flaws_by_reason: Counter[str] = Counter()
        """Reason -> number of samples delivered with this flaw."""
        self.filtered: Counter[int] = Counter()
        """Epoch -> number of samples that `where` left out."""
        self.by_source: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """Name of each source of a mix -> reason -> number of its samples skipped."""
        self.filtered_by_source: Counter[str] = Counter()
        """Name of each source of a mix -> number of its samples that `where` left out."""
        self._lost = 0
        """Samples skipped, with a lost shard counted as the samples that it held."""

    @classmethod
    def of(cls, config: LoaderConfig, resume: Resume) -> Self:
        """Counts by the settings, for a stream that begins at `resume`. Raises what `SkippedFile` raises."""
        shares = config.lockstep or config.rank_and_world_size()[1] > 1
        return cls(
            config.max_failures,
            None if config.skipped_file is None else config.absolute(config.skipped_file),
            delivered_before=resume.delivered,
            judged_from=JUDGED_FROM if config.lockstep else 1,
            filtered_from=JUDGED_FROM if shares else 1,
        )

    def add(self, skipped: Iterable[Skipped]) -> None:
        """Counts, lists and logs skips. The first of each reason is logged as a warning, the others at debug level."""
        skipped = list(self._without_filtered(skipped))
        if self._file and skipped:
            self._file.write(skipped)
        for each in skipped:
            error = DecodeError(each.id, each.where, each.reason, each.detail)
            level = logging.DEBUG if self.by_reason[each.reason] else logging.WARNING
            log.log(level, "skipped %s", error)
            self.by_reason[each.reason] += 1
            self.by_source[each.mix][each.reason] += 1
            self._lost += 0 if each.reason in _ASKED_FOR else each.count
            self._last.append(error)

    def _without_filtered(self, skipped: Iterable[Skipped]) -> Iterator[Skipped]:
        for each in skipped:
            if each.is_filtered:
                self.filtered[each.epoch] += each.count
                self.filtered_by_source[each.mix] += each.count
            else:
                yield each

    def note(self, flaws: Iterable[Flaw]) -> None:
        """Counts and logs samples that are delivered with a flaw, as `add` does for skipped ones."""
        for each in flaws:
            level = logging.DEBUG if self.flaws_by_reason[each.reason] else logging.WARNING
            log.log(level, "delivered with a flaw: %s", DecodeError(each.id, each.where, each.reason, each.detail))
            self.flaws_by_reason[each.reason] += 1

    def check(self, delivered: int, *, final: bool = False, fruitless: bool = False, dropped: int = 0) -> None:
        """Raises TooManyErrors if more samples are bad than allowed, SourceError if `where` leaves out all samples.

        final: the stream has ended. fruitless: it ended early because the last passes over the source had no sample.
        dropped: number of good samples that `drop_last` left out.
        """
        share = isinstance(self._allowed, float)
        asked_for = sum(self.by_reason[reason] for reason in _ASKED_FOR)
        bad = self._lost if share else self.by_reason.total() - asked_for
        good = delivered + dropped
        seen = good + bad
        if isinstance(self._allowed, float):
            spent = bad > self._allowed * seen and (final or seen >= SHARE_FROM)
        else:
            spent = self._allowed is not None and bad > self._allowed
        barren = fruitless or not (good or self._delivered_before)
        if not spent:
            bad, seen = bad + asked_for, seen + asked_for
        if spent or (final and barren and bad >= self._judged_from):
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.by_reason.most_common())
            by_source = Counter({name: counts.total() for name, counts in self.by_source.items()})
            of = ", ".join(f"{count} of source {name!r}" for name, count in by_source.most_common() if name)
            reasons += f"; {of}" if of else ""
            allowed = "" if self._allowed is None else f"; max_failures is {self._allowed}"
            last = "; the last epochs had no good sample" if fruitless and delivered else ""
            left_out = f"; drop_last left out {dropped}" if dropped else ""
            text = f"{bad} of {seen} samples were bad ({reasons}){left_out}{allowed}{last}; the last bad ones:"
            raise TooManyErrors(text, self._last)
        filtered = self.filtered.total()
        if final and filtered and (fruitless or (barren and filtered >= self._filtered_from)):
            last = " of the last epochs" if fruitless else ""
            raise SourceError(f"no sample{last} was delivered: source_config.where left out {filtered:,} samples")


class SkippedFile:
    """Appends one JSON line for each skipped sample to a file. Raises ConfigError if the file cannot be written.

    The file is open only during a write, which is a single call. So several ranks may share a file, and no line is lost
    in a crash.

    path: absolute, because the trainer may change its working directory.
    """

    def __init__(self, path: str) -> None:
        self._path = openable(path)
        self._warned = self._cut = False
        try:
            self._append(b"")
        except (OSError, ValueError) as error:
            raise ConfigError(f"skipped_file {path!r} cannot be written: {error}") from error

    def write(self, skipped: list[Skipped]) -> None:
        """Appends these samples. If that fails, logs a warning (once) and the run continues; later writes try again."""
        lines = "".join(printable_json(msgspec.json.encode(_entry(each)).decode()) + "\n" for each in skipped).encode()
        try:
            self._append(b"\n" + lines if self._cut else lines)
        except OSError as error:
            if not self._warned:
                log.warning(
                    "cannot write to skipped_file %s, samples are missing there: %s",
                    true_text(self._path),
                    error.strerror,
                )
            self._warned = True

    def _append(self, lines: bytes) -> None:
        # Not blocking, in case the path is a pipe.
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o666)
        try:
            while lines:
                written = os.write(file, lines)
                lines = lines[written:]
                self._cut = bool(lines)  # a partial write: the disk is full, and the next write raises
        finally:
            os.close(file)


def _entry(skip: Skipped) -> dict[str, str | int]:
    mix: dict[str, str | int] = {"mix": skip.mix} if skip.mix else {}
    return {
        "id": skip.id,
        "reason": skip.reason,
        "detail": skip.detail,
        "where": skip.where,
        "epoch": skip.epoch,
        **mix,
    }
