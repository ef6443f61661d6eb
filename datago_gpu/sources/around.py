"""The base of listers that list the images of another lister, with more about them."""

from __future__ import annotations

from datago_gpu.sources.listed_images import Lister

__all__ = ["Around", "path_below"]


def path_below(root: str, name: bytes) -> str:
    """Returns the path of a file, as the examples in a `PassedOver` have it. name: its path below the root."""
    return f"{root.rstrip('/')}/{name.decode('utf-8', 'surrogateescape')}"


class Around:
    """The part of a `Lister` that another lister does."""

    def __init__(self, lister: Lister) -> None:
        self._lister = lister
        self.root, self.shown, self.resumes = lister.root, lister.shown, lister.resumes

    async def folders(self) -> list[bytes]:
        """See `Lister.folders`."""
        return await self._lister.folders()

    async def classes(self) -> list[str] | None:
        """See `Lister.classes`."""
        return await self._lister.classes()

    async def read(self, name: bytes, most: int) -> bytes:
        """See `Lister.read`."""
        return await self._lister.read(name, most)
