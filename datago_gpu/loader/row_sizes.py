"""Reads the sizes of a sequence of the program's own rows: lockstep plans by them."""

from __future__ import annotations

import operator
from concurrent.futures import Future
from typing import TYPE_CHECKING

from datago_gpu.row import Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from datago_gpu.loader.given_rows import GivenRows

__all__ = ["RowSizes"]

_LARGEST = 2**31 - 1
_TURN_S = 0.1


class RowSizes:
    """Reads each row once, when the sizes are first asked for, and keeps the sizes."""

    def __init__(self, rows: GivenRows) -> None:
        self._rows = rows
        self._found: Future[NDArray[np.int32]] = Future()

    def read(self) -> NDArray[np.int32]:
        """Returns height and width of each row, (N, 2), 0 where unknown. The caller holds `in_use`.

        Raises what the program's own code raises.
        """
        if not self._found.done():
            self._found.set_result(self._read())
        return self._found.result()

    def get(self) -> NDArray[np.int32]:
        """Returns the same on any thread: the sizes may be read on another one at this moment."""
        while not self._found.done():
            if self._rows.in_use.acquire(timeout=_TURN_S):
                try:
                    self.read()
                finally:
                    self._rows.in_use.release()
        return self._found.result()

    def _read(self) -> NDArray[np.int32]:
        import numpy as np  # most programs that give rows do not need it here

        assert self._rows.count is not None
        found = np.zeros((self._rows.count, 2), np.int32)
        for number in range(len(found)):
            row = self._rows.get(number)
            if isinstance(row, Row):  # anything else is told of when its turn comes
                found[number] = _side(row.height), _side(row.width)
        return found


def _side(value: object) -> int:
    try:
        side = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return 0
    return side if 0 < side <= _LARGEST else 0
