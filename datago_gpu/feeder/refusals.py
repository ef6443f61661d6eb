"""Distinguishes a failure of the whole source, where nothing can be fetched any more, from failures of single samples.

An expired token, a lost mount or a server that limits the rate refuses sample after sample; skipping them would end the
epoch early without an error. Instead, a long run of refusals with no good sample in between ends the run. Refusals are
judged in the order of the samples, so that two runs end at the same place.
"""

from __future__ import annotations

from collections import Counter
from typing import Generic, TypeVar

from datago_gpu.errors import SourceError
from datago_gpu.sources.reference import Skipped

__all__ = ["Refusals", "RefusalsBySource"]

T = TypeVar("T")

_ACCESS = frozenset(
    (
        *("missing", "unreadable", "unreadable-folder", "no-url", "no-credentials"),
        *("connection", "timeout", "tls", "redirect", "protocol", "proxy", "cut-short"),
        "forbidden-host",
    )
)
"""Reasons that concern access, not content, besides every http-4xx and http-5xx."""
_RAN_OUT = frozenset(("http-400", "http-401", "http-403", "http-407", "http-429"))
_SHARDS = 3
"""Refused shards in a row, each with many samples, that count as much as the longest allowed run of single samples."""
_SHARDS_AT_THE_END = 2
_AT_THE_END = 4
"""A run that reaches the end of the listing is too long from `most` divided by this number on."""


class Refusals(Generic[T]):
    """Holds refused samples back until it is clear whether they are single failures or the end of the run.

    most: number of consecutive refusals that end the run; None: no limit. The refusals that end the run are not counted
    as skipped, so a saved state brings those samples again. continues: says what brings them again, for the message.
    holds: False only counts refusals, and returns each outcome at once.
    """

    def __init__(
        self, most: int | None, continues: str = "A state_dict continues with them", *, holds: bool = True
    ) -> None:
        self._most, self._continues, self._holds = most, continues, holds
        self._row: list[Skipped] = []
        self._length = 0

    def take(self, outcome: T | Skipped) -> list[T | Skipped]:
        """Returns the outcomes that can be handled now, in order. Raises SourceError after too many refusals."""
        if self._most is None or (isinstance(outcome, Skipped) and not _is_refusal(outcome)):
            return [outcome]
        if not isinstance(outcome, Skipped):
            return [*self.release(), outcome] if self._row else [outcome]
        self._row.append(outcome)
        self._length += -(-self._most // _SHARDS) if _is_shard(outcome) else 1
        if self._length >= self._most:
            raise self._error()
        return [] if self._holds else [outcome]

    def end(self) -> list[Skipped]:
        """Returns the samples held at the end. Raises SourceError if too many of the last ones were refused."""
        if self._most is not None and self._row:
            shards = [each for each in self._row if _is_shard(each)]
            ran_out = len(shards) >= _SHARDS_AT_THE_END and all(each.reason in _RAN_OUT for each in shards)
            if ran_out or (not shards and self._length > 1 and self._length >= self._most // _AT_THE_END):
                raise self._error()
        return self.release()

    def release(self) -> list[Skipped]:
        """Returns the held samples, which are single failures after all."""
        row, self._row, self._length = self._row, [], 0
        return row if self._holds else []

    def _error(self) -> SourceError:
        last, count = self._row[-1], len(self._row)
        reasons = ", ".join(
            f"{number} {reason}" for reason, number in Counter(each.reason for each in self._row).items()
        )
        what = (
            f"{'shards' if _is_shard(last) else 'samples'}{f' of source {last.mix!r} of the mix' if last.mix else ''}"
        )
        detail = f" ({last.detail})" if last.detail else ""
        self.release()
        return SourceError(
            f"{count} {what} in a row could not be loaded ({reasons}), so the source seems to be at fault; the last "
            f"was {last.where}: {last.reason}{detail}. {_remedy(last.reason)} {self._continues}; "
            "max_refused_in_a_row sets how many end the run"
        )


class RefusalsBySource(Generic[T]):
    """Judges each source of a mix by itself: one source may fail while samples of the others arrive.

    most, holds: as for `Refusals`. Only skipped samples are held back; samples of other sources pass them.
    """

    def __init__(self, most: int | None, *, holds: bool = True) -> None:
        self._most, self._holds = most, holds
        self._of: dict[str, Refusals[T]] = {"": Refusals(most, holds=holds)}

    def take(self, outcome: T | Skipped, mix: str = "") -> list[T | Skipped]:
        """Returns the outcomes that can be handled now: see `Refusals.take`. mix: the name of the sample's source."""
        if mix not in self._of:
            self._of[mix] = Refusals(self._most, holds=self._holds)
        return self._of[mix].take(outcome)

    def end(self) -> list[Skipped]:
        """Returns the samples held at the end: see `Refusals.end`."""
        return [skipped for refusals in self._of.values() for skipped in refusals.end()]


def _is_refusal(skipped: Skipped) -> bool:
    return skipped.reason in _ACCESS or skipped.reason.startswith("http-")


def _is_shard(skipped: Skipped) -> bool:
    return skipped.index < 0 and skipped.reason not in ("unreadable-folder", "odd-key")


def _remedy(reason: str) -> str:
    if reason == "http-429":
        return "The server limits the rate of requests: lower concurrent_downloads, or raise max_retry_after_s."
    if reason in _RAN_OUT:
        return "A token, key or signed address may have run out: renew it."
    if reason in ("missing", "unreadable", "unreadable-folder", "http-404"):
        return "The data may have been moved, or its file system is no longer mounted."
    return "Check the network and the server."
