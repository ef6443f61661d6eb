"""Sets up rows of the program's own for a Loader. Imports the code for rows only if there are any."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datago_gpu.config import ConfigLike, LoaderConfig, MixSource
from datago_gpu.errors import ConfigError
from datago_gpu.feeder.wire import Resume

if TYPE_CHECKING:
    from datago_gpu.loader.given_rows import GivenRows
    from datago_gpu.loader.row_thread import RowThread

__all__ = ["load_config", "make_row_thread"]


def load_config(config: ConfigLike, source: object) -> tuple[LoaderConfig, GivenRows | None]:
    """Returns the settings of a Loader and the rows of its argument `source`, if there are any. Raises ConfigError."""
    if source is not None:
        from datago_gpu.loader.given_rows import given_rows

        rows = given_rows(source)
        return LoaderConfig.load_for_rows(config), rows
    loaded = LoaderConfig.load(config)
    if loaded.takes_rows:
        raise ConfigError("source_type 'rows' needs rows: Loader(config, source=rows)")
    return loaded, None


def make_row_thread(config: LoaderConfig, resume: Resume, rows: GivenRows | None) -> RowThread | None:
    """Makes the thread that reads the rows, and does not start the thread. Returns None if there are no rows.

    Raises ConfigError if a run with these settings, from this place on, cannot work with these rows.
    """
    if rows is None:
        return None
    from datago_gpu.loader.row_thread import RowThread

    of_rows = next(each for each in config.by_source().values() if each.source_type == "rows")
    rows.check(of_rows, resume, repeats=_reads_again(config))
    return RowThread(rows, of_rows)


def _reads_again(config: LoaderConfig) -> bool:
    """Returns whether a mix may pass through the rows several times in an epoch."""
    mix = config.source_config
    return isinstance(mix, MixSource) and (mix.stop == "all" or mix.repeats)
