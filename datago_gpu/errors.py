"""All errors that this package raises on purpose.

    DatagoError
      ConfigError      the settings cannot work; raised before anything starts
      SourceError      the source failed permanently; names the URL or path, and what was tried
      FeederError      the feeder process died; contains its last output
      DecodeError      one sample is bad; names its id, its origin and the reason
      TooManyErrors    more samples were bad than `max_failures` allows; contains the last ones

A bad sample does not raise: it is skipped and counted in `Loader.stats()`. A `DecodeError` describes such a sample.
Inside the package, `Rejected` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from datago_gpu.redact import printable

__all__ = ["ConfigError", "DatagoError", "DecodeError", "FeederError", "Rejected", "SourceError", "TooManyErrors"]


class DatagoError(Exception):
    """Base of all errors of datago_gpu. Control characters in its message appear as escapes, such as "\\x1b"."""

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message, lines=True))

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Copies and pickles with all fields, so that another process can raise the same error, as with Ray."""
        return _restored, (type(self), self.args, self.__dict__)


class ConfigError(DatagoError):
    """The settings cannot work. Names the setting, the value and a way out."""


class SourceError(DatagoError):
    """The source of the samples failed permanently. Names the URL or path and what was tried."""


class FeederError(DatagoError):
    """The feeder process ended unexpectedly, or cannot be started. Contains the last lines that it wrote."""


class DecodeError(DatagoError):
    """One sample is bad.

    id: the sample's id. where: its path or URL, without query. reason: a short fixed word, such as "truncated".
    Control characters in `where` and `detail` appear as escapes.
    """

    def __init__(self, id: str, where: str, reason: str, detail: str = "") -> None:  # noqa: A002
        where, detail = printable(where), printable(detail)
        what = f"sample {id!r} ({where})" if id else where  # a whole shard that is missing has no id
        super().__init__(f"{what}: {reason}" + (f": {detail}" if detail else ""))
        self.id, self.where, self.reason, self.detail = id, where, reason, detail


class Rejected(Exception):
    """One payload, or one entry of a listing, cannot be used. Internal: the sample is skipped for this reason.

    reason: a short fixed word, such as "too-many-pixels". detail: what was found. The text describes a sample that is
    counted by its reason, so it leaves out the reason "undecodable" if there is a detail.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        said = [] if reason == "undecodable" and detail else [reason]
        super().__init__(": ".join([*said, *([detail] if detail else [])]))
        self.reason, self.detail = reason, detail


class TooManyErrors(DatagoError):
    """More samples were bad than `max_failures` allows. `last` holds the most recent ones, oldest first."""

    def __init__(self, message: str, last: Sequence[DecodeError] = ()) -> None:
        super().__init__("\n  ".join([message, *map(str, last)]))
        self.last = tuple(last)


def _restored(kind: type[DatagoError], arguments: tuple[Any, ...], fields: dict[str, Any]) -> DatagoError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(fields)
    return error
