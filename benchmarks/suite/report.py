"""The Markdown of what was measured."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from suite.figures import Figures, Table
from suite.peers import OURS

__all__ = ["into_docs", "markdown"]

DOCS = Path(__file__).parent.parent.parent / "docs"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def markdown(figures: Figures) -> str:
    """All tables."""
    return "\n".join(_lines(figures)) + "\n"


def into_docs(text: str, plots: list[Path]) -> None:
    """Put the tables between the marks in docs/performance.md, and the plots beside it."""
    page = DOCS / "performance.md"
    before, rest = page.read_text().split(BEGIN)
    (DOCS / "performance").mkdir(exist_ok=True)
    pictures = ""
    for plot in plots:
        shutil.copy(plot, DOCS / "performance")
        pictures += f"\n![{plot.stem}](performance/{plot.name})\n"
    page.write_text(f"{before}{BEGIN}\n\n{text}{pictures}\n{END}{rest.split(END)[1]}")


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
    yield (f"| | {table.unit}, median (range) | ours to it | {'memory, MB' if memory else 'first batch, s'} | "
           "CPU, us a sample |")  # fmt: skip
    yield "| --- | --- | --- | --- | --- |"
    for name in table.runs:
        values, median = table.values(name), table.median(name)
        mark = " (the nearer)" if name == limit else ""
        share = f"{ours / median:.0%}" if name.startswith("limit") else f"{ours / median:.2f} x"
        if table.unit == "s":
            share = f"{median / ours:.2f} x" if ours else ""
        last = table.median(name, "memory_mb" if memory else "first_s")
        said = f"{last:,.0f}" if memory else f"{last:.2f}" if last else ""
        cost = 0.0 if table.unit == "s" else table.median(name, "cpu_us")
        yield (f"| {name}{mark} | {_number(median)} ({_number(min(values))} to {_number(max(values))}) | "
               f"{'' if name == OURS.name or not ours else share} | {said} | "
               f"{f'{cost:,.0f}' if cost else ''} |")  # fmt: skip
    yield from (f"| {name} | {reason} | | | |" for name, reason in table.absent.items())


def _scaling(varied: str, lines: dict[str, list[tuple[float, float]]]) -> Iterator[str]:
    values = sorted({value for line in lines.values() for value, _ in line})
    yield f"\n**{varied}** (images/s)\n"
    yield "| | " + " | ".join(f"{value:g}" for value in values) + " |"
    yield "| --- |" + " --- |" * len(values)
    for name, line in lines.items():
        known = dict(line)
        yield f"| {name} | " + " | ".join(_number(known[v]) if v in known else "" for v in values) + " |"


def _costs(figures: Figures) -> Iterator[str]:
    if not figures.costs_us:
        return
    yield "\n**What one more sample costs** (CPU microseconds; from runs of two lengths, so without the start)\n"
    yield "| workload | feeder process | hand-over thread | trainer's thread | pixels |"
    yield "| --- | --- | --- | --- | --- |"
    for title, costs in figures.costs_us.items():
        yield f"| {title} | " + " | ".join(f"{value:,.0f}" for value in costs.values()) + " |"


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
