"""Prints which pictures go to which bucket, as text."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from datago_gpu.preview import BucketCounts

__all__ = ["print_buckets"]


def print_buckets(counts: BucketCounts) -> None:
    """Prints a line for each bucket that has pictures, and what goes to none."""
    table = Table(box=None)
    table.add_column("bucket")
    for name in ("images", "share", "batches", "samples each", "enlarged", "cut away", "p95"):
        table.add_column(name, justify="right")
    for each in counts.used:
        table.add_row(
            "{} x {}".format(*each.size), f"{each.pictures:,}", f"{each.pictures / counts.pictures:.1%}",
            f"{each.batches:,}", f"{each.samples:,}", f"{each.enlarged:,}",
            f"{each.cut_mean:.1%}", f"{each.cut_p95:.1%}",
        )  # fmt: skip
    enlarged, batches = (sum(getattr(each, name) for each in counts.used) for name in ("enlarged", "batches"))
    table.add_row("all", f"{counts.pictures:,}", "", f"{batches:,}", "", f"{enlarged:,}", f"{counts.cut_mean:.1%}", "")
    Console().print(table)
    lost = ", ".join(f"{number:,} {reason}" for reason, number in counts.lost.items()) or "none"
    print(f"in no bucket: {lost}; sizes are those {'that the source lists' if counts.listed else 'of the headers'}")
