"""`datago-gpu bench`: time a loader. Its flags are made from the settings, so that none is ever missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import msgspec

from datago_gpu.cli.run import report, run, show
from datago_gpu.config import (
    DataroomSource,
    DecodeConfig,
    FileSource,
    HttpConfig,
    ImageConfig,
    LoaderConfig,
    WebDatasetSource,
)
from datago_gpu.loader import Loader

__all__ = ["bench"]

SECTIONS: list[tuple[str, type[msgspec.Struct]]] = [
    ("", LoaderConfig),
    ("image_config", ImageConfig),
    ("decode_config", DecodeConfig),
    ("http_config", HttpConfig),
    ("source_config", FileSource),
    ("source_config", DataroomSource),
    ("source_config", WebDatasetSource),
]
NOT_FLAGS = {
    "source_config",
    "image_config",
    "http_config",
    "decode_config",
    "api_key",
    "auth_token",
    "storage_options",
}
"""A key on a command line is seen by every user of the machine: it comes by the environment or the JSON file."""


class Setting(click.Option):
    """A flag for one setting; `path` says where it stands in the config."""

    def __init__(self, name: str, path: tuple[str, str], field: msgspec.structs.FieldInfo, help_: str) -> None:
        flag = "--" + name.replace("_", "-")
        if field.type is bool:
            super().__init__([f"{flag}/--no-{flag[2:]}"], default=None, help=help_)
        else:
            super().__init__([flag], default=None, metavar="VALUE", help=help_)
        self.path = path


def _settings() -> list[Setting]:
    made: dict[str, Setting] = {}
    for section, kind in SECTIONS:
        described = _described(kind)
        for field in msgspec.structs.fields(kind):
            name = field.name
            if name in NOT_FLAGS or (name in made and made[name].path[0] == section):
                continue
            if name in made:
                name = f"{section.removesuffix('_config')}_{name}"
            made.setdefault(name, Setting(name, (section, field.name), field, described.get(field.name, "")))
    return list(made.values())


def _described(kind: type[msgspec.Struct]) -> dict[str, str]:
    """Setting -> its text, from the class's own documentation."""
    texts: dict[str, str] = {}
    names: list[str] = []
    for line in (kind.__doc__ or "").partition("Attributes:")[2].splitlines():
        head, colon, text = line.strip().partition(": ")
        heads = head.split(", ")
        if colon and line.startswith(" " * 8) and line[8] != " " and all(map(str.isidentifier, heads)):
            names = heads
            texts |= dict.fromkeys(names, text)
        elif line.strip():
            texts |= {name: f"{texts[name]} {line.strip()}" for name in names}
    return texts


def _value(text: Any) -> Any:
    """Numbers, lists and the like as JSON has them; anything else is text."""
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _config(file: Path | None, given: dict[tuple[str, str], Any]) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if file:
        config = msgspec.to_builtins(LoaderConfig.load(file))
    for (section, name), value in given.items():
        place = config.setdefault(section, {}) if section else config
        place[name] = value
    if "source_type" not in config:
        source = config.get("source_config", {})
        config["source_type"] = "file" if "root_path" in source else "webdataset" if "url" in source else "db"
    config.setdefault("source_config", {})
    return config


@click.command(params=list(_settings()))
@click.argument("config", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--backend", default="auto", show_default=True, help="auto, dali or pillow.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, as the last line.")
@click.pass_context
def bench(ctx: click.Context, /, config: Path | None, device: str, backend: str, as_json: bool, **_: Any) -> None:
    """Time a loader with the settings of a JSON file CONFIG, of flags, or both (flags win).

    \b
    datago-gpu bench --root-path ~/photos --crop-and-resize --batch-size 64 --limit 5000
    datago-gpu bench config.json --backend pillow --json
    """
    given = {
        option.path: _value(ctx.params[option.name])
        for option in ctx.command.params
        if isinstance(option, Setting) and option.name and ctx.params[option.name] is not None
    }
    with Loader(_config(config, given), device=device, backend=backend) as loader:
        figures = report(loader, *run(loader))
    if as_json:
        click.echo(json.dumps(figures))
    else:
        show(figures)
