"""Reads the sizes of a sequence of the program's own rows: lockstep plans by them."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from datago_gpu.errors import SourceError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from datago_gpu.loader.given_rows import GivenRows

__all__ = ["RowSizes", "describe_error", "side_of"]

_LARGEST = 2**31 - 1
_LONGEST_TEXT = 2000
"""Characters of the text of an exception of the program's code."""


class RowSizes:
    """Reads each row once, when the sizes are first asked for, and keeps the sizes.

    A sequence may have the sizes at hand: an attribute or a method `sizes`, (N, 2), height and width of each row. Then
    no row is read.
    """

    def __init__(self, rows: GivenRows) -> None:
        self._rows = rows
        self._found: NDArray[np.int32] | None = None

    def get(self) -> NDArray[np.int32]:
        """Returns height and width of each row, (N, 2), 0 where unknown. Any thread may call this.

        Raises SourceError with the exception of the program's own code as its cause.
        """
        with self._rows.in_use:
            if self._found is None:
                self._found = self._read()
            return self._found

    def _read(self) -> NDArray[np.int32]:
        import numpy as np  # most programs that give rows do not need it here

        assert self._rows.count is not None
        try:
            given = self._rows.given_sizes()
        except BaseException as error:
            raise SourceError(f"the sizes of the source cannot be read: {describe_error(error)}") from error
        if given is not None:
            return self._checked(np.asarray(given))
        found = np.zeros((self._rows.count, 2), np.int32)
        for number, row in self._rows.each():
            found[number] = side_of(row.height), side_of(row.width)
        return found

    def _checked(self, given: NDArray[Any]) -> NDArray[np.int32]:
        import numpy as np

        if given.shape != (self._rows.count, 2) or given.dtype.kind not in "iu":
            raise SourceError(
                f"the sizes of the source must be whole numbers of the shape ({self._rows.count}, 2), height and width "
                f"of each row, got {given.dtype} of the shape {given.shape}"
            )
        return np.where((given > 0) & (given <= _LARGEST), given, 0).astype(np.int32)


def describe_error(error: BaseException) -> str:
    """Describes an error of the program's code: its type and its text, shortened if it is very long."""
    try:
        text = str(error)
    except Exception as problem:
        text = f"(it has no text: {type(problem).__name__})"
    return f"{type(error).__name__}: {text if len(text) <= _LONGEST_TEXT else f'{text[:_LONGEST_TEXT]}...'}"


def side_of(value: object) -> int:
    """Returns a side in pixels; 0 for what is no side of a picture."""
    try:
        side = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return 0
    return side if 0 < side <= _LARGEST else 0
