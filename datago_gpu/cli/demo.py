"""`datago-gpu demo`: the whole way, from a server over HTTP to batches, on the photographs that ship."""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path

import click
from PIL import Image, ImageOps

import datago_gpu
from datago_gpu.cli.contact_sheet import ContactSheet
from datago_gpu.cli.out import check_out, write_out
from datago_gpu.cli.run import report, run, show
from datago_gpu.config import DataroomSource, ImageConfig, LoaderConfig
from datago_gpu.loader import Loader
from datago_gpu.server import DataroomServer

__all__ = ["demo"]

IMAGES = ImageConfig(crop_and_resize=True, default_image_size=256, crop="random_resized", crop_scale=(0.4, 1), flip=0.5)
MOST_PIXELS = 700_000


@click.command()
@click.option("--out", default="demo.png", show_default=True, type=click.Path(dir_okay=False, path_type=Path),
              help="Path of the PNG to write.")  # fmt: skip
@click.option("--samples", default=400, show_default=True, type=click.IntRange(16), help="Number of pictures.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--backend", default="auto", show_default=True, help="auto (DALI on a GPU, else Pillow), dali or pillow.")
def demo(out: Path, samples: int, device: str, backend: str) -> None:
    """Stream the photographs that ship with the package, and draw the result.

    Cuts pictures of all shapes from the photographs, adds three broken files, serves them as a Dataroom on this
    machine, loads everything over HTTP through random crops, prints figures of each stage, and writes a contact sheet:
    a row for each bucket, with the class and the caption of each picture.
    """
    check_out(out, ".png")
    with tempfile.TemporaryDirectory(prefix="datago-demo-") as folder:
        click.echo(f"Cutting {samples} pictures from the photographs ...")
        _cut_all(Path(folder), samples)
        _plant_broken(Path(folder))
        with DataroomServer(folder) as server:
            click.echo(f"Serving them, and 3 broken files, at {server.url}")
            source = DataroomSource(
                api_url=server.url,
                api_key=server.key,
                page_size=100,
                label="photo",
                classes="\n".join(path.stem for path in _photos()),
            )
            config = LoaderConfig(source_type="db", source_config=source, image_config=IMAGES, batch_size=16)
            with Loader(config, device=device, backend=backend) as loader:
                sheet = ContactSheet(loader.classes or [])
                figures = report(loader, *run(loader, sheet.add))
    show(figures)
    write_out(sheet.save, out)
    click.echo(f"Wrote {out}.")


def _photos() -> list[Path]:
    return sorted(Path(datago_gpu.__file__).parent.joinpath("photos").glob("*.[jp][pn]g"))


def _cut_all(folder: Path, samples: int) -> None:
    """Writes different parts of the photographs, in the shapes of all buckets, each with a caption file."""
    rng = random.Random(0)
    paths = _photos()
    photos = [ImageOps.exif_transpose(Image.open(path)) for path in paths]
    shapes = [width / height for height, width in IMAGES.bucket_tables()[0].sizes]
    for number in range(samples):
        photo, path = photos[number % len(photos)], paths[number % len(photos)]
        part = _cut(photo, shapes[rng.randrange(len(shapes))], rng)
        name = folder / f"{number:04d}-{path.stem}{path.suffix}"
        part.save(name, quality=85)
        attributes = {"caption": f"a part of {path.stem}", "photo": path.stem}
        caption = {"source": "demo", "attributes": attributes, "tags": [path.stem]}
        name.with_suffix(".json").write_text(json.dumps(caption))


def _cut(photo: Image.Image, shape: float, rng: random.Random) -> Image.Image:
    width = min(photo.width, photo.height * shape) * rng.uniform(0.6, 1.0)
    width, height = round(width), round(width / shape)
    left, top = rng.randint(0, photo.width - width), rng.randint(0, max(0, photo.height - height))
    part = photo.crop((left, top, left + width, top + height))
    if width * height > MOST_PIXELS:
        part.thumbnail((1000, 1000), Image.Resampling.LANCZOS)
    return part


def _plant_broken(folder: Path) -> None:
    """Writes broken files like those of real data sets: truncated, or with zeros in place of pixels."""
    whole = next(folder.glob("*-otters.jpg")).read_bytes()
    folder.joinpath("broken-cut.jpg").write_bytes(whole[: len(whole) // 2])
    folder.joinpath("broken-noise.jpg").write_bytes(whole[:700] + bytes(2000))
    folder.joinpath("broken-end.jpg").write_bytes(whole[: len(whole) * 9 // 10])
