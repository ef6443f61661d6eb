"""The form of an index file: one row for each sample of a source. `datago-gpu index` writes it, source_type "table"
reads it.

It is an Arrow IPC file. A sample's bytes lie in the local file `path`, below the folder that the metadata names as
ROOT, or at the address `url` (http, https, s3, gs, az). With `offset` and `length`, they are that part of the file: a
member of an uncompressed tar shard. A row with a `reason` stands for something that cannot be used: a sample, or with
an empty `id` a whole shard or folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from datago_gpu.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["CLASSES", "FORMAT", "ROOT", "SOURCE", "VERSION", "IndexPart", "IndexRow", "arrow", "index_schema"]

FORMAT = "datago_gpu.index"
"""Key of the schema's metadata: the version of this form. A file without the key is no index."""
VERSION = "1"
ROOT = "root"
"""Key of the schema's metadata: the absolute folder in which local paths begin; "" if there are none."""
CLASSES = "classes"
"""Key of the schema's metadata: the names of the classes in the order of their labels, as a JSON list; absent if the
labels are only numbers, or if there are none."""
SOURCE = "source"
"""Key of the schema's metadata: source_type and source_config, as JSON, without secrets."""


class IndexPart(Struct, array_like=True):
    """One more payload of a sample, and where it lies, in the words of `IndexRow`."""

    name: str
    kind: str
    """"mask", "image" or "latent"."""
    path: str | None = None
    url: str | None = None
    offset: int | None = None
    length: int | None = None


class IndexRow(Struct, array_like=True):
    """One row. The fields are the columns, in their order."""

    id: str
    path: str | None = None
    url: str | None = None
    offset: int | None = None
    length: int | None = None
    bytes: int | None = None
    """Size of the encoded image."""
    width: int = 0
    """In pixels, upright; 0 if unknown."""
    height: int = 0
    format: str | None = None
    """"jpeg", "png", "webp", ...: Pillow's name, in lower case."""
    attributes: str | None = None
    """A JSON object."""
    source: str | None = None
    """`SampleInfo.source`."""
    tags: list[str] = []
    parts: list[IndexPart] = []
    digest: str | None = None
    """Changes when the file changes: size and time of change, or an ETag. None: unknown."""
    reason: str | None = None
    """Why the row cannot be used, in the words under which a Loader counts skipped samples; None if it can be used."""
    detail: str | None = None
    """More about the reason."""
    label: int | None = None
    """`SampleInfo.label`."""


def arrow() -> Any:
    """Returns the module pyarrow. Raises ConfigError if it is missing."""
    try:
        import pyarrow as pa
    except ImportError:
        raise ConfigError("tables and index files need the package pyarrow: pip install 'datago_gpu[table]'") from None
    return pa


def index_schema(metadata: Mapping[str, str]) -> pa.Schema:
    """Returns the columns of an index. metadata: the values of ROOT and SOURCE, and of CLASSES if there are any."""
    pa = arrow()
    part = pa.struct(
        [("name", pa.string()), ("kind", pa.string()), ("path", pa.string()), ("url", pa.string()),
         ("offset", pa.int64()), ("length", pa.int64())]
    )  # fmt: skip
    columns = {
        "id": pa.string(),
        "path": pa.string(),
        "url": pa.string(),
        "offset": pa.int64(),
        "length": pa.int64(),
        "bytes": pa.int64(),
        "width": pa.int32(),
        "height": pa.int32(),
        "format": pa.string(),
        "attributes": pa.string(),
        "source": pa.string(),
        "tags": pa.list_(pa.string()),
        "parts": pa.list_(part),
        "digest": pa.string(),
        "reason": pa.string(),
        "detail": pa.string(),
        "label": pa.int64(),
    }
    return pa.schema(list(columns.items()), metadata={FORMAT: VERSION, **metadata})
