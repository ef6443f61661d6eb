"""`datago-gpu doctor`: what is missing or too small here, one line each."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict
from pathlib import Path

import click

from datago_gpu.cli.config_file import ConfigFile
from datago_gpu.doctor import Check, examine

__all__ = ["doctor"]

_COLOURS = {"ok": "green", "none": "bright_black", "warn": "yellow", "fail": "red"}
_MARKS = {"ok": "ok", "none": "-", "warn": "warn", "fail": "FAIL"}


@click.command()
@click.argument("config", required=False, type=ConfigFile())
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N; cuda requires a GPU.")
@click.option("--backend", default="auto", show_default=True, type=click.Choice(["auto", "dali", "pillow"]))
@click.option("--timeout", "timeout_s", default=20.0, show_default=True, type=click.FloatRange(min=1, max=3600),
              help="Time limit in seconds for each check that may have to wait.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(config: Path | None, device: str, backend: str, timeout_s: float, as_json: bool) -> None:
    """Check this machine and, with a file CONFIG (JSON or YAML), its settings and source. Say how to solve problems.

    A missing GPU is no failure unless --device requires one. Exit status: 1 if a check failed, else 0.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise click.UsageError(f"--device must be auto, cpu, cuda or cuda:N, got {device!r}")
    checks: list[Check] = []
    for check in examine(config, device=device, backend=backend, timeout_s=timeout_s):
        checks.append(check)
        if not as_json:
            _print(check)
    failed = sum(check.state == "fail" for check in checks)
    if as_json:
        click.echo(json.dumps({"ok": not failed, "checks": [asdict(check) for check in checks]}))
    else:
        warned = sum(check.state == "warn" for check in checks)
        click.echo(f"{failed} failed, {warned} warnings, {len(checks)} checks")
    sys.exit(1 if failed else 0)


def _print(check: Check) -> None:
    mark = click.style(f"{_MARKS[check.state]:<5}", fg=_COLOURS[check.state])
    remedy = f" -> {check.remedy}" if check.remedy else ""
    click.echo(mark + f"{check.name:<18}" + " ".join(f"{check.found}{remedy}".split()))
