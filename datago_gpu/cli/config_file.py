"""The argument CONFIG of the commands: a file of settings. Says what to write for a folder, a table or a shard."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from datago_gpu.sources.table.located import ENDINGS as TABLES

__all__ = ["ConfigFile"]


class ConfigFile(click.Path):
    """The type of CONFIG. Refuses data that is given in its place, and names the setting where it belongs."""

    def __init__(self) -> None:
        super().__init__(exists=True, dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See `click.Path`."""
        given = os.fspath(value)
        setting = _setting_of(given)
        if setting:
            flag = "--" + setting.replace("_", "-")
            if ctx and any(flag in each.opts for each in ctx.command.params):
                way_out = f"write {flag} {given!r}, or name a file of settings"
            else:
                way_out = f"write a file of settings that names it as source_config.{setting}"
            self.fail(f"{given!r} is data, not a file of settings (JSON or YAML): {way_out}.", param, ctx)
        return super().convert(value, param, ctx)


def _setting_of(given: str) -> str | None:
    """Returns the setting that names such data; None if the path may be a file of settings."""
    name = given.lower()
    if os.path.isdir(given):
        return "root_path"
    if name.endswith(TABLES):
        return "path"
    return "url" if name.endswith((".tar", ".tgz")) or ".tar." in name else None
