"""Writes what was measured as Markdown: the report, and its summary in docs/performance.md."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.common import number, table
from benchmarks.suite.cached import EMPTY, FULL
from benchmarks.suite.figures import Figures, Table
from benchmarks.suite.idle import PAUSE_S
from benchmarks.suite.peers import OURS

__all__ = ["into_docs", "markdown", "marks", "summary"]

DOCS = Path(__file__).parents[2] / "docs"
UNITS = {"images/s": "Images a second", "GB/s": "Payloads alone, GB a second", "s": "Seconds to the first batch"}
LEVEL = 0.03
"""What two medians may differ by, as a share, and still count as level: runs of one contestant differ by as much."""
STEADY = {"images/s": "from the first batch on", "GB/s": "requests/s"}
LAST = {"images/s": "CPU, us a sample", "s": "memory, MB"}


def markdown(figures: Figures) -> str:
    """Returns all tables."""
    return "\n".join(_report(figures)) + "\n"


def summary(figures: Figures) -> str:
    """Returns the medians alone, a line for each workload."""
    peers = {key: table for key, table in figures.tables.items() if not key.startswith("cache")}
    lines = [*(line for unit in UNITS for line in _medians(peers, unit)), *_cache(figures)]
    return "\n".join([*_head(figures), *lines]) + "\n"


def into_docs(figures: Figures, plots: list[Path]) -> None:
    """Puts the summary between the marks in docs/performance.md, and the report and the plots beside that page."""
    page, folder = DOCS / "performance.md", DOCS / "performance"
    folder.mkdir(exist_ok=True)
    (DOCS / "pictures").mkdir(exist_ok=True)
    for plot in plots:  # the chart for the README lies beside its other pictures
        shutil.copy(plot, DOCS / "pictures" if plot.suffix == ".svg" else folder)
    pictures = "".join(f"\n![{plot.stem}]({plot.name})\n" for plot in plots if plot.suffix != ".svg")
    (folder / "report.md").write_text(f"# Everything that `make bench` measured\n\n{markdown(figures)}{pictures}")
    text = _between(page.read_text(), "measured", summary(figures))
    for part, made in figures.programs.items():
        text = _renewed(text, part, f"{_caption(figures, made['load'])}\n\n{made['text']}")
    page.write_text(_renewed(text, "won", "\n".join(_won(figures))))


def _caption(figures: Figures, load: str) -> str:
    machine = ", ".join(figures.machine.split(", ")[:2])
    where = f"{machine}, {figures.date}, load average {load}"
    return f"{where}: medians, and ranges in brackets where it was run more than once."


def _renewed(page: str, part: str, text: str) -> str:
    """Puts the table of a part between its marks, where the page has them and there is a table."""
    return _between(page, part, text) if text and marks(part)[0] in page else page


def _between(page: str, part: str, text: str) -> str:
    """Puts the text between the marks of a part. Raises ValueError if the page has no such marks."""
    begin, end = marks(part)
    before, rest = page.split(begin)
    return f"{before}{begin}\n\n{text.strip()}\n\n{end}{rest.split(end)[1]}"


def marks(part: str) -> tuple[str, str]:
    """Returns the comments between which docs/performance.md has a part of the report."""
    return f"<!-- {part}: begin -->", f"<!-- {part}: end -->"


def _head(figures: Figures) -> Iterator[str]:
    yield f"Machine: {figures.machine}." + (f" Measured on {figures.date}." if figures.date else "")
    if figures.versions:
        yield "Versions: " + ", ".join(f"{name} {version}" for name, version in sorted(figures.versions.items())) + "."
    if figures.took_s:
        took = ", ".join(f"{part} {seconds / 60:.1f}" for part, seconds in figures.took_s.items())
        yield f"\nMinutes: {sum(figures.took_s.values()) / 60:.0f} in all; {took}."
    yield from (f"\n{note}" for note in figures.notes)
    yield from (f"\nNot installed: {name} ({reason})." for name, reason in figures.missing.items())


def _medians(figures: dict[str, Table], unit: str) -> Iterator[str]:
    """One table for a unit. A contestant that takes part in a single workload of several is left out."""
    tables = [table for table in figures.values() if table.unit == unit and table.runs]
    seen = Counter(name for table in tables for name in table.runs if not name.startswith("limit"))
    names = [name for name, count in seen.items() if count > 1 or len(tables) < 3]
    names.sort(key=lambda name: not name.startswith(OURS.name))
    if tables:
        shares = unit != "s"
        header = [UNITS[unit], *names, *["ours, of the nearer limit"] * shares]
        yield ""
        yield from table(header, ([each.title, *_row(each, names), *[_share(each)] * shares] for each in tables))


def _cache(figures: Figures) -> Iterator[str]:
    tables = [table for key, table in figures.tables.items() if key.startswith("cache") and table.runs]
    if tables:
        yield ""
        header = ["Images a second with a cache", "without", "while it fills", "from the cache"]
        yield from table(header, ([each.title, *_row(each, [OURS.name, EMPTY, FULL])] for each in tables))


def _won(figures: Figures) -> Iterator[str]:
    """Ours beside the fastest peer, a line for each workload: won, level or lost."""
    rows = []
    for each in figures.tables.values():
        peers = [name for name in each.runs if not name.startswith((OURS.name, "limit"))]
        if OURS.name in each.runs and peers:
            times = {name: _times(each, name) for name in peers}
            nearest = min(times, key=times.__getitem__)
            verdict = "level" if abs(times[nearest] - 1) <= LEVEL else "won" if times[nearest] > 1 else "**lost**"
            datago = f"{times['datago']:.2f}" if "datago" in times else ""
            rows.append([each.title, datago, f"{times[nearest]:.2f}: {nearest}", verdict])
    if rows:
        yield f"Of {figures.date}, from the tables above. Level: within {LEVEL:.0%}.\n"
        yield from table(["workload", "datago_gpu, times datago", "times the fastest peer", ""], rows)


def _times(found: Table, name: str) -> float:
    """How many times as fast as a contestant ours is."""
    return found.ratio(name, OURS.name) if found.unit == "s" else found.ratio(OURS.name, name)


def _row(found: Table, names: list[str]) -> Iterator[str]:
    return (number(found.median(name)) if name in found.runs else "" for name in names)


def _share(found: Table) -> str:
    limit = found.limit() if OURS.name in found.runs else ""
    return f"{found.ratio(OURS.name, limit):.0%}" if limit else ""


def _report(figures: Figures) -> Iterator[str]:
    yield from _head(figures)
    for each in figures.tables.values():
        yield from _workload(each)
    for varied, lines in figures.scaling.items():
        values = sorted({value for line in lines.values() for value, _ in line})
        rows = (
            [name, *(number(dict(line)[value]) if value in dict(line) else "" for value in values)]
            for name, line in lines.items()
        )
        yield from _titled(f"**{varied}** (images/s)", ["", *(f"{value:g}" for value in values)], rows)
    yield from _idle(figures)
    yield from _costs(figures)
    yield from _programs(figures)
    yield from _stages(figures)


def _titled(title: str, header: list[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    yield f"\n{title}\n"
    yield from table(header, rows)


def _workload(found: Table) -> Iterator[str]:
    load = f" (load average {found.load:.1f})" if found.runs else ""
    title, steady, last = f"**{found.title}**{load}", STEADY.get(found.unit, ""), LAST.get(found.unit, "")
    if not found.runs:
        yield f"\n{title}\n"
        yield from (f"- {name}: {reason}" for name, reason in found.absent.items())
        yield from (f"- {line}" for line in found.stalls())
        return
    absent = ([name, reason, "", "", "", ""] for name, reason in found.absent.items())
    header = ["", f"{found.unit}, median (range)", steady, "ours to it", "first batch, s", last]
    yield from _titled(title, header, [*([name, *_cells(found, name)] for name in found.runs), *absent])
    yield from (f"\n{line}" for line in found.stalls())
    if OURS.name in found.runs and (limit := found.limit()):
        part = found.steady(OURS.name) / found.median(limit)
        from_first = f"; from the first batch on {part:.0%}" if found.unit == "images/s" else ""
        yield f"\nThe nearer {limit}: ours is at {_share(found)} of it{from_first}."
        if together := found.together():
            part = found.steady(OURS.name) / together
            yield (f"Both limits and the server want the same cores: one after the other they come to {together:,.0f} "
                   f"{found.unit}, of which ours has {part:.0%} from the first batch on.")  # fmt: skip


def _cells(found: Table, name: str) -> Iterator[str]:
    values, first_s = found.values(name), found.median(name, "first_s")
    yield f"{number(found.median(name))} ({number(min(values))} to {number(max(values))})"
    if found.unit == "GB/s":
        yield number(found.steady(name, 0))
    else:
        yield number(found.steady(name)) if found.unit == "images/s" and first_s else ""
    ratio = 0.0
    if name != OURS.name and OURS.name in found.runs:
        ratio = _times(found, name)
    yield f"{ratio:.2f} x" if ratio else ""
    yield f"{first_s:.2f}" if first_s else ""
    last = found.median(name, "memory_mb" if found.unit == "s" else "cpu_us") if LAST.get(found.unit) else 0.0
    yield f"{last:,.0f}" if last else ""


def _costs(figures: Figures) -> Iterator[str]:
    if figures.costs_us:
        yield from _titled(
            "**What one more sample costs** (CPU microseconds; from runs of two lengths, so without the start)",
            ["workload", "feeder process", "hand-over thread", "trainer's thread", "pixels"],
            ([title, *(f"{value:,.0f}" for value in costs.values())] for title, costs in figures.costs_us.items()),
        )


def _idle(figures: Figures) -> Iterator[str]:
    if figures.idle:
        yield from _titled(
            "**What the feeder takes while the trainer is the slow one** (with the processes that download for it)",
            ["source", "of a core, the trainer stands still", "wake-ups a second", f"{PAUSE_S} s a batch", "images/s"],
            (
                [title, f"{made['still_cores']:.2%}", f"{made['still_wakes_per_s']:.1f}", f"{made['slow_cores']:.2%}",
                 f"{made['slow_images_per_s']:.0f}"]
                for title, made in figures.idle.items()
            ),
        )  # fmt: skip


def _programs(figures: Figures) -> Iterator[str]:
    for made in figures.programs.values():
        yield f"\n**{made['title']}** (load average {made['load']}; medians and ranges)\n"
        yield made["text"]


def _stages(figures: Figures) -> Iterator[str]:
    runs = {
        each.title: each.runs[OURS.name][-1]
        for each in figures.tables.values()
        if "stages" in each.runs.get(OURS.name, [{}])[-1]
    }
    if runs:
        names = [stage["name"] for stage in next(iter(runs.values()))["stages"]]
        yield from _titled(
            "**How busy each stage was** (share of the time in which it waited for neither side; the last run)",
            ["workload", *names, "slowest"],
            (
                [title, *(f"{1 - s['waited_input'] - s['waited_output']:.0%}" for s in run["stages"]), run["slowest"]]
                for title, run in runs.items()
            ),
        )
