"""The Markdown of what was measured."""

from __future__ import annotations

from collections.abc import Iterator

from suite.figures import Figures, Table
from suite.peers import OURS

__all__ = ["markdown"]


def markdown(figures: Figures) -> str:
    """All tables."""
    return "\n".join(_lines(figures)) + "\n"


def _lines(figures: Figures) -> Iterator[str]:
    yield f"Machine: {figures.machine}."
    if figures.versions:
        yield "Versions: " + ", ".join(f"{name} {version}" for name, version in sorted(figures.versions.items())) + "."
    yield from (f"\n{note}" for note in figures.notes)
    for name, reason in figures.missing.items():
        yield f"\nNot installed: {name} ({reason})."
    for table in figures.tables.values():
        yield from _table(table)
    for varied, lines in figures.scaling.items():
        yield from _scaling(varied, lines)
    yield from _costs(figures)
    yield from _stages(figures)


def _table(table: Table) -> Iterator[str]:
    load = f" (load average {table.load:.1f})" if table.runs else ""
    yield f"\n**{table.title}**{load}\n"
    if not table.runs:
        yield from (f"- {name}: {reason}" for name, reason in table.absent.items())
        return
    limit = table.limit()
    ours = table.median(OURS.name) if OURS.name in table.runs else 0.0
    memory = any(run.get("memory_mb") for runs in table.runs.values() for run in runs)
    yield f"| | {table.unit}, median (range) | ours to it | {'memory, MB' if memory else 'first batch, s'} |"
    yield "| --- | --- | --- | --- |"
    for name in table.runs:
        values, median = table.values(name), table.median(name)
        mark = " (the nearer)" if name == limit else ""
        share = f"{ours / median:.0%}" if name.startswith("limit") else f"{ours / median:.2f} x"
        if table.unit == "s":
            share = f"{median / ours:.2f} x" if ours else ""
        last = table.median(name, "memory_mb" if memory else "first_s")
        said = f"{last:,.0f}" if memory else f"{last:.2f}" if last else ""
        yield (f"| {name}{mark} | {_number(median)} ({_number(min(values))} to {_number(max(values))}) | "
               f"{'' if name == OURS.name or not ours else share} | {said} |")  # fmt: skip
    yield from (f"| {name} | {reason} | | |" for name, reason in table.absent.items())


def _scaling(varied: str, lines: dict[str, list[tuple[float, float]]]) -> Iterator[str]:
    values = sorted({value for line in lines.values() for value, _ in line})
    yield f"\n**{varied}** (images/s)\n"
    yield "| | " + " | ".join(f"{value:g}" for value in values) + " |"
    yield "| --- |" + " --- |" * len(values)
    for name, line in lines.items():
        known = dict(line)
        yield f"| {name} | " + " | ".join(_number(known[v]) if v in known else "" for v in values) + " |"


def _costs(figures: Figures) -> Iterator[str]:
    rows = [(table.title, name, table.runs[name]) for table in figures.tables.values() for name in table.runs]
    rows = [(title, name, runs) for title, name, runs in rows if any(run.get("costs_us") for run in runs)]
    if not rows:
        return
    yield "\n**What a sample costs** (CPU microseconds, median)\n"
    yield "| workload | feeder process | hand-over thread | pixels |"
    yield "| --- | --- | --- | --- |"
    for title, name, runs in rows:
        known = sorted((run["costs_us"] for run in runs if run.get("costs_us")), key=lambda costs: costs["feeder"])
        costs = known[len(known) // 2]
        what = title if name == OURS.name else f"{title} ({name})"
        cells = " | ".join(f"{costs.get(part, 0):,.0f}" for part in ("feeder", "hand-over", "pixels"))
        yield f"| {what} | {cells} |"


def _stages(figures: Figures) -> Iterator[str]:
    rows = [table for table in figures.tables.values() if "stages" in table.runs.get(OURS.name, [{}])[-1]]
    if not rows:
        return
    yield "\n**How busy each stage was** (share of the time in which it waited for neither side; the last run)\n"
    names = [stage["name"] for stage in rows[0].runs[OURS.name][-1]["stages"]]
    yield "| workload | " + " | ".join(names) + " | slowest |"
    yield "| --- |" + " --- |" * (len(names) + 1)
    for table in rows:
        run = table.runs[OURS.name][-1]
        busy = " | ".join(f"{1 - s['waited_input'] - s['waited_output']:.0%}" for s in run["stages"])
        yield f"| {table.title} | {busy} | {run['slowest']} |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
