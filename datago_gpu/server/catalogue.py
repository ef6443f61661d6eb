"""The index of the images: an SQLite database in memory, made anew when the server starts.

In memory because it is derived data: ten thousand images take seconds to read again, the folder stays as it is, and
two servers over one folder cannot disturb each other.
"""

from __future__ import annotations

import json
import random
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from datago_gpu.server.attribute_filter import cells, merge_kinds
from datago_gpu.server.parameters import Shape
from datago_gpu.server.partition import shard_of
from datago_gpu.server.query import KnownNames, Selection, format_date
from datago_gpu.server.records import Record, media_key

AUTHOR = "datago-gpu"
"""The `author` of every image and embedding: a folder does not say who made them."""

_LONGEST_USUAL = 5
"""Hexadecimal digits of the prefixes that a Dataroom draws by default."""

_SPARE = 4
"""Times a page that they should match, so that chance leaves no page short."""

_SCHEMA = """
CREATE TABLE images (
    key INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    shard INTEGER NOT NULL,
    source TEXT NOT NULL,
    media_key TEXT NOT NULL,
    image_hash TEXT NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    short_edge INTEGER NOT NULL,
    pixel_count INTEGER NOT NULL,
    aspect_ratio REAL NOT NULL,
    aspect_ratio_text TEXT NOT NULL,
    aspect_ratio_fraction TEXT NOT NULL,
    date_created TEXT NOT NULL,
    date_updated TEXT NOT NULL,
    duplicate_state INTEGER,
    attributes_json TEXT NOT NULL,
    tags_json TEXT NOT NULL,
    datasets_json TEXT NOT NULL
);
CREATE INDEX images_by_hash ON images (image_hash);
CREATE TABLE tags (image INTEGER, name TEXT, PRIMARY KEY (image, name)) WITHOUT ROWID;
CREATE TABLE datasets (image INTEGER, name TEXT, PRIMARY KEY (image, name)) WITHOUT ROWID;
CREATE TABLE latents (
    image INTEGER, name TEXT, media_key TEXT, is_mask INTEGER, PRIMARY KEY (image, name)
) WITHOUT ROWID;
CREATE TABLE embeddings (image INTEGER PRIMARY KEY, object_json TEXT NOT NULL);
CREATE TABLE attributes (
    image INTEGER, name TEXT, position INTEGER,
    kind TEXT, number NUMERIC, moment INTEGER, exact TEXT, words TEXT,
    PRIMARY KEY (image, name, position)
) WITHOUT ROWID;
"""
_TABLES = ("tags", "datasets", "latents", "embeddings", "attributes")

_STATIC_FIELDS = {
    "id": "json_quote(id)",
    "source": "json_quote(source)",
    "date_created": "json_quote(date_created)",
    "date_updated": "json_quote(date_updated)",
    "author": f"'\"{AUTHOR}\"'",
    "image_hash": "json_quote(image_hash)",
    "width": "width",
    "height": "height",
    "short_edge": "short_edge",
    "pixel_count": "pixel_count",
    "aspect_ratio": "aspect_ratio_text",
    "aspect_ratio_fraction": "json_quote(aspect_ratio_fraction)",
    "thumbnail": "'null'",
    "thumbnail_direct_url": "'null'",
    "thumbnail_error": "'null'",
    "original_url": "'null'",
    "tags": "tags_json",
    "coca_embedding": "ifnull((SELECT object_json FROM embeddings WHERE image = images.key), 'null')",
    "attributes": "attributes_json",
    "duplicate_state": "json_quote(duplicate_state)",
    "related_images": "'{}'",
    "datasets": "datasets_json",
}
"""Field -> SQL for its JSON text. The other fields hold URLs, which are signed for each answer."""

_NO_LATENTS = "NULL"
_LATENTS = """(SELECT json_group_array(json_array(name, media_key, is_mask)) FROM latents WHERE image = images.key)"""


@dataclass(frozen=True, slots=True)
class Row:
    """One image of an answer: what is ready as JSON, and the keys of the payloads that URLs are to be made for."""

    id: str
    static_json: str
    """The fields without URLs: `"name":value,...`, at least the id."""
    media_key: str
    latents: list[tuple[str, str, bool]]
    """Latent type, media key, is_mask; empty when not asked for."""


class Index:
    """Finds images by id, filter and hash. May be used by several threads; each call is one at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._database = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self._database.executescript(_SCHEMA)
        self._records: dict[str, Record] = {}
        self.known = KnownNames({}, {}, {}, {}, {})
        self.files: dict[str, str] = {}
        """Media key -> absolute path, of every payload there is."""

    def __len__(self) -> int:
        return len(self._records)

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def replace(self, records: Iterable[Record]) -> None:
        """Makes these the images of the index, writing only those that differ."""
        wanted = {record.id: record for record in records}
        old = [record for record in self._records.values() if wanted.get(record.id) != record]
        new = [record for record in wanted.values() if self._records.get(record.id) != record]
        self.files.update(payload for record in new for payload in _payloads(record))
        with self._lock:
            self._database.execute("BEGIN")
            try:
                self._remove(old)
                for record in new:
                    self._insert(record)
                self.known = self._read_known_names()
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")
        kept = {key for record in new for key, _ in _payloads(record)}
        for key in {key for record in old for key, _ in _payloads(record)} - kept:
            del self.files[key]
        self._records = wanted

    def _remove(self, records: Sequence[Record]) -> None:
        for record in records:
            for table in _TABLES:
                self._database.execute(
                    f"DELETE FROM {table} WHERE image = (SELECT key FROM images WHERE id = ?)", (record.id,)
                )
            self._database.execute("DELETE FROM images WHERE id = ?", (record.id,))

    def _insert(self, record: Record) -> None:
        key = self._insert_row("images", _image_columns(record))
        sidecar = record.sidecar
        for table, names in (("tags", sidecar.tags), ("datasets", sidecar.datasets)):
            for name in set(names or ()):
                self._insert_row(table, {"image": key, "name": name})
        for latent in record.latents:
            address = media_key(record.id, latent.path, latent.latent_type)
            self._insert_row(
                "latents", {"image": key, "name": latent.latent_type, "media_key": address, "is_mask": latent.is_mask}
            )
        if sidecar.coca_embedding:
            text = msgspec.json.encode({"vector": sidecar.coca_embedding, "author": AUTHOR}).decode()
            self._insert_row("embeddings", {"image": key, "object_json": text})
        for name, value in (sidecar.attributes or {}).items():
            for position, cell in enumerate(cells(value)):
                self._insert_row("attributes", {"image": key, "name": name, "position": position, **cell._asdict()})

    def _insert_row(self, table: str, columns: dict[str, Any]) -> int:
        marks = ",".join("?" * len(columns))
        statement = f"INSERT INTO {table} ({','.join(columns)}) VALUES ({marks})"
        return self._database.execute(statement, tuple(columns.values())).lastrowid or 0

    def _read_known_names(self) -> KnownNames:
        kinds: dict[str, set[str]] = {}
        for name, kind in self._database.execute("SELECT DISTINCT name, kind FROM attributes"):
            kinds.setdefault(name, set()).add(kind)
        counts = self._counts("attributes WHERE kind <> 'null'", "count(DISTINCT image)")
        masks = self._counts("latents", "max(is_mask)")
        latents = self._counts("latents")
        return KnownNames(
            sources=self._counts("images", name="source"),
            tags=self._counts("tags"),
            datasets=self._counts("datasets"),
            latent_types={name: (bool(masks[name]), count) for name, count in latents.items()},
            attributes={name: (merge_kinds(found), counts.get(name, 0)) for name, found in kinds.items()},
        )

    def _counts(self, rows: str, value: str = "count(*)", name: str = "name") -> dict[str, int]:
        return dict(self._database.execute(f"SELECT {name}, {value} FROM {rows} GROUP BY {name} ORDER BY 2 DESC, 1"))

    def page(self, selection: Selection, shape: Shape, after: str, limit: int) -> list[Row]:
        """The first `limit` selected images with an id after `after`, in byte order of the ids."""
        statement = f"SELECT {_columns(shape)} FROM images WHERE id > ? AND {selection.sql} ORDER BY id LIMIT ?"
        return self._rows(statement, [after, *selection.args, limit])

    def draw(self, selection: Selection, shape: Shape, prefixes: Iterable[str], limit: int) -> list[Row]:
        """Up to `limit` selected images whose hash starts with one of the hexadecimal prefixes."""
        ranges = [(f"sha256:{prefix}", f"sha256:{prefix}g") for prefix in dict.fromkeys(prefixes)]
        statement = (
            f"WITH draw(low, high) AS (VALUES {','.join(['(?,?)'] * len(ranges))}) "
            f"SELECT {_columns(shape)} FROM draw CROSS JOIN images "
            f"WHERE image_hash >= low AND image_hash < high AND {selection.sql} LIMIT ?"
        )
        return self._rows(statement, [bound for pair in ranges for bound in pair] + [*selection.args, limit])

    def one(self, image_id: str, shape: Shape) -> Row | None:
        """The image with this id."""
        rows = self._rows(f"SELECT {_columns(shape)} FROM images WHERE id = ?", [image_id])
        return rows[0] if rows else None

    def count(self, selection: Selection) -> int:
        """How many images are selected."""
        with self._lock:
            statement = f"SELECT count(*) FROM images WHERE {selection.sql}"
            return int(self._database.execute(statement, selection.args).fetchone()[0])

    def _rows(self, statement: str, args: Sequence[Any]) -> list[Row]:
        with self._lock:
            found = self._database.execute(statement, args).fetchall()
        return [Row(image_id, static, key, json.loads(latents or "[]")) for image_id, static, key, latents in found]


def random_prefixes(length: int, count: int) -> list[str]:
    """`count` hexadecimal prefixes, drawn independently."""
    return ["".join(random.choices("0123456789abcdef", k=length)) for _ in range(count)]


def usual_prefixes(images: int, page_size: int, count: int) -> list[str]:
    """Up to `count` different prefixes: as long as in a real Dataroom of millions of images, or shorter, so that they
    surely match a full page of these images. Clients such as datago ask for one page only."""
    lengths = range(1, _LONGEST_USUAL + 1)
    wanted = _SPARE * page_size
    length = max((length for length in lengths if images * min(1.0, count / 16**length) >= wanted), default=1)
    return [f"{number:0{length}x}" for number in random.sample(range(16**length), min(count, 16**length))]


def _columns(shape: Shape) -> str:
    static = [f"""'"{name}":' || {_STATIC_FIELDS[name]}""" for name in shape.fields if name in _STATIC_FIELDS]
    latents = _LATENTS if "latents" in shape.fields else _NO_LATENTS
    joined = " || ',' || ".join(static)
    return f"id, {joined}, media_key, {latents}"


def _payloads(record: Record) -> Iterator[tuple[str, str]]:
    yield media_key(record.id, record.path), record.path
    for latent in record.latents:
        yield media_key(record.id, latent.path, latent.latent_type), latent.path


def _image_columns(record: Record) -> dict[str, Any]:
    facts, sidecar = record.facts, record.sidecar
    return {
        "id": record.id,
        "shard": shard_of(record.id),
        "source": record.source,
        "media_key": media_key(record.id, record.path),
        "image_hash": facts.image_hash,
        "width": facts.width,
        "height": facts.height,
        "short_edge": min(facts.width, facts.height),
        "pixel_count": facts.width * facts.height,
        "aspect_ratio": facts.aspect_ratio,
        "aspect_ratio_text": repr(facts.aspect_ratio),
        "aspect_ratio_fraction": facts.aspect_ratio_fraction,
        "date_created": _date(record.created_ns),
        "date_updated": _date(record.updated_ns),
        "duplicate_state": sidecar.duplicate_state,
        "attributes_json": _json(sidecar.attributes or {}),
        "tags_json": _json(sidecar.tags or []),
        "datasets_json": _json(sorted(set(sidecar.datasets or ()))),
    }


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _date(moment_ns: int) -> str:
    return format_date(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=moment_ns // 1000))
