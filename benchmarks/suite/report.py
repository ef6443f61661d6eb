"""The Markdown of what was measured."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from benchmarks.suite.figures import Figures, Table
from benchmarks.suite.idle import PAUSE_S
from benchmarks.suite.peers import OURS

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
    yield from _idle(figures)
    yield from _costs(figures)
    yield from _stages(figures)


def _table(table: Table) -> Iterator[str]:
    load = f" (load average {table.load:.1f})" if table.runs else ""
    yield f"\n**{table.title}**{load}\n"
    if not table.runs:
        yield from (f"- {name}: {reason}" for name, reason in table.absent.items())
        return
    last = "memory, MB" if table.unit == "s" else "CPU, us a sample"
    yield f"| | {table.unit}, median (range) | from the first batch on | ours to it | first batch, s | {last} |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for name in table.runs:
        yield f"| {name} | " + " | ".join(_cells(table, name)) + " |"
    yield from (f"| {name} | {reason} | | | | |" for name, reason in table.absent.items())
    if OURS.name in table.runs and (limit := table.limit()):
        share, steady = (rate / table.median(limit) for rate in (table.median(OURS.name), table.steady(OURS.name)))
        from_first = f"; from the first batch on {steady:.0%}" if table.unit == "images/s" else ""
        yield f"\nThe nearer {limit}: ours is at {share:.0%} of it{from_first}."
        if together := table.together():
            part = table.steady(OURS.name) / together
            yield (f"Both limits and the server want the same cores: one after the other they come to {together:,.0f} "
                   f"{table.unit}, of which ours has {part:.0%} from the first batch on.")  # fmt: skip


def _cells(table: Table, name: str) -> Iterator[str]:
    values, median = table.values(name), table.median(name)
    yield f"{_number(median)} ({_number(min(values))} to {_number(max(values))})"
    first_s = table.median(name, "first_s")
    yield _number(table.steady(name)) if table.unit == "images/s" and first_s else ""
    ratio = 0.0
    if name != OURS.name and OURS.name in table.runs:
        ours = table.median(OURS.name)
        ratio = median / ours if table.unit == "s" else ours / median
    yield f"{ratio:.2f} x" if ratio else ""
    yield f"{first_s:.2f}" if first_s else ""
    last = table.median(name, "memory_mb" if table.unit == "s" else "cpu_us")
    yield f"{last:,.0f}" if last else ""


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


def _idle(figures: Figures) -> Iterator[str]:
    if not figures.idle:
        return
    yield "\n**What the feeder takes while the trainer is the slow one** (with the processes that download for it)\n"
    yield f"| source | of a core, the trainer stands still | wake-ups a second | {PAUSE_S} s a batch | images/s |"
    yield "| --- | --- | --- | --- | --- |"
    for title, made in figures.idle.items():
        still, slow = f"{made['still_cores']:.2%}", f"{made['slow_cores']:.2%}"
        yield f"| {title} | {still} | {made['still_wakes_per_s']:.1f} | {slow} | {made['slow_images_per_s']:.0f} |"


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
