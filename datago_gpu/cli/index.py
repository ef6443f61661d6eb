"""`datago-gpu index`: make a table of a source's samples, with their places and sizes."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from datago_gpu.cli.config_file import ConfigFile
from datago_gpu.cli.flags import load_config, setting_flags
from datago_gpu.cli.out import check_out
from datago_gpu.cli.settings_help import SettingsCommand
from datago_gpu.config import LoaderConfig
from datago_gpu.errors import DatagoError
from datago_gpu.index.build import Summary, build_index, part_of

__all__ = ["index"]


@click.command(cls=SettingsCommand, params=setting_flags())
@click.argument("config", required=False, type=ConfigFile())
@click.option("--out", default="index.arrow", show_default=True, type=click.Path(dir_okay=False, path_type=Path),
              help="Path of the .arrow file to write.")  # fmt: skip
@click.option("--update", is_flag=True, help="Bring an index that is there up to date: look only at what has changed.")
@click.option("--readers", type=click.IntRange(0, 256),
              help="Number of processes that read local files.  [default: one for each CPU]")  # fmt: skip
@click.pass_context
def index(ctx: click.Context, /, config: Path | None, out: Path, update: bool, readers: int | None, **_: Any) -> None:
    """Make an index of the source in a file CONFIG (JSON or YAML), of flags, or both (flags win).

    An index is an Arrow file with a row for each sample: where its bytes lie, its size as displayed, its attributes, or
    why it cannot be used. source_type "table" loads it. If the command is interrupted, the same command goes on.

    \b
    datago-gpu index --root-path ~/photos --out photos.arrow
    datago-gpu index --url 'train-{0000..0127}.tar' --out train.arrow --update
    """
    check_out(out, ".arrow")
    settings = LoaderConfig.load(load_config(ctx, config))
    if settings.source_config.where.strip():
        click.echo("An index holds all samples: source_config.where has an effect where the index is loaded.", err=True)
    try:
        with _progress() as progress:
            task = progress.add_task("", rows="", speed="", total=None)

            def tell(rows: int, known: int) -> None:
                elapsed = progress.tasks[0].elapsed or 0.0
                speed = f"{(rows - known) / elapsed:,.0f} rows/s" if elapsed and rows > known else ""
                progress.update(task, completed=rows, rows=f"{rows:,} rows", speed=speed)

            summary = build_index(settings, out, update=update, readers=readers, tell=tell)
    except (KeyboardInterrupt, DatagoError):
        if part_of(out).exists():
            click.echo(f"The rows so far are in {part_of(out)}: the same command goes on from there.", err=True)
        raise
    _show(out, summary)
    if not summary.usable:
        raise DatagoError(f"none of the {summary.rows} samples can be used: see the column `reason` of {str(out)!r}")


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.0f} kB"


def _validity(expires: datetime) -> str:
    return f"the first expires at {expires:%Y-%m-%d %H:%M} UTC: run the same command with --update before"


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.fields[rows]}"),
        TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def _show(out: Path, summary: Summary) -> None:
    """Prints what the index holds."""
    bad = ", ".join(f"{count:,} {reason}" for reason, count in summary.reasons.items()) or "none"
    table = Table(show_header=False, box=None)
    for name, value in {
        "samples": f"{summary.usable:,}",
        "unusable": bad,
        "with attributes": f"{summary.described:,}",
        "known before": f"{summary.known:,}",
        "seconds": f"{summary.seconds:.2f}",
        "file": f"{out}, {_size(summary.bytes)}",
        **({"addresses": _validity(summary.expires)} if summary.expires else {}),
    }.items():
        table.add_row(name, value)
    Console().print(table)
    click.echo(f"To load it: {json.dumps({'source_type': 'table', 'source_config': {'path': str(out)}})}")
