"""Draws what was measured, as PNG; and the chart for the README, as SVG.

python -m benchmarks.suite.plots results/bench/figures.json docs/pictures/speed.svg     that chart alone
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any

from benchmarks.common import number
from benchmarks.suite.figures import Figures, Table
from benchmarks.suite.peers import OURS

__all__ = ["draw", "headline"]

COLOURS = {"ours": "#1f6feb", "peer": "#8b949e"}
STAGE_COLOURS = ("#1f6feb", "#f0c36d", "#d0d7de")
WIDTH = 9.0
GROUPS = ("shards", "dataroom", "payloads", "million", "cache")
"""What the names of tables begin with that are drawn together; all others are of local files."""
LIMIT_SHOWN = 1.5
"""Times the longest bar: a limit that is further away is left out."""

HEADLINE = {"500px-224": "local JPEGs, 500 px to 224 px", "2.5mp-512": "local JPEGs, 2.5 megapixels to 512 px",
            "shards-near": "WebDataset shards over HTTP, 500 px to 224 px"}  # fmt: skip
"""Tables of the chart, and what it calls them."""
CONTESTANTS = {
    OURS.name: OURS.name,
    "datago": "datago",
    "torch DataLoader + torchcodec": "torch + torchcodec",
    "torch DataLoader + Pillow": "torch + Pillow",
    "SPDL": "SPDL",
    "webdataset": "webdataset",
}
"""Contestants of the chart, and what it calls them."""


def draw(figures: Figures, out: Path) -> list[Path]:
    """The files written. Raises ImportError without matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    plots = {"scaling.png": _lines(figures.scaling), "stages.png": _stages(figures)}
    for group, tables in _groups(figures).items():
        rates = [table for table in tables if table.unit != "s"]
        waits = [table for table in tables if table.unit != "GB/s"]
        plots[f"throughput-{group}.png"] = _bars(rates, "", "more is better")
        plots[f"first-batch-{group}.png"] = _bars(waits, "first_s", "seconds to the first batch, less is better")
    written = []
    for name, figure in plots.items():
        if figure is not None:
            figure.savefig(out / name, dpi=110, bbox_inches="tight")
            written.append(out / name)
    return [*written, *headline(figures, out / "speed.svg")]


def headline(figures: Figures, path: Path) -> list[Path]:
    """Writes the chart for the README: images a second of a few contestants, no limits. Returns the files written.

    It is opaque, and its letters can be read at a width of 420 pixels. Raises ImportError without matplotlib.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    known = {title: figures.tables[key] for key, title in HEADLINE.items() if key in figures.tables}
    tables = {title: table for title, table in known.items() if table.runs}
    if not tables:
        return []
    shown = [[name for name in CONTESTANTS if name in table.runs] for table in tables.values()]
    heights = [len(names) + 0.2 for names in shown]
    figure = Figure(figsize=(6.0, 0.25 * sum(heights) + 0.45 * len(tables) + 0.55), facecolor="white")
    axes = figure.subplots(len(tables), 1, squeeze=False, height_ratios=heights).flat
    for axis, (title, table), names in zip(axes, tables.items(), shown, strict=True):
        _panel(axis, title, {name: table.median(name) for name in names})
    figure.suptitle("Images a second, CPU only; more is better", x=0.02, y=0.99, ha="left", fontsize=13, weight="bold")
    place = ", ".join(part for part in (*figures.machine.split(", ")[:2], figures.date) if part)
    runs = min(len(each) for table in tables.values() for each in table.runs.values())
    figure.text(0.02, 0.92, f"{place}; median of {runs} runs", fontsize=9.5)
    figure.tight_layout(rect=(0, 0, 1, 0.93), h_pad=1.3)
    with mpl.rc_context({"svg.hashsalt": "datago_gpu"}):  # the same figures make the same file
        figure.savefig(path, metadata={"Date": None})
    return [path]


def _panel(axis: Any, title: str, rates: dict[str, float]) -> None:
    names = list(rates)[::-1]
    bars = axis.barh([CONTESTANTS[name] for name in names], [rates[name] for name in names], height=0.78,
                     color=[_colour(name) for name in names])  # fmt: skip
    for label, name in zip(axis.bar_label(bars, [f"{rates[n]:,.0f}" for n in names], padding=4), names, strict=True):
        label.set(fontsize=10, weight="bold" if name == OURS.name else "normal")
    axis.get_yticklabels()[-1].set_weight("bold")
    axis.set_title(title, fontsize=10.5, loc="left", pad=4)
    axis.tick_params(labelsize=10, length=0)
    axis.set_xticks([])
    axis.margins(x=0.1, y=0.01)
    for side in ("top", "right", "bottom"):
        axis.spines[side].set_visible(False)


def _groups(figures: Figures) -> dict[str, list[Table]]:
    """Returns tables that are looked at together."""
    found: dict[str, list[Table]] = {}
    for key, table in figures.tables.items():
        kind = key.partition("-")[0]
        group = "server-on-own-core" if table.apart else kind if kind in GROUPS else "local"
        if table.runs:
            found.setdefault(group, []).append(table)
    return found


def _bars(tables: list[Table], key: str, meaning: str) -> Any:
    """Draws a panel for each table. key: of the runs, in place of the table's unit."""
    if not tables:
        return None
    shown = [[name for name in table.runs if not name.startswith("limit")][::-1] for table in tables]
    heights = [len(names) + 1.6 for names in shown]
    figure, axes = _figure(len(tables), 1, 0.26 * sum(heights) + 0.3, heights)
    for axis, table, names in zip(axes, tables, shown, strict=True):
        spread = [[run.get(key) or 0.0 for run in table.runs[name]] if key else table.values(name) for name in names]
        values = [table.median(name, key) for name in names]
        errors = [[v - min(s) for v, s in zip(values, spread, strict=True)],
                  [max(s) - v for v, s in zip(values, spread, strict=True)]]  # fmt: skip
        bars = axis.barh(names, values, xerr=errors, color=[_colour(name) for name in names], ecolor="#57606a")
        axis.bar_label(bars, [f" {number(v)}" for v in values], fontsize=9, padding=6)
        axis.margins(x=0.14)
        limit = "" if key else _limit(axis, table, max(values))
        title = f"{table.title} ({'s' if key else table.unit}){limit}"
        axis.set_title(textwrap.fill(title, 96), fontsize=9.5, loc="left")
        _plain(axis)
    figure.suptitle(meaning, fontsize=9.5, y=1.0, verticalalignment="bottom")
    figure.tight_layout()
    return figure


def _limit(axis: Any, table: Table, most: float) -> str:
    """Marks the nearer limit with a thin line, unless it would dwarf the bars. Returns words that name it."""
    limit = table.limit()
    if not limit or table.median(limit) > LIMIT_SHOWN * most:
        return ""
    axis.axvline(table.median(limit), color="#57606a", linewidth=1, linestyle="--", zorder=0)
    return f"; dashed: {limit}"


def _lines(scaling: dict[str, dict[str, list[tuple[float, float]]]]) -> Any:
    if not scaling:
        return None
    figure, axes = _figure(1, len(scaling), 3.2)
    for axis, (varied, lines) in zip(axes, scaling.items(), strict=True):
        for name, line in lines.items():
            width = 2.2 if name.startswith(OURS.name) else 1.2
            axis.plot(*zip(*line, strict=True), marker="o", markersize=3, label=name, linewidth=width)
        axis.set_xscale("log", base=2)
        ticks = sorted({value for line in lines.values() for value, _ in line})
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_ylim(bottom=0)
        axis.set_ylabel("images/s", fontsize=7)
        axis.set_title(varied, fontsize=8, loc="left")
        axis.legend(fontsize=6, frameon=False)
        _plain(axis)
    figure.tight_layout()
    return figure


def _stages(figures: Figures) -> Any:
    tables = [table for table in figures.tables.values() if "stages" in table.runs.get(OURS.name, [{}])[-1]]
    if not tables:
        return None
    figure, axes = _figure(-(-len(tables) // 2), 2 if len(tables) > 1 else 1, 1.5 * -(-len(tables) // 2) + 0.5)
    for axis, table in zip(axes, tables, strict=False):
        stages = table.runs[OURS.name][-1]["stages"][::-1]
        names = [stage["name"] for stage in stages]
        inputs, outputs = [s["waited_input"] for s in stages], [s["waited_output"] for s in stages]
        busy = [max(1 - i - o, 0.0) for i, o in zip(inputs, outputs, strict=True)]
        begin = [0.0] * len(stages)
        for label, values, colour in zip(("at work", "waits for input", "waits for output"), (busy, inputs, outputs),
                                         STAGE_COLOURS, strict=True):  # fmt: skip
            axis.barh(names, values, left=begin, color=colour, label=label)
            begin = [b + v for b, v in zip(begin, values, strict=True)]
        axis.set_xlim(0, 1)
        axis.set_title(textwrap.fill(table.title, 62), fontsize=8, loc="left")
        _plain(axis)
    for axis in axes[len(tables) :]:
        axis.remove()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="upper center", ncol=3, fontsize=7, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.95))
    return figure


def _figure(rows: int, columns: int, high: float, heights: list[float] | None = None) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, high))
    return figure, list(figure.subplots(rows, columns, squeeze=False, height_ratios=heights).flat)


def _plain(axis: Any) -> None:
    axis.tick_params(labelsize=8.5)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _colour(name: str) -> str:
    return COLOURS["ours" if name.startswith(OURS.name) else "peer"]


if __name__ == "__main__":
    headline(Figures.read(Path(sys.argv[1])), Path(sys.argv[2]))
