"""`datago-gpu bench`: time a loader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from datago_gpu.cli.config_file import ConfigFile
from datago_gpu.cli.flags import load_config, setting_flags
from datago_gpu.cli.run import report, run, show
from datago_gpu.cli.settings_help import SettingsCommand
from datago_gpu.loader import Loader

__all__ = ["bench"]


@click.command(cls=SettingsCommand, params=setting_flags())
@click.argument("config", required=False, type=ConfigFile())
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--backend", default="auto", show_default=True, help="auto, dali or pillow.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, as the last line.")
@click.pass_context
def bench(ctx: click.Context, /, config: Path | None, device: str, backend: str, as_json: bool, **_: Any) -> None:
    """Measure a loader with the settings of a file CONFIG (JSON or YAML), of flags, or both (flags win).

    \b
    datago-gpu bench --root-path ~/photos --crop-and-resize --batch-size 64 --limit 5000
    datago-gpu bench config.json --backend pillow --json
    """
    with Loader(load_config(ctx, config), device=device, backend=backend) as loader:
        figures = report(loader, *run(loader))
    if as_json:
        click.echo(json.dumps(figures))
    else:
        show(figures)
