"""What the argument `source` of a Loader may be, and how its rows are read.

All code here runs in the trainer's process, on the thread of `row_thread`, except what is called when a Loader is made.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from datago_gpu.config import LoaderConfig
from datago_gpu.config.user_source import UserSource
from datago_gpu.errors import ConfigError, SourceError
from datago_gpu.feeder.wire import Resume
from datago_gpu.loader.row_sizes import RowSizes, describe_error
from datago_gpu.row import Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["GivenRows", "NotRows", "Walk", "given_rows"]

_WANTED = (
    "source must be rows: a sequence (with len() and []), an iterable, an iterator, or a function that is given the "
    "epoch and returns an iterable"
)
_PROBES = 8
"""How many rows of a sequence are read for its digest."""
_DIGEST_BYTES = 8
_SHARES = ("rank", "world_size")


class NotRows(Exception):
    """Says that the user's code has returned something that cannot be used. The text names the row and the field."""


class Walk(NamedTuple):
    """A walk through the rows of an epoch."""

    rows: Iterator[object]
    every: int
    """One of so many rows belongs to this rank. With 1, all rows do."""
    first: int = 0
    """The number of the first row that is yielded: the rows before were left out by the user's code."""


class GivenRows:
    """Holds the user's rows. Whoever runs the user's code holds `in_use`: two Loaders of one LoaderDataset take turns.

    count: the number of rows of a sequence; None if the rows are walked through.
    """

    count: int | None = None
    once = False
    """Whether the rows can be walked through only once."""

    def __init__(self, given: object) -> None:
        """given: the argument `source`."""
        self._given = given
        self.in_use = threading.RLock()
        self.used = False
        """Whether a walk has begun, or a row of a sequence was read."""
        self.sizes = RowSizes(self)
        """Of a sequence."""
        self.passing: dict[str, NDArray[np.bool_]] = {}
        """Of a sequence: text of a `where` -> whether each row passes."""

    def __reduce__(self) -> tuple[Callable[[object], GivenRows], tuple[object]]:
        """Copies and pickles what was given; a copy may be read at the same time."""
        return given_rows, (self._given,)

    def check(self, config: LoaderConfig, resume: Resume, *, repeats: bool = False) -> None:
        """Raises ConfigError if a run with these settings, from this place on, cannot work with these rows.

        repeats: whether an epoch may have several passes through the rows, as a mix may.
        """
        source = config.source_config
        if self.count is None and isinstance(source, UserSource) and source.random_sampling:
            raise ConfigError(
                "source_config.random_sampling needs a sequence of rows (with len() and []): shuffle in your own code, "
                "as a function that is given the epoch can, or give a sequence"
            )
        if self.count is None and config.lockstep:
            raise ConfigError(
                "lockstep plans all rows before the first one is loaded: give a sequence of rows (with len() and []), "
                "each with width and height"
            )
        if self.once:
            self._check_once(config.epochs, resume, repeats=repeats)

    def _check_once(self, epochs: int | None, resume: Resume, *, repeats: bool) -> None:
        way_out = (
            "give a function that returns a new iterator for each epoch, an iterable such as a list, or a sequence"
        )
        begin = resume.position
        if self.used:
            raise ConfigError(
                f"the source is an iterator, and another Loader or pass has begun to use it up: {way_out}"
            )
        if begin.index or resume.done or resume.carried:
            raise ConfigError(
                "the source is an iterator, which a state cannot resume: nothing tells whether the iterator is at its "
                f"beginning. To resume, {way_out}"
            )
        if repeats:
            raise ConfigError(
                "the source is an iterator, which can be walked through once, and the mix may begin a further pass "
                f"through each of its sources: {way_out}"
            )
        if epochs is None or epochs > begin.epoch + 1:
            raise ConfigError(
                f"epochs is {epochs}, but the source is an iterator, which can be walked through once: {way_out}"
            )

    def digest(self) -> str:
        """Returns a digest of a sequence: of its length, and of the ids of a few rows. For `count` rows."""
        raise NotImplementedError

    def get(self, number: int) -> object:
        """Returns a row of a sequence."""
        raise NotImplementedError

    def each(self) -> Iterator[tuple[int, Row]]:
        """Reads a sequence: yields the number of each row, and the row. Leaves out values that are no rows, each of
        which is an error once a batch needs it.

        Raises SourceError with the exception of the program's own code as its cause.
        """
        assert self.count is not None
        for number in range(self.count):
            try:
                row = self.get(number)
            except BaseException as error:
                raise SourceError(f"row {number} of the source cannot be read: {describe_error(error)}") from error
            if isinstance(row, Row):
                yield number, row

    def given_sizes(self) -> object:
        """Returns the sizes that a sequence has at hand, as its program gives them; None if it has none."""
        raise NotImplementedError

    def walk(self, epoch: int, rank: int, world_size: int, start: int = 0) -> Walk:
        """Begins a walk. start: number of this rank's rows that are done."""
        raise NotImplementedError


def given_rows(source: object) -> GivenRows:
    """Returns the rows of the argument `source`. Raises ConfigError if the argument has no rows."""
    if isinstance(source, GivenRows):
        return source
    if isinstance(source, Mapping | str | bytes | Row):
        raise ConfigError(f"{_WANTED}; got the type {type(source).__name__}")
    if isinstance(source, AsyncIterable) or inspect.isasyncgenfunction(source) or inspect.iscoroutinefunction(source):
        raise ConfigError(f"{_WANTED}; got an asynchronous one: {source!r}")
    if hasattr(type(source), "__len__") and hasattr(type(source), "__getitem__") and not _only_iterates(source):
        return _Sequence(source)
    if isinstance(source, Iterator):
        return _Once(source)
    if isinstance(source, Iterable):
        return _Iterable(source)
    if callable(source):
        return _Function(source)
    raise ConfigError(f"{_WANTED}; got the type {type(source).__name__}")


class _Sequence(GivenRows):
    def __init__(self, rows: Any) -> None:
        super().__init__(rows)
        self._rows = rows
        try:
            self.count = len(rows)
        except Exception as error:
            raise ConfigError(f"the length of the source cannot be told: {describe_error(error)}") from error
        if not self.count:
            raise ConfigError("the source has no rows: its length is 0")

    def digest(self) -> str:
        assert self.count is not None
        found = blake2b(str(self.count).encode(), digest_size=_DIGEST_BYTES)
        for number in sorted({at * (self.count - 1) // max(1, _PROBES - 1) for at in range(_PROBES)}):
            row = None
            with suppress(Exception):  # a row that cannot be read is an error once a batch needs the row
                row = self.get(number)
            found.update(
                b"\0" + (row.id if isinstance(row, Row) and isinstance(row.id, str) else "").encode("utf-8", "replace")
            )
        return found.hexdigest()

    def get(self, number: int) -> object:
        self.used = True
        return self._rows[number]

    def given_sizes(self) -> object:
        sizes = getattr(self._rows, "sizes", None)
        return sizes() if callable(sizes) else sizes


class _Iterable(GivenRows):
    def __init__(self, rows: Iterable[object]) -> None:
        super().__init__(rows)
        self._rows = rows

    def walk(self, epoch: int, rank: int, world_size: int, start: int = 0) -> Walk:  # noqa: ARG002
        self.used = True
        return Walk(iter(self._rows), world_size)


class _Once(_Iterable):
    once = True


class _Function(GivenRows):
    """A function is given the epoch; also rank and world_size if it has parameters of these names, and `start`."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._function = function
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):  # a function of another language: it is given the epoch
            self._shares = self._starts = False
            return
        self._shares = all(name in signature.parameters for name in _SHARES)
        self._starts = "start" in signature.parameters
        try:
            signature.bind(0, **self._named(0, 1, 0))
        except TypeError as error:
            raise ConfigError(
                "a function as source is called as source(epoch), and with rank=..., world_size=... and with start=... "
                f"if it has these parameters, but {_name(function)}{signature} cannot be called so: {error}"
            ) from None

    def walk(self, epoch: int, rank: int, world_size: int, start: int = 0) -> Walk:
        self.used = True
        every = 1 if self._shares else world_size
        rows = self._function(epoch, **self._named(rank, world_size, start * every))
        if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
            raise NotRows(
                f"the function {_name(self._function)} must return an iterable of rows, got {type(rows).__name__}"
            )
        return Walk(iter(rows), every, start * every if self._starts else 0)

    def _named(self, rank: int, world_size: int, start: int) -> dict[str, int]:
        share = {"rank": rank, "world_size": world_size} if self._shares else {}
        return share | ({"start": start} if self._starts else {})


def _only_iterates(source: object) -> bool:
    """Returns whether `[]` is there, but does not work: torch's IterableDataset inherits it."""
    torch_data = sys.modules.get("torch.utils.data")
    return torch_data is not None and isinstance(source, torch_data.IterableDataset)


def _name(function: object) -> str:
    return str(getattr(function, "__qualname__", None) or type(function).__name__)
