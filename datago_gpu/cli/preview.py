"""`datago-gpu preview`: what a model will see, as one picture or one page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from datago_gpu.cli.bucket_table import print_buckets
from datago_gpu.cli.config_file import ConfigFile
from datago_gpu.cli.flags import load_config, setting_flags
from datago_gpu.cli.out import check_out, write_out
from datago_gpu.cli.settings_help import SettingsCommand
from datago_gpu.config import LoaderConfig
from datago_gpu.index.sizes import find_sizes
from datago_gpu.preview import (
    Overview,
    count_buckets,
    gather,
    title_of,
    write_bucket_sheet,
    write_page,
    write_sheet,
)

__all__ = ["preview"]

_WRITERS: dict[str, Callable[[Overview, Path], None]] = {".png": write_sheet, ".html": write_page, ".htm": write_page}


@click.command(cls=SettingsCommand, params=setting_flags())
@click.argument("config", required=False, type=ConfigFile())
@click.option("--out", default="preview.png", show_default=True, type=click.Path(dir_okay=False, path_type=Path),
              help="Path of the .png or self-contained .html to write.")  # fmt: skip
@click.option(
    "--batches", default=4, show_default=True, type=click.IntRange(1, 1000), help="Number of batches to load."
)
@click.option(
    "--samples",
    default=12,
    show_default=True,
    type=click.IntRange(1, 4096),
    help="Number of samples to show of each batch.",
)
@click.option("--buckets", is_flag=True,
              help="Draw how many images fall into which bucket, and what is lost, in place of batches. Reads sizes, "
              "or headers where the source lists none; decodes nothing. Also prints this as a table.")  # fmt: skip
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--backend", default="auto", show_default=True, help="auto, dali or pillow.")
@click.pass_context
def preview(
    ctx: click.Context,
    /,
    config: Path | None,
    out: Path,
    batches: int,
    samples: int,
    buckets: bool,
    device: str,
    backend: str,
    **_: Any,
) -> None:
    """Draw the first batches of a loader with the settings of a file CONFIG (JSON or YAML), of flags, or both.

    Shows for each sample: what the model sees, with masks drawn over it and additional images beside it; the original
    with a frame around the crop; id, size, caption and tags. The samples are loaded twice.

    \b
    datago-gpu preview config.json --out preview.html
    datago-gpu preview --root-path ~/photos --crop-and-resize --batch-size 8 --batches 6
    datago-gpu preview train.yaml --buckets --out buckets.png
    """
    check_out(out, *([".png"] if buckets else _WRITERS))
    settings = load_config(ctx, config)
    if buckets:
        _draw_buckets(LoaderConfig.load(settings).anchor_paths(), out)
        return
    with Console(stderr=True).status("starting") as status:
        overview = gather(
            settings, batches=batches, samples=samples, device=device, backend=backend, progress=status.update
        )
        status.update(f"writing {out.name}")
        write_out(partial(_WRITERS[out.suffix.lower()], overview), out)
    shown = sum(len(batch.samples) for batch in overview.batches)
    click.echo(f"Wrote {out}: {shown} samples of {len(overview.batches)} batches.")


def _draw_buckets(config: LoaderConfig, out: Path) -> None:
    count_buckets(config, "", [(config, [])], {}, listed=True)  # raises if there are no buckets, before the sizes come
    with Console(stderr=True).status("looking for sizes") as status:
        sources = config.by_source().values()
        sizes = [find_sizes(each, lambda number: status.update(f"{number:,} sizes")) for each in sources]
        found = [(each, there.sides) for each, there in zip(sources, sizes, strict=True)]
        unusable = sum((Counter(there.unusable) for there in sizes), Counter[str]())
        counts = count_buckets(config, title_of(config), found, unusable, listed=all(there.listed for there in sizes))
        write_out(partial(write_bucket_sheet, counts), out)
    print_buckets(counts)
    buckets = "1 bucket" if len(counts.used) == 1 else f"{len(counts.used)} buckets"
    click.echo(f"Wrote {out}: {counts.pictures:,} images in {buckets}.")
