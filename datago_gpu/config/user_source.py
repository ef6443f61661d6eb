"""Settings of source_type "rows": what is done with the rows that the program itself gives to a Loader."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from datago_gpu.config.settings import Count, Natural, RankSplit
from datago_gpu.config.source_settings import SourceSettings, hidden
from datago_gpu.config.storage import endpoint_problem

__all__ = ["UserSource"]


class UserSource(SourceSettings, frozen=True, kw_only=True):
    """The rows of the argument `source` of a Loader or LoaderDataset: see `Row`. Each row names its own parts.

    Attributes:
        random_sampling: true shuffles a sequence: each epoch is a full permutation that depends only on `seed` and the
            epoch. An iterable, an iterator and a function keep their own order, and true is refused for them.
        where: which rows are loaded, as an expression over `id`, `width` and `height` of a row and its attributes.
            `stats().filtered` counts the rows left out. "": all rows.
        classes: names of the classes in the order of their labels, as a list, or as text with one name on each line,
            for `loader.classes`. Every batch then has labels: -1 for a row whose label is None or has no name.
        storage_options: options of obstore for rows with s3, gs and az addresses, such as
            `{"endpoint": "http://localhost:9000"}`. Other options are read from the environment.
        min_short_edge: minimum length of the shorter side, in pixels. Smaller images are skipped: `too-small` in
            `stats().skipped`. Images whose size is listed are not downloaded for that. 0: no minimum.
        rank: the share of the rows that this process loads: those with the numbers rank, rank + world_size, ... in the
            order that all ranks share. Default: found as for files.
        world_size: number of processes that share the rows, as for files.
        rank_split: what the ranks share in a shuffle. "shuffled": the shuffled order of each epoch, so a rank gets
            different rows in each epoch; all ranks need the same `seed`. "listed": the sequence, so a rank shuffles the
            same rows in each epoch; ranks may have different seeds.
    """

    random_sampling: bool = False
    storage_options: dict[str, str] = {}  # noqa: RUF012 - msgspec copies it
    rank: Natural | None = None
    world_size: Count | None = None
    rank_split: RankSplit = "shuffled"

    def _problem(self) -> str | None:
        return endpoint_problem(self.storage_options)

    def _secrets(self) -> Iterable[str]:
        return self.storage_options.values()

    def _shown(self) -> dict[str, Any]:
        return {"storage_options": hidden(self.storage_options)}
