"""Settings of source_type "table": which rows of which tables are loaded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from msgspec import Meta

from datago_gpu.config.settings import Count, Kind, Names, Natural, RankSplit, names_in
from datago_gpu.config.shards import addresses_in, passwords_in, shown_shards
from datago_gpu.config.source_settings import (
    SourceSettings,
    expression_problem,
    hidden,
    kinds_of,
    parts_problem,
    token_problem,
)
from datago_gpu.config.storage import endpoint_problem

__all__ = ["ALL_SMALL", "TableSource"]

ALL_SMALL = "*"
"""As `attributes`: all columns of small values."""

Columns = dict[str, str] | Names
"""Name -> column; or names, each of which is a column, or NAME=COLUMN."""


class TableSource(SourceSettings, frozen=True, kw_only=True):
    """Rows of tables: Parquet, Arrow IPC, JSON lines and CSV. Each row is a sample.

    Attributes:
        path: the tables: local files, folders, or paths with `*` and `?`; or addresses (http, https, s3, gs, az, hf),
            also with `*` where they can be listed. Tables end in `.parquet`, `.arrow`, `.feather`, `.jsonl`, `.ndjson`,
            `.csv` or `.tsv`. Several entries are separated by `::` or given as a list. All tables have the same
            columns.
        image: column of the images: bytes, `{bytes, path}` as in Hugging Face datasets, a path, or an address (http,
            https, s3, gs, az, hf). If the table has the columns `offset` and `length`, the path or address names a file
            of which the image is a part. "": the first of the usual names: image, jpg, png, webp, img, url, image_url,
            path, image_path, file_name and others.
        id: column of the samples' ids. "": `id`, `key` or `__key__`, else the path or address of the image, else the
            number of the row.
        width: column of the images' widths in pixels, upright. "": `width` if it exists.
        height: column of the images' heights in pixels, upright. "": `height` if it exists.
        label: column of the samples' classes: whole numbers, or texts. `Batch.labels` has their numbers; the column
            also becomes an attribute, whatever `attributes` says. "": `label` if it exists and holds whole numbers.
        classes: names of the classes in the order of their labels, as a list, or as text with one name on each line.
            "": the names of a Hugging Face `ClassLabel` or of an index; else the sorted values of a column of texts.
        attributes: columns that become the attributes of a sample. "*": all columns of texts, numbers, times and lists
            that are not used otherwise. "": none.
        masks: columns of masks: a dict of name -> column, or names that are columns. Cells are those of `image`.
        additional_images: columns of additional images, given as `masks` are.
        latents: columns of arrays or bytes to load as latents, given as `masks` are.
        optional: names from `masks`, `additional_images` and `latents` that a row may lack. Rows without one of the
            other names are skipped.
        root: folder or address at which relative paths in the table begin. "": the folder of each table, or what an
            index says.
        filter: which rows are loaded, as an expression over columns: `aesthetic > 5 and license in ("cc0", "by")`, with
            and, or, not, ==, !=, <, <=, >, >=, in, is null, is not null and parentheses. "": all rows.
        where: which rows are loaded, as `filter` says it. The rows left out keep their places in the order, and
            `stats().filtered` counts them. For an index, the names are those of its samples: id, width, height, source,
            tags and the attributes.
        random_sampling: true shuffles. Each epoch is a full permutation of the rows, which depends only on `seed` and
            the epoch. Parquet tables that hold the images' bytes are read in another order of their row groups, and
            rows are permuted within blocks of `shuffle_buffer`.
        shuffle_buffer: number of rows in which rows of a Parquet table that holds bytes are mixed. Fewer if they take
            more than 256 MiB.
        auth_token: token sent as `Authorization: Bearer` to the http(s) origins in `path` and `root`, to no other
            origin. Default for addresses of Hugging Face: the environment variable HF_TOKEN, else the token of
            `hf auth login`.
        storage_options: options of obstore for s3, gs and az, such as `{"endpoint": "http://localhost:9000"}`. Other
            options are read from the environment.
        min_short_edge: minimum length of the shorter side, in pixels. Smaller images are skipped: `too-small` in
            `stats().skipped`. Images whose size is listed are not downloaded for that. 0: no minimum.
        rank: the share of the rows that this process loads, as for files. Of Parquet tables that hold bytes each rank
            loads as many rows that follow each other.
        world_size: number of processes that share the rows, as for files.
        rank_split: what the ranks share in a shuffle, as for files.
    """

    path: Annotated[str, Meta(extra={"separator": "::"})]
    image: str = ""
    id: str = ""
    width: str = ""
    height: str = ""
    label: str = ""
    attributes: Names = ALL_SMALL
    masks: Columns = ""
    additional_images: Columns = ""
    latents: Columns = ""
    optional: Names = ""
    root: str = ""
    filter: str = ""
    random_sampling: bool = False
    shuffle_buffer: Count = 1000
    auth_token: str = ""
    storage_options: dict[str, str] = {}  # noqa: RUF012 - msgspec copies it
    rank: Natural | None = None
    world_size: Count | None = None
    rank_split: RankSplit = "shuffled"

    def _problem(self) -> str | None:
        if not self.path.strip():
            return "source_config.path is empty: name a table, such as '/data/train.parquet'"
        if problem := token_problem(self.auth_token):
            return problem
        names = [*_columns_in(self.masks), *_columns_in(self.additional_images), *_columns_in(self.latents)]
        if problem := parts_problem(names, names_in(self.optional)):
            return problem
        if self.filter.strip() and (problem := expression_problem("filter", self.filter)):
            return problem
        return endpoint_problem(self.storage_options)

    @property
    def has_labels(self) -> bool:
        """Whether the settings ask for labels."""
        return bool(self.label or self.classes)

    @property
    def parts(self) -> dict[str, Kind]:
        """What is to be loaded beside the image: name -> kind."""
        return kinds_of(*map(_columns_in, (self.masks, self.additional_images, self.latents)))

    @property
    def part_columns(self) -> dict[str, str]:
        """The columns of `parts`: name -> column."""
        return _columns_in(self.masks) | _columns_in(self.additional_images) | _columns_in(self.latents)

    @property
    def optional_parts(self) -> dict[str, Kind]:
        """Those of `parts` that a row may lack."""
        optional = names_in(self.optional)
        return {name: kind for name, kind in self.parts.items() if name in optional}

    def _secrets(self) -> Iterable[str]:
        passwords = [*passwords_in(self.path), *passwords_in(self.root)]
        return [self.auth_token.strip(), *self.storage_options.values(), *passwords]

    def _shown(self) -> dict[str, Any]:
        return {
            "path": self.shown_path,
            "root": shown_shards(self.redacted(self.root)),
            "auth_token": "***",
            "storage_options": hidden(self.storage_options),
        }

    @property
    def shown_path(self) -> str:
        """`path` as it may be shown."""
        return shown_shards(self.redacted(self.path))

    @property
    def addresses(self) -> list[str]:
        """The entries of `path`, as they are given."""
        return [address for address in addresses_in(self.path) if address]


def _columns_in(given: dict[str, str] | str) -> dict[str, str]:
    """Returns name -> column, from either form of the setting."""
    if isinstance(given, dict):
        return given
    pairs = (name.partition("=") for name in names_in(given))
    return {name.strip(): column.strip() if equals else name for name, equals, column in pairs}
