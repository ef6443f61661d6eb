"""Draws the metrics of a process as tables: what happened between two looks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.markup import escape
from rich.table import Table

from datago_gpu.cli.top_source import Scrape
from datago_gpu.loader.stats_text import duration_text
from datago_gpu.metrics.catalog import PREFIX
from datago_gpu.metrics.text_format import Line

__all__ = ["loader_tables"]

_STAGES = ("fetch", "pack", "decode", "trainer")
_QUEUE_BEFORE = {"fetch": "fetch", "pack": "bucket", "decode": "decode", "trainer": "ready"}
"""Stage -> the queue that it takes from."""

_Key = tuple[str, str]


def loader_tables(before: Scrape, now: Scrape) -> Iterator[Table]:
    """Yields a table for each loader, named by its labels `name` and `rank`."""
    earlier, later = _by_loader(before.lines), _by_loader(now.lines)
    seconds = max(now.at_s - before.at_s, 1e-9)
    for key in sorted(later):
        yield _table(key, _Values(earlier.get(key, []), later[key], seconds))


def _by_loader(lines: Iterable[Line]) -> dict[_Key, list[Line]]:
    found: dict[_Key, list[Line]] = {}
    for line in lines:
        if line.name.startswith(PREFIX):
            found.setdefault((line.labels.get("name", ""), line.labels.get("rank", "")), []).append(line)
    return found


class _Values:
    """The metrics of one loader at two times."""

    def __init__(self, before: list[Line], now: list[Line], seconds: float) -> None:
        self._before, self._now, self._seconds = before, now, seconds

    def value(self, name: str, **labels: str) -> float | None:
        """Returns the sum of all values of a metric with these labels; None if there is none."""
        return _sum(self._now, name, labels)

    def rate(self, name: str, **labels: str) -> float:
        """Returns how much a counter grew each second."""
        grown = (_sum(self._now, name, labels) or 0.0) - (_sum(self._before, name, labels) or 0.0)
        return max(0.0, grown) / self._seconds

    def percentile_s(self, name: str, percent: float) -> float | None:
        """Returns a percentile of the durations between the two looks; None if there were none."""
        now, before = _buckets(self._now, name), dict(_buckets(self._before, name))
        grown = [(bound, count - before.get(bound, 0.0)) for bound, count in now]
        wanted, below_s, below = percent / 100 * (grown[-1][1] if grown else 0.0), 0.0, 0.0
        if wanted <= 0:
            return None
        for bound, count in grown:
            if count >= wanted:
                if bound == float("inf"):
                    return below_s
                return below_s + (bound - below_s) * (wanted - below) / max(count - below, 1e-9)
            below_s, below = bound, count
        return below_s


def _sum(lines: list[Line], name: str, labels: dict[str, str]) -> float | None:
    found = [line.value for line in lines if line.name == PREFIX + name and labels.items() <= line.labels.items()]
    return sum(found) if found else None


def _buckets(lines: list[Line], name: str) -> list[tuple[float, float]]:
    """Returns the upper bound and the count of each bucket of a histogram, in their order."""
    found = [line for line in lines if line.name == f"{PREFIX}{name}_bucket"]
    return sorted((bound, line.value) for line in found if (bound := _bound(line.labels.get("le", ""))) is not None)


def _bound(text: str) -> float | None:
    """Returns the bound that a label says; None if the server says something else."""
    try:
        return float(text)
    except ValueError:
        return None


def _table(key: _Key, values: _Values) -> Table:
    name, rank = (escape("".join(each if each.isprintable() else "?" for each in text)) for text in key)
    title = f"{name or 'loader'}, rank {rank}: {values.rate('samples_total'):,.0f} samples/s"
    table = Table(title=f"{title}, {values.rate('encoded_bytes_total') / 1e6:,.1f} MB/s encoded", title_justify="left")
    for column in ("stage", "samples/s", "waits for input", "waits for output", "queue before it"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    waited = {stage: values.rate("stage_wait_seconds_total", stage=stage) for stage in _STAGES}
    busiest = min(reversed(_STAGES), key=waited.__getitem__) if values.rate("loading_seconds_total") else ""
    for stage in _STAGES:
        waits = (values.rate("stage_wait_seconds_total", stage=stage, side=side) for side in ("input", "output"))
        mark = " <- slowest" if stage == busiest else ""
        rate = f"{values.rate('stage_samples_total', stage=stage):,.0f}"
        table.add_row(stage + mark, rate, *(f"{min(1.0, wait):.0%}" for wait in waits), _queue(values, stage))
    table.caption = "\n".join(_notes(values))
    table.caption_justify = "left"
    return table


def _queue(values: _Values, stage: str) -> str:
    queue = _QUEUE_BEFORE[stage]
    for unit in ("samples", "batches"):
        depth = values.value(f"queue_{unit}", queue=queue)
        if depth is not None:
            fill = values.value("queue_fill_ratio", queue=queue)
            return f"{depth:,.0f} {unit}" + ("" if fill is None else f", {fill:.0%} full")
    return ""


def _notes(values: _Values) -> Iterator[str]:
    for name, said in (("data_wait_seconds", "data wait"), ("step_seconds", "step")):
        found = [(percent, values.percentile_s(name, percent)) for percent in (50, 95, 99)]
        shown = [f"p{percent} {duration_text(value)}" for percent, value in found if value is not None]
        yield f"{said}: {', '.join(shown) or 'no batch in this time'}"
    progress, left = values.value("epoch_progress_ratio"), values.value("epoch_eta_seconds")
    done = "" if progress is None else f": {progress:.0%}"
    yield f"epoch {values.value('epoch') or 0:.0f}{done}" + ("" if left is None else f", {duration_text(left)} left")
    skipped = values.value("samples_skipped_total") or 0
    yield f"skipped: {skipped:,.0f}; feeder: {values.rate('process_cpu_seconds_total', process='feeder'):.0%} of a core"
