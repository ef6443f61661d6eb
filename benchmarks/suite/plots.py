"""Draws what was measured, as PNG."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from benchmarks.suite.figures import Figures, Table
from benchmarks.suite.peers import OURS

__all__ = ["draw"]

COLOURS = {"ours": "#1f6feb", "peer": "#8b949e", "limit": "#d8dee4"}
STAGE_COLOURS = ("#1f6feb", "#f0c36d", "#d0d7de")
WIDTH = 9.0


def draw(figures: Figures, out: Path) -> list[Path]:
    """The files written. Raises ImportError without matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    plots = {
        "throughput.png": _bars([t for t in figures.tables.values() if t.unit != "s" and t.runs], "", "more is better"),
        "first-batch.png": _bars([t for t in figures.tables.values() if (t.unit == "images/s" and t.runs)
                                  or (t.unit == "s" and t.runs)], "first_s", "s to the first batch, less is better"),
        "scaling.png": _lines(figures.scaling),
        "stages.png": _stages(figures),
    }  # fmt: skip
    written = []
    for name, figure in plots.items():
        if figure is not None:
            figure.savefig(out / name, dpi=110, bbox_inches="tight")
            written.append(out / name)
    return written


def _bars(tables: list[Table], key: str, meaning: str) -> Any:
    if not tables:
        return None
    columns = 2 if len(tables) > 1 else 1
    rows = -(-len(tables) // columns)
    most = [max(len(table.runs) for table in tables[row * columns :][:columns]) for row in range(rows)]
    figure, axes = _figure(rows, columns, sum(0.3 * bars + 0.9 for bars in most), [bars + 1.5 for bars in most])
    for number, (axis, table) in enumerate(zip(axes, tables, strict=False)):
        names = [name for name in table.runs if not key or table.median(name, key)][::-1]
        values = [table.median(name, key) for name in names]
        spread = [[run.get(key) or 0.0 for run in table.runs[name]] if key else table.values(name) for name in names]
        errors = [[v - min(s) for v, s in zip(values, spread, strict=True)],
                  [max(s) - v for v, s in zip(values, spread, strict=True)]]  # fmt: skip
        bars = axis.barh(names, values, xerr=errors, color=[_colour(name) for name in names], ecolor="#57606a")
        axis.bar_label(bars, [f" {v:,.0f}" if v >= 100 else f" {v:.3g}" for v in values], fontsize=7, padding=6)
        axis.margins(x=0.18)
        axis.set_ylim(
            len(names) - most[number // columns] - 0.5, len(names) - 0.5
        )  # bars of the same height everywhere
        unit = "s" if key else table.unit
        axis.set_title(textwrap.fill(f"{table.title} ({unit})", 62), fontsize=8, loc="left")
        _plain(axis)
    for axis in axes[len(tables) :]:
        axis.remove()
    figure.suptitle(meaning, fontsize=9, y=1.0, verticalalignment="bottom")
    figure.tight_layout()
    return figure


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
    axis.tick_params(labelsize=7)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _colour(name: str) -> str:
    if name.startswith("limit"):
        return COLOURS["limit"]
    return COLOURS["ours" if name.startswith(OURS.name) else "peer"]
