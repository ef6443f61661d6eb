"""Loads images from a database of one's own, and from a Hugging Face dataset: the program gives the rows.

    python examples/own_source.py                     # an SQLite database of the photographs that ship
    pip install datasets
    python examples/own_source.py --datasets          # a Hugging Face dataset of them

A database is walked through by a function, which is called for each epoch and reads the share of its rank. A dataset
has a length and numbered rows: the loader shuffles it, shares it among the ranks, and resumes it at any row.
"""

from __future__ import annotations

import argparse
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datago_gpu
from datago_gpu import Loader, Row

PHOTOS = sorted(Path(datago_gpu.__file__).parent.joinpath("photos").glob("*.[jp][pn]g"))
IMAGES = {"crop_and_resize": True, "default_image_size": 256}


def make_database(file: Path) -> None:
    """Writes the photographs into a table."""
    with sqlite3.connect(file) as database:
        database.execute("create table photos (name text, image blob, caption text)")
        database.executemany(
            "insert into photos values (?, ?, ?)",
            [(path.name, path.read_bytes(), f"a photograph: {path.stem}") for path in PHOTOS],
        )
    database.close()


def database_rows(file: Path) -> Callable[..., Iterator[Row]]:
    """Returns a function that yields the rows of one epoch and rank, from number `start` on."""

    def rows(epoch: int, rank: int, world_size: int, start: int) -> Iterator[Row]:
        # Opened here: the loader calls this on a thread of its own, and SQLite wants to be used where it was opened.
        database = sqlite3.connect(file)
        try:
            # The order must depend on nothing but the epoch: then a state resumes at the right row.
            order = "name" if epoch % 2 == 0 else "name desc"
            share = "where rowid % ? = ?"
            found = database.execute(
                f"select name, image, caption from photos {share} order by {order} limit -1 offset ?",
                (world_size, rank, start),
            )
            for name, image, caption in found:
                yield Row(name, image, attributes={"caption": caption})
        finally:
            database.close()

    return rows


class DatasetRows:
    """The rows of a Hugging Face dataset. column: holds the images."""

    def __init__(self, dataset: Any, column: str = "image") -> None:
        import datasets

        # Encoded, as they are stored: the loader decodes.
        self._dataset, self._column = dataset.cast_column(column, datasets.Image(decode=False)), column

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, number: int) -> Row:
        row = self._dataset[number]
        image = row.pop(self._column)  # {"bytes": ..., "path": ...}, of which one may be None
        return Row(f"{number}", image["bytes"] or image["path"], attributes=row)


def make_dataset() -> Any:
    """Returns the photographs as a dataset. Yours comes from `datasets.load_dataset(..., split="train")`."""
    import datasets

    captions = [f"a photograph: {path.stem}" for path in PHOTOS]
    return datasets.Dataset.from_dict({"image": [str(path) for path in PHOTOS], "caption": captions})


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--datasets", action="store_true", help="load a Hugging Face dataset")
    arguments.add_argument("--device", default="auto")
    options = arguments.parse_args()
    config: dict[str, Any] = {"image_config": IMAGES, "batch_size": 4, "epochs": 2}
    with tempfile.TemporaryDirectory() as folder:
        source: Any
        if options.datasets:
            config["source_config"] = {"random_sampling": True}
            source = DatasetRows(make_dataset())
        else:
            make_database(Path(folder) / "photos.sqlite")
            source = database_rows(Path(folder) / "photos.sqlite")
        with Loader(config, device=options.device, source=source) as loader:
            for batch in loader:
                print(batch.epoch, tuple(batch.image.shape), batch.attributes[0]["caption"])
        print(f"{loader.stats().delivered} images")


if __name__ == "__main__":
    main()
