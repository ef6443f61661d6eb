"""Decides what each column of a table is: image, id, sizes, attributes, masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pyarrow as pa
from msgspec import Struct, structs

from datago_gpu.config import TableSource
from datago_gpu.config.settings import Kind, names_in
from datago_gpu.config.table import ALL_SMALL
from datago_gpu.errors import ConfigError
from datago_gpu.sources.index_form import FORMAT, ROOT, VERSION

__all__ = ["PartColumn", "Roles", "roles_of", "root_of", "usual_texts"]

_IMAGES = (
    *("image", "jpg", "jpeg", "png", "webp", "img", "picture", "image_bytes", "url", "image_url", "path"),
    *("image_path", "file_name", "filename", "file_path", "filepath", "file"),
)
_IDS = ("id", "key", "__key__", "image_id")
_LARGE_LIST = 64
"""The least number of values of a list of fixed length that counts as an embedding, not as an attribute."""
_MOST_LEVELS = 100
"""The most levels of lists and structs within each other of a column that counts as an attribute."""
_OF_AN_INDEX = (
    *("id", "path", "url", "offset", "length", "width", "height", "attributes", "source", "tags", "parts"),
    *("reason", "detail", "label", "digest"),
)


class PartColumn(Struct, frozen=True):
    """A column of masks, additional images or latents."""

    name: str
    kind: Kind
    column: str
    optional: bool


class Roles(Struct, frozen=True, kw_only=True):
    """What the columns of a table are. Each field holds names of columns, "" or nothing for none."""

    images: list[str]
    """The places of images: the first one that is not null counts."""
    offset: str = ""
    length: str = ""
    id: str = ""
    width: str = ""
    height: str = ""
    label: str = ""
    """The classes; of an index, the labels, or an attribute that the settings name."""
    attributes: list[str] = []
    parts: list[PartColumn] = []
    is_index: bool = False
    sized: bool = False
    """Whether a sample needs the size of its image."""
    holds_bytes: bool = False
    """Whether a place of an image or part may hold its bytes."""

    @property
    def places(self) -> list[str]:
        """Returns the columns that every table must have: those of images and of parts."""
        return [*self.images, *(part.column for part in self.parts)]

    @property
    def read(self) -> list[str]:
        """Returns all columns that are read for a sample."""
        named = [*self.images, self.offset, self.length, self.id, *self.attributes, *(p.column for p in self.parts)]
        if self.is_index:
            named = list(_OF_AN_INDEX)
        elif self.sized:
            named += [self.height, self.width]
        return [name for name in dict.fromkeys(named) if name]


def root_of(schema: pa.Schema) -> str:
    """Returns where an index says that relative paths begin; "" for other tables."""
    metadata = schema.metadata or {}
    return str(metadata.get(ROOT.encode(), b"").decode()) if FORMAT.encode() in metadata else ""


def usual_texts() -> tuple[str, ...]:
    """Returns usual names of columns of texts: of paths, addresses and ids."""
    return (*_IMAGES, *_IDS)


def roles_of(source: TableSource, schema: pa.Schema, shown: str) -> Roles:
    """Returns the roles of a table's columns. shown: the table, for messages.

    Raises ConfigError if a column is missing, or cannot be what it is named for.
    """
    version = (schema.metadata or {}).get(FORMAT.encode())
    if version:
        return _index_roles(version.decode(), source.label, shown)
    columns = _Columns(schema, shown)
    image = columns.named("image", source.image) or columns.first(_IMAGES, _can_be_image) or columns.only(_is_picture)
    if not image:
        raise ConfigError(
            f"{shown} has no column of a usual name for images ({', '.join(_IMAGES[:6])}, ...): set "
            f"source_config.image to one of its columns, {columns.listed}"
        )
    found = {name: columns.named(f"{kind} {name!r}", source.part_columns[name]) for name, kind in source.parts.items()}
    parts = [PartColumn(name, kind, found[name], name in source.optional_parts) for name, kind in source.parts.items()]
    for role, column in [("image", image), *((f"{part.kind} {part.name!r}", part.column) for part in parts)]:
        columns.check_place(role, column)
    offset, length = columns.span(image)
    named = Roles(
        images=[image],
        offset=offset,
        length=length,
        id=columns.named("id", source.id) or columns.first(_IDS, _can_be_id),
        width=columns.number("width", source.width),
        height=columns.number("height", source.height),
        parts=parts,
        holds_bytes=any(_holds_bytes(schema.field(name).type) for name in (image, *(part.column for part in parts))),
    )
    label = columns.named("label", source.label) or columns.first(("label",), _is_small)
    named = structs.replace(named, label=columns.classes(source, label))
    return _with_attributes(named, source, columns, label)


def _index_roles(version: str, label: str, shown: str) -> Roles:
    if version != VERSION:
        raise ConfigError(f"{shown} is an index of version {version}, but this package reads version {VERSION}")
    return Roles(
        images=["path", "url"],
        offset="offset",
        length="length",
        id="id",
        width="width",
        height="height",
        label=label,
        is_index=True,
    )


def _with_attributes(roles: Roles, source: TableSource, columns: _Columns, label: str) -> Roles:
    if source.attributes.strip() == ALL_SMALL:
        used = {*roles.images, roles.offset, roles.length, roles.id, roles.width, roles.height}
        used |= {part.column for part in roles.parts}
        names = [name for name in columns.single if name not in used and _is_small(columns.schema.field(name).type)]
    else:
        names = [columns.named("attributes", name) for name in names_in(source.attributes)]
    if label and label not in names:
        names.append(label)
    return structs.replace(roles, attributes=names)


class _Columns:
    """Finds columns by name. shown: the table, for messages."""

    def __init__(self, schema: pa.Schema, shown: str) -> None:
        self.schema, self._shown = schema, shown
        self._counts = Counter(schema.names)
        self.single = [name for name, count in self._counts.items() if count == 1]
        """The names that only one column has."""
        self._lower: dict[str, str] = {}
        for name in self._counts:
            self._lower.setdefault(name.lower(), name)

    def only(self, fits: Callable[[pa.DataType], bool]) -> str:
        """Returns the only column whose type fits; "" if there is none, or more than one."""
        found = [name for name in self.single if fits(self._type(name))]
        return found[0] if len(found) == 1 else ""

    @property
    def listed(self) -> str:
        """Returns the names of all columns, with their types."""
        names = [f"{field.name} ({str(field.type)[:40]})" for field in self.schema]
        return ", ".join(names[:50]) + (f" and {len(names) - 50} more" if len(names) > 50 else "")

    def named(self, role: str, name: str) -> str:
        """Returns the name; "" if none is given. Raises ConfigError if there is no such column."""
        if name and self._counts[name] != 1:
            has = f"several columns {name!r}" if self._counts[name] else f"no column {name!r}"
            raise ConfigError(f"{self._shown} has {has} (wanted for {role}); its columns are {self.listed}")
        return name

    def first(self, usual: tuple[str, ...], fits: Callable[[pa.DataType], bool]) -> str:
        """Returns the first column of a usual name, in any case, whose type fits; "" if there is none."""
        found = (self._lower[name] for name in usual if name in self._lower)
        return next((name for name in found if self._counts[name] == 1 and fits(self._type(name))), "")

    def number(self, role: str, given: str) -> str:
        """Returns the column of that role, or of the usual name, if it holds numbers. Raises ConfigError."""
        name = self.named(role, given)
        if name and not _is_number(self._type(name)):
            raise ConfigError(f"the column {name!r} ({role}) of {self._shown} has the type {self._type(name)}")
        return name or self.first((role,), _is_number)

    def classes(self, source: TableSource, label: str) -> str:
        """Returns the column of the classes, or "" for none. label: the column that may be it.

        Raises ConfigError if the settings ask for labels, and there is no column that can hold classes.
        """
        if label and (self._is_number(label) or (source.has_labels and _is_text(self._type(label)))):
            return label
        if not source.has_labels:
            return ""
        has = (
            f"the column {label!r} (label) of {self._shown} has the type {str(self._type(label))[:100]}"
            if label
            else (f"{self._shown} has no column 'label'")
        )
        raise ConfigError(f"{has}: set source_config.label to a column of whole numbers or texts, one of {self.listed}")

    def _is_number(self, name: str) -> bool:
        return _is_number(self._type(name)) or bool(pa.types.is_boolean(self._type(name)))

    def span(self, image: str) -> tuple[str, str]:
        """Returns the columns of offset and length, if the images are places and both columns exist."""
        offset, length = (self.first((name,), pa.types.is_integer) for name in ("offset", "length"))
        return (offset, length) if offset and length and not _holds_bytes(self._type(image)) else ("", "")

    def check_place(self, role: str, column: str) -> None:
        """Raises ConfigError if the column cannot hold places or bytes."""
        if not _can_be_image(self._type(column)):
            raise ConfigError(
                f"the column {column!r} ({role}) of {self._shown} has the type {str(self._type(column))[:100]}, but it "
                "must hold bytes, {bytes, path}, paths or addresses"
            )

    def _type(self, name: str) -> pa.DataType:
        found = self.schema.field(name).type
        return found.value_type if pa.types.is_dictionary(found) else found


def _holds_bytes(given: pa.DataType) -> bool:
    """Returns whether cells of this type may hold the bytes of a picture."""
    if pa.types.is_dictionary(given):
        given = given.value_type
    if pa.types.is_struct(given):
        return any(_holds_bytes(given.field(number).type) for number in range(given.num_fields))
    return bool(
        pa.types.is_binary(given)
        or pa.types.is_large_binary(given)
        or pa.types.is_binary_view(given)
        or pa.types.is_fixed_size_binary(given)
    )


def _can_be_image(given: pa.DataType) -> bool:
    if pa.types.is_struct(given):
        return bool({"bytes", "path", "url"} & {given.field(number).name for number in range(given.num_fields)})
    return _is_text(given) or _holds_bytes(given) or bool(pa.types.is_null(given))


def _is_picture(given: pa.DataType) -> bool:
    """Returns whether this is how Hugging Face datasets store images, whatever the column's name."""
    return pa.types.is_struct(given) and {given.field(number).name for number in range(given.num_fields)} == {
        "bytes",
        "path",
    }


def _can_be_id(given: pa.DataType) -> bool:
    return _is_text(given) or bool(pa.types.is_integer(given))


def _is_text(given: pa.DataType) -> bool:
    return bool(pa.types.is_string(given) or pa.types.is_large_string(given) or pa.types.is_string_view(given))


def _is_number(given: pa.DataType) -> bool:
    return bool(pa.types.is_integer(given) or pa.types.is_floating(given))


def _is_small(given: pa.DataType, level: int = 0) -> bool:
    """Returns whether values of this type are attributes: no bytes, no embeddings, and no more levels than JSON has."""
    if level > _MOST_LEVELS:
        return False
    if pa.types.is_fixed_size_list(given) and given.list_size >= _LARGE_LIST:
        return False
    if pa.types.is_dictionary(given):
        return _is_small(given.value_type, level)
    if isinstance(given, pa.BaseExtensionType):
        return False
    inner = [given.field(number).type for number in range(given.num_fields)]
    return all(_is_small(each, level + 1) for each in inner) if inner else not _holds_bytes(given)
