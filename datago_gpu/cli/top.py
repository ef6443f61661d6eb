"""`datago-gpu top`: a live table of the loaders that run in another process."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live

from datago_gpu.cli.top_source import Scrape, open_scrapes
from datago_gpu.cli.top_table import loader_tables
from datago_gpu.errors import SourceError

__all__ = ["top"]


@click.command()
@click.argument("where", required=False, default="")
@click.option("--once", is_flag=True, help="Print one table and end, also where the output is no terminal.")
@click.option("--interval", default=2.0, show_default=True, type=click.FloatRange(0.1),
              help="Seconds between two looks. Rates are those of this time.")  # fmt: skip
def top(where: str, once: bool, interval: float) -> None:
    """Show what the stages of a running loader do, until Ctrl-C, or until the loader is gone.

    WHERE is HOST:PORT, or an address, of a loader registered with datago_gpu.metrics.prometheus; or the path of a
    socket of datago_gpu.metrics.listen. Without WHERE, all such sockets of this user are shown.

    \b
    datago-gpu top localhost:9400
    datago-gpu top --once
    """
    scrapes = open_scrapes(where)
    before = [scrape() for scrape in scrapes]
    console = Console(width=None if sys.stdout.isatty() else 120)
    if once or not sys.stdout.isatty():
        time.sleep(interval)
        console.print(_tables(before, [scrape() for scrape in scrapes]))
        return
    with Live(console=console, auto_refresh=False, screen=True) as live:
        while True:
            time.sleep(interval)
            try:
                now = [scrape() for scrape in scrapes]
            except SourceError:
                break
            live.update(_tables(before, now), refresh=True)
            before = now
    click.echo(f"{Path(where).name or 'the loader'} is gone")


def _tables(before: list[Scrape], now: list[Scrape]) -> RenderableType:
    tables = [table for pair in zip(before, now, strict=True) for table in loader_tables(*pair)]
    return Group(*tables) if tables else "no loader is registered there now"
