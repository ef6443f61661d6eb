"""Statistics as a text to print."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datago_gpu.loader.stats import MixCount, Stats

__all__ = ["duration_text", "stats_text"]


def stats_text(stats: Stats) -> str:
    """Returns totals, the sources of a mix, a table of the stages, the trainer's waits, and the slowest stage."""
    mix = [f"source {name}: {_describe(count)}" for name, count in stats.mix.items()]
    took = f"slowest: {stats.slowest}; the feeder used {stats.feeder_cores:.0%} of a core"
    if stats.decode_processes:
        took += f", {stats.decode_processes} decode processes {stats.decode_cores:.0%}"
    if stats.cache_hits or stats.cache_misses:
        took += f"; from the cache: {stats.cache_hits:,} ({stats.cache_bytes / 1e6:,.1f} MB)"
        took += f", not in the cache: {stats.cache_misses:,}"
    return "\n".join([_totals(stats), *mix, *_table(stats), *_waits(stats), *_progress(stats), took])


def duration_text(seconds: float) -> str:
    """Returns a duration with a unit that suits it."""
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02} min"


def _totals(stats: Stats) -> str:
    skipped = ", ".join(f"{count:,} {reason}" for reason, count in stats.skipped.items()) or "none"
    flawed = "".join(f", delivered with {reason}: {count:,}" for reason, count in stats.flawed.items())
    passed = ", ".join(f"{count:,} {kind}" for kind, count in sorted(stats.passed_over.items()))
    flawed += f"; passed over: {passed}" if passed else ""
    skipped += f"; filtered: {stats.filtered:,}" if stats.filtered else ""
    skipped += f"; dropped at the end: {stats.dropped:,}" if stats.dropped else ""
    skipped += f"; rescued by Pillow: {stats.rescued:,}" if stats.rescued else ""
    came = f"{stats.delivered:,} samples in {stats.seconds:.2f} s ({stats.delivered / stats.seconds:,.0f} a second)"
    return f"{came}, {stats.bytes / 1e6:,.1f} MB encoded, skipped: {skipped}{flawed}"


def _table(stats: Stats) -> list[str]:
    rows = [["stage", "samples", "samples/s", "waited for input", "waited for output"]]
    for stage in stats.stages:
        waits = (f"{share:.0%}" for share in (stage.waited_input, stage.waited_output))
        rows.append([stage.name, f"{stage.items:,}", f"{stage.per_s:,.0f}", *waits])
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    return ["  ".join([name.ljust(first), *map(str.rjust, values, others)]) for name, *values in rows]


def _waits(stats: Stats) -> list[str]:
    if not stats.data_wait.count:
        return []
    shown = [f"p{percent} {duration_text(stats.data_wait.percentile_s(percent))}" for percent in (50, 95, 99)]
    return [f"the trainer waited for a batch: {', '.join(shown)}"]


def _progress(stats: Stats) -> list[str]:
    if stats.progress is None:
        return []
    left = "" if stats.eta_s is None else f", {duration_text(stats.eta_s)} left at this rate"
    return [f"epoch {stats.epoch}: {stats.epoch_done:,} of {stats.epoch_total:,} samples{left}"]


def _describe(count: MixCount) -> str:
    skipped = ", ".join(f"{number:,} {reason}" for reason, number in count.skipped.items())
    skipped = f", skipped: {skipped}" if skipped else ""
    filtered = f", filtered: {count.filtered:,}" if count.filtered else ""
    return f"{count.delivered:,} samples{skipped}{filtered}, {count.passes} passes ended"
