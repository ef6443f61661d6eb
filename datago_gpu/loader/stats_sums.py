"""Adds up the statistics of several passes, and subtracts an earlier snapshot from a later one."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from datago_gpu.loader.durations import Durations
from datago_gpu.loader.stats import MixCount, Stage

if TYPE_CHECKING:
    from datago_gpu.loader.stats import Stats

__all__ = ["difference", "total"]

_OF_NOW = frozenset(
    ("passed_over", "decode_processes", "queues", "epoch", "epoch_done", "epoch_total", "rank", "source")
)
"""Fields that say how things are, not how much there was: the later snapshot has them."""
_CORES = frozenset(("feeder_cores", "decode_cores"))
_SHORTEST_S = 1e-9


def total(earlier: Stats, later: Stats) -> Stats:
    """Returns the statistics of two passes together."""
    return _combine(later, earlier, 1)


def difference(later: Stats, earlier: Stats) -> Stats:
    """Returns the statistics of the time between two snapshots. If the later one counts anew, it is the difference."""
    if later.seconds < earlier.seconds or later.delivered < earlier.delivered:
        return later
    return _combine(later, earlier, -1)


def _combine(later: Stats, earlier: Stats, sign: int) -> Stats:
    """Returns the sum, or with sign -1 the difference. Fields that this function does not know are counts."""
    seconds = max(later.seconds + sign * earlier.seconds, _SHORTEST_S)
    spans = later.seconds, sign * earlier.seconds, seconds
    changed: dict[str, Any] = {"seconds": seconds, "stages": _stages(later, earlier, sign, spans)}
    for name in (field.name for field in fields(later)):
        if name in _CORES:
            changed[name] = _share(getattr(later, name), getattr(earlier, name), spans)
        elif name not in _OF_NOW and name not in changed:
            changed[name] = _add(getattr(later, name), getattr(earlier, name), sign)
    return replace(later, **changed)


def _stages(later: Stats, earlier: Stats, sign: int, spans: tuple[float, float, float]) -> tuple[Stage, ...]:
    before = {stage.name: stage for stage in earlier.stages}
    found = []
    for stage in later.stages:
        other = before.get(stage.name, Stage(stage.name, 0, 0.0, 0.0, 0.0))
        items = max(0, stage.items + sign * other.items)
        waits = (
            _share(getattr(stage, name), getattr(other, name), spans) for name in ("waited_input", "waited_output")
        )
        found.append(Stage(stage.name, items, items / spans[2], *waits))
    return tuple(found)


def _share(later: float, earlier: float, spans: tuple[float, float, float]) -> float:
    """Returns a share of the combined time. spans: seconds of both snapshots, the earlier one's with its sign, and of
    the combined time."""
    return max(0.0, (later * spans[0] + earlier * spans[1]) / spans[2])


def _add(later: Any, earlier: Any, sign: int) -> Any:
    if isinstance(later, Durations):
        return later.plus(earlier, sign)
    if isinstance(later, MixCount):
        return MixCount(
            _add(later.delivered, earlier.delivered, sign),
            _add(later.skipped, earlier.skipped, sign),
            later.passes,
            _add(later.filtered, earlier.filtered, sign),
        )
    if isinstance(later, dict):
        both = {**earlier, **later} if sign > 0 else later
        found = {name: _add_one(later.get(name), earlier.get(name), sign) for name in both}
        return {name: value for name, value in found.items() if value or isinstance(later.get(name), MixCount)}
    return later + sign * earlier


def _add_one(later: Any, earlier: Any, sign: int) -> Any:
    """Adds two entries of a dict, of which one may be absent."""
    if later is None or earlier is None:
        return earlier if later is None else later
    return _add(later, earlier, sign)
