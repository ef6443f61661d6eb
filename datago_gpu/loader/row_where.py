"""Decides by `where` which rows of a sequence of the program's own pass: lockstep plans only those."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datago_gpu.loader.row_packing import row_attributes
from datago_gpu.loader.row_sizes import side_of
from datago_gpu.row import Row
from datago_gpu.sources.reference import SampleRef
from datago_gpu.sources.sample_info import SampleInfo
from datago_gpu.sources.where import Where

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from datago_gpu.loader.given_rows import GivenRows

__all__ = ["passing_rows"]


def passing_rows(rows: GivenRows, text: str) -> NDArray[np.bool_] | None:
    """Returns for each row of a sequence whether it passes, (N,); None without `where`. Reads each row once.

    Raises SourceError with the exception of the program's own code as its cause, and the errors of `Where.check`.
    """
    if not text.strip():
        return None
    with rows.in_use:
        if text not in rows.passing:
            rows.passing[text] = _read(rows, Where(text))
        return rows.passing[text]


def _read(rows: GivenRows, where: Where) -> NDArray[np.bool_]:
    import numpy as np  # most programs that give rows do not need it here

    assert rows.count is not None
    passing = np.ones(rows.count, np.bool_)
    for number, row in rows.each():
        passing[number] = where.passes(_sample_of(row))
    where.check()
    return passing


def _sample_of(row: Row) -> SampleRef:
    info = SampleInfo(str(row.id), attributes=row_attributes(row))
    return SampleRef(0, info, size=(side_of(row.height), side_of(row.width)))
