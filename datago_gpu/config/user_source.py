"""Settings of source_type "rows": what is done with the rows that the program itself gives to a Loader."""

from __future__ import annotations

from typing import Any, ClassVar

from datago_gpu.config.settings import (
    Count,
    Kind,
    Natural,
    RankSplit,
    Settings,
    changed_settings,
    without_secrets,
)
from datago_gpu.config.storage import endpoint_problem

__all__ = ["UserSource"]


class UserSource(Settings, frozen=True, kw_only=True):
    """The rows of the argument `source` of a Loader or LoaderDataset: see `Row`.

    Attributes:
        random_sampling: true shuffles a sequence: each epoch is a full permutation that depends only on `seed` and the
            epoch. An iterable, an iterator and a function keep their own order, and true is refused for them.
        storage_options: options of obstore for rows with s3, gs and az addresses, such as
            `{"endpoint": "http://localhost:9000"}`. Other options are read from the environment.
        rank: the share of the rows that this process loads: those with the numbers rank, rank + world_size, ... in the
            order that all ranks share. Default: the environment variable RANK, else 0.
        world_size: number of processes that share the rows. Default: the environment variable WORLD_SIZE, else 1.
        rank_split: what the ranks share in a shuffle. "shuffled": the shuffled order of each epoch, so a rank gets
            different rows in each epoch; all ranks need the same `seed`. "listed": the sequence, so a rank shuffles the
            same rows in each epoch; ranks may have different seeds.
    """

    place: ClassVar[str] = "source_config."
    random_sampling: bool = False
    storage_options: dict[str, str] = {}  # noqa: RUF012 - msgspec copies it
    rank: Natural | None = None
    world_size: Count | None = None
    rank_split: RankSplit = "shuffled"

    def _problem(self) -> str | None:
        return endpoint_problem(self.storage_options)

    def redacted(self, text: str) -> str:
        """`text` with *** for the values of storage_options, should they be there."""
        return without_secrets(text, self.storage_options.values())

    def __repr__(self) -> str:
        return f"UserSource({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """What rich prints, in tracebacks too: what was set, less what is secret."""
        return changed_settings(self, storage_options=dict.fromkeys(self.storage_options, "***"))

    @property
    def parts(self) -> dict[str, Kind]:
        """What is to be loaded beside the image: unknown, since a row names its own parts."""
        return {}

    @property
    def optional_parts(self) -> dict[str, Kind]:
        """What a sample may have beside its image, and may lack: name -> kind. A row names its own parts."""
        return {}
