"""`datago-gpu plan`: what the batches of a run in lockstep will be, without loading an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from datago_gpu.cli.config_file import ConfigFile
from datago_gpu.cli.flags import load_config, setting_flags
from datago_gpu.cli.out import check_out, write_out
from datago_gpu.cli.settings_help import SettingsCommand
from datago_gpu.config import LoaderConfig
from datago_gpu.loader.planning import Planner
from datago_gpu.plan.global_batches import GlobalBatches

__all__ = ["plan"]


@click.command(cls=SettingsCommand, params=setting_flags())
@click.argument("config", required=False, type=ConfigFile())
@click.option("--epoch", default=0, show_default=True, type=click.IntRange(0), help="Number of the epoch.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path),
              help="Path of an .npz file for the arrays buckets, rows, real, counts and left_out.")  # fmt: skip
@click.pass_context
def plan(ctx: click.Context, /, config: Path | None, epoch: int, out: Path | None, **_: Any) -> None:
    """Plan an epoch in lockstep, by the settings in a file CONFIG (JSON or YAML), by flags, or both (flags win).

    The plan is that of a run with --lockstep, also where CONFIG does not set lockstep. Prints the number of steps and
    how often each shape occurs: samples of a rank x height x width. The arrays of --out have one entry for each step:
    buckets (steps, 2) are height and width, rows (steps, G) the numbers of the rows of all ranks, and real (steps, G)
    is false where a row is only repeated. counts (steps,) are the samples of all ranks in each step: with
    --batch-pixels they differ, G is the largest of any bucket, and rows is -1 behind them.

    \b
    datago-gpu plan train.json --world-size 8
    datago-gpu plan train.json --epoch 3 --out plan.npz
    """
    if out:
        check_out(out, ".npz")
    settings = LoaderConfig.load({**load_config(ctx, config), "lockstep": True}).resolve()
    batches = Planner(settings).plan(epoch)
    _show(settings, batches)
    if out:
        write_out(lambda path: _save(batches, path), out)


def _save(batches: GlobalBatches, path: Path) -> None:
    rows, real, left_out = batches.rows, batches.real, batches.left_out
    np.savez(path, buckets=batches.buckets, rows=rows, real=real, counts=batches.counts, left_out=left_out)


def _show(config: LoaderConfig, batches: GlobalBatches) -> None:
    """Prints the steps of each shape, and of all."""
    world_size = config.rank_and_world_size()[1]
    table = Table("shape", "steps", "rows", "repeats", box=None)
    for height, width in sorted({(height, width) for height, width in batches.buckets.tolist()}):
        there = (batches.buckets == (height, width)).all(axis=1)
        places = int(batches.counts[there].sum())
        real = int(batches.real_places[np.repeat(there, batches.counts)].sum())
        shape = f"{config.samples_of((height, width))} x {height} x {width}"
        table.add_row(shape, f"{there.sum():,}", f"{real:,}", f"{places - real:,}")
    real = int(batches.real_places.sum())
    table.add_row("all", f"{len(batches):,}", f"{real:,}", f"{len(batches.places) - real:,}")
    Console().print(table)
    left_out = f", {len(batches.left_out):,} rows left out by drop_last" if len(batches.left_out) else ""
    most = "up to " if config.batch_pixels else ""
    print(f"{world_size} rank{'s' * (world_size != 1)}, {most}{batches.widest:,} samples in each step{left_out}")
