"""Filters and partitions of a request -> SQL, refused in the words of a real Dataroom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from datago_gpu.server.attribute_filter import InvalidAttributeFilter, UnanswerableFilter, parse_attribute_filter
from datago_gpu.server.parameters import NULL_CHARACTER, Parameters, Refused, refuse
from datago_gpu.server.partition import SHARDS

_MAX_NUMBER = Decimal("1e50")


@dataclass(slots=True)
class Selection:
    """A condition on images: clauses of SQL over `images`, all of which must hold, and their arguments."""

    clauses: list[str] = field(default_factory=list)
    args: list[Any] = field(default_factory=list)

    def add(self, clause: str, *args: Any) -> None:
        self.clauses.append(clause)
        self.args.extend(args)

    @property
    def sql(self) -> str:
        """The clauses as one expression."""
        return _joined(self.clauses, "AND") if self.clauses else "1"


def _joined(clauses: Sequence[str], operator: str) -> str:
    # As a balanced tree: SQLite refuses expressions more than 1,000 deep, which a long list in a row would be.
    if len(clauses) == 1:
        return clauses[0]
    middle = len(clauses) // 2
    return f"({_joined(clauses[:middle], operator)} {operator} {_joined(clauses[middle:], operator)})"


@dataclass(frozen=True, slots=True)
class KnownNames:
    """The names that filters may use, with the number of images of each."""

    sources: dict[str, int]
    tags: dict[str, int]
    datasets: dict[str, int]
    latent_types: dict[str, tuple[bool, int]]
    """Type -> whether it is a mask, and the number of images."""
    attributes: dict[str, tuple[str, int]]
    """Name -> type, and the number of images where it is not null."""

    @property
    def attribute_kinds(self) -> dict[str, str]:
        return {name: kind for name, (kind, _) in self.attributes.items()}


_NUMBER_OPERATORS = {"": "=", "__gt": ">", "__gte": ">=", "__lt": "<", "__lte": "<="}
_NUMBER_FILTERS = {
    name + suffix: f"{name} {operator} ?"
    for name in ("short_edge", "pixel_count", "aspect_ratio")
    for suffix, operator in _NUMBER_OPERATORS.items()
}
_DATE_FILTERS = {
    name + suffix: f"{name} {operator} ?"
    for name in ("date_created", "date_updated")
    for suffix, operator in _NUMBER_OPERATORS.items()
    if suffix
}
# fmt: off
_TEXT_FILTERS = (
    "source", "sources", "sources__ne", "aspect_ratio_fraction", "attributes", "has_attributes", "lacks_attributes",
    "has_latents", "lacks_latents", "has_masks", "lacks_masks", "tags", "tags__ne", "tags__all", "tags__ne_all",
    "duplicate_state", "datasets", "datasets__ne", "datasets__all", "datasets__ne_all",
)
# fmt: on
_EMPTY_FILTERS = {
    "source__empty": "source = ''",
    "aspect_ratio_fraction__empty": "aspect_ratio_fraction = ''",
    "tags__empty": "NOT EXISTS (SELECT 1 FROM tags WHERE image = images.key)",
    "coca_embedding__empty": "NOT EXISTS (SELECT 1 FROM embeddings WHERE image = images.key)",
    "datasets__empty": "NOT EXISTS (SELECT 1 FROM datasets WHERE image = images.key)",
}


def parse_selection(parameters: Parameters, known: KnownNames, *, partitioned: bool) -> Selection:
    """The filters, and the partition where the endpoint knows partitions.

    Raises Refused, or, when nothing is to refuse, UnanswerableFilter."""
    selection = Selection()
    _add_checked_values(selection, parameters)
    _add_sources(selection, parameters)
    unanswerable = _add_attributes(selection, parameters, known)
    _add_presence(selection, parameters, known)
    _add_labels(selection, parameters, "tags", known.tags)
    _add_duplicate_state(selection, parameters.text("duplicate_state"))
    _add_labels(selection, parameters, "datasets", known.datasets)
    _add_emptiness(selection, parameters)
    if partitioned:
        _add_partition(selection, parameters)
    if unanswerable:
        raise UnanswerableFilter
    return selection


def _add_checked_values(selection: Selection, parameters: Parameters) -> None:
    errors = {name: [NULL_CHARACTER] for name in _TEXT_FILTERS if "\0" in parameters.raw(name)}
    _add_values(selection, parameters, _NUMBER_FILTERS, _number, errors)
    _add_values(selection, parameters, _DATE_FILTERS, _date, errors)
    refuse(errors)


def _add_values(
    selection: Selection,
    parameters: Parameters,
    filters: dict[str, str],
    parse: Callable[[str], float | str],
    errors: dict[str, list[str]],
) -> None:
    for name, clause in filters.items():
        text = parameters.text(name)
        if not text:
            continue
        try:
            selection.add(clause, parse(text))
        except ValueError as error:
            errors[name] = [str(error)]


def _number(text: str) -> float:
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise ValueError("Enter a number.") from None
    if not number.is_finite():
        raise ValueError("Enter a number.")
    if number > _MAX_NUMBER:
        raise ValueError("Ensure this value is less than or equal to 1e+50.")
    return float(number)


def format_date(moment: datetime) -> str:
    """As the API writes a date; such texts compare as the dates do."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _date(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
        return format_date(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        raise ValueError("Enter a valid date/time.") from None


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


def _add_sources(selection: Selection, parameters: Parameters) -> None:
    for name, operator in (("sources", "IN"), ("sources__ne", "NOT IN")):
        if text := parameters.text(name):
            sources = text.split(",")
            selection.add(f"source {operator} ({_marks(sources)})", *sources)
    for name in ("source", "aspect_ratio_fraction"):
        if text := parameters.text(name):
            selection.add(f"{name} = ?", text)


def _add_attributes(selection: Selection, parameters: Parameters, known: KnownNames) -> bool:
    """Adds the attribute filter; True when the real server would fail on one of its values."""
    if not (text := parameters.raw("attributes")):
        return False
    try:
        tests = parse_attribute_filter(text, known.attribute_kinds)
    except InvalidAttributeFilter as error:
        raise Refused([str(error)]) from error
    except UnanswerableFilter:
        return True
    for name, negated, (sql, args) in tests:
        exists = f"EXISTS (SELECT 1 FROM attributes WHERE image = images.key AND name = ? AND {sql})"
        selection.add(f"NOT {exists}" if negated else exists, name, *args)
    return False


def _add_presence(selection: Selection, parameters: Parameters, known: KnownNames) -> None:
    for name, negation in (("has_attributes", ""), ("lacks_attributes", "NOT ")):
        for attribute in _attribute_names(parameters.text(name), known):
            clause = "EXISTS (SELECT 1 FROM attributes WHERE image = images.key AND name = ? AND kind <> 'null')"
            selection.add(negation + clause, attribute)
    for name in ("has_latents", "lacks_latents", "has_masks", "lacks_masks"):
        negation = "NOT " if name.startswith("lacks") else ""
        for latent in _latent_types(parameters.text(name), known):
            selection.add(f"{negation}EXISTS (SELECT 1 FROM latents WHERE image = images.key AND name = ?)", latent)


def _attribute_names(text: str, known: KnownNames) -> list[str]:
    names = list(dict.fromkeys(text.split(","))) if text else []
    for name in names:
        if name not in known.attributes:
            raise Refused([f'Field "{name}" not found in schema'])
    for name in names:
        if known.attributes[name][0] == "object":
            raise Refused([f"Existance checks on object attributes are not supported. Attribute: {name}"])
    return names


def _latent_types(text: str, known: KnownNames) -> list[str]:
    names = text.split(",") if text else []
    for position, name in enumerate(names):
        if name in names[:position]:
            raise Refused([f"Duplicate latent type '{name}'"])
        if name not in known.latent_types:
            raise Refused([f"Latent type '{name}' does not exist"])
    return names


def _add_labels(selection: Selection, parameters: Parameters, table: str, known: dict[str, int]) -> None:
    """The four filters on tags, or on datasets."""
    has = f"EXISTS (SELECT 1 FROM {table} WHERE image = images.key AND name"
    for suffix, negation in (("", ""), ("__ne", "NOT ")):
        if names := _existing(parameters.text(table + suffix), table, known):
            selection.add(f"{negation}{has} IN ({_marks(names)}))", *names)
    for suffix, negation in (("__all", ""), ("__ne_all", "NOT ")):
        if names := _existing(parameters.text(table + suffix), table, known):
            selection.add(negation + "(" + _joined([f"{has} = ?)"] * len(names), "AND") + ")", *names)


def _existing(text: str, what: str, known: dict[str, int]) -> list[str]:
    names = list(dict.fromkeys(text.split(","))) if text else []
    missing = ",".join(f"'{name}'" for name in names if name not in known)
    if missing:
        raise Refused([f"One or more {what} do not exist: {missing}"])
    return names


def _add_duplicate_state(selection: Selection, text: str) -> None:
    if text == "None":
        selection.add("duplicate_state IS NULL")
    elif text:
        try:
            state = int(text)
        except ValueError:
            state = 0
        if state not in (1, 2):
            raise Refused([f"Invalid value for duplicate_state: {text}"])
        selection.add("duplicate_state = ?", state)


def _add_emptiness(selection: Selection, parameters: Parameters) -> None:
    for name, clause in _EMPTY_FILTERS.items():
        text = parameters.text(name).lower()
        if text in ("true", "1"):
            selection.add(clause)
        elif text in ("false", "0"):
            selection.add(f"NOT {clause}")


def _add_partition(selection: Selection, parameters: Parameters) -> None:
    if ("partitions_count" in parameters) != ("partition" in parameters):
        raise Refused(['Both "partitions_count" and "partition" parameters must be provided'])
    if not (parameters.raw("partitions_count") and parameters.raw("partition")):
        return
    count = _partition_number(parameters, "partitions_count", 1)
    partition = _partition_number(parameters, "partition", 0)
    if not 2 <= count <= SHARDS:
        raise Refused([f'"partitions_count" should be between 2 and {SHARDS}'])
    if partition >= count:
        raise Refused([f'"partition" should be between 0 and {count - 1}'])
    selection.add("shard % ? = ?", count, partition)


def _partition_number(parameters: Parameters, name: str, least: int) -> int:
    try:
        number = int(parameters.raw(name))
    except ValueError:
        number = -1
    if number < least:
        raise Refused([f'Invalid "{name}" parameter'])
    return number
