"""Ends a listing that goes on for ever without bringing a sample."""

from __future__ import annotations

from datago_gpu.errors import SourceError

__all__ = ["Barren"]

MOST_PAGES = 1000


class Barren:
    """Counts consecutive pages without a usable entry, and allows up to `most` of them.

    where: the listing, for the message.
    """

    def __init__(self, where: str, most: int = MOST_PAGES) -> None:
        self._where, self._most = where, most
        self._pages = self._entries = 0

    def note(self, entries: int, *, usable: bool) -> None:
        """Counts one page. Raises SourceError when `most` consecutive pages held no usable entry."""
        if usable:
            self._pages = self._entries = 0
            return
        self._pages, self._entries = self._pages + 1, self._entries + entries
        if self._pages >= self._most:
            raise SourceError(
                f"{self._where}: {self._pages} pages in a row, with {self._entries} entries, had nothing that "
                "can be used, and the listing goes on: is this the right address?"
            )
