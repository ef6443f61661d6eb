"""Selects the parts of a Dataroom's image: the masks, further images and latents that are wanted and exist."""

from __future__ import annotations

from collections.abc import Callable

from datago_gpu.config.dataroom import DataroomSource, kind_of
from datago_gpu.config.settings import names_in
from datago_gpu.errors import Rejected
from datago_gpu.redact import without_query
from datago_gpu.sources.dataroom.pages import Latent
from datago_gpu.sources.reference import Part

__all__ = ["Wanted"]


class Wanted:
    """Holds the names in the settings, and finds their parts in the entries of a listing."""

    def __init__(self, source: DataroomSource) -> None:
        self._masks = names_in(source.has_masks, source.optional_masks)
        self._required = names_in(source.has_masks, source.has_latents)
        self._optional = [name for name in names_in(source.optional_masks, source.optional_latents)
                          if name not in self._required]  # fmt: skip
        self._images = source.require_images

    def parameters(self) -> dict[str, str]:
        """Returns the parameters for the server; none if nothing is wanted."""
        names = [*self._required, *self._optional]
        return {"return_latents": ",".join(names)} if names else {}

    def parts(self, latents: list[Latent], address: Callable[[str], str | None]) -> list[Part]:
        """Returns the wanted parts among the latents of an entry, in the order of the settings. Raises Rejected.

        address: converts a file's address as the server names it into one that can be requested, or None.
        """
        if not (self._required or self._optional):
            return []
        given = {latent.latent_type: latent for latent in latents}
        parts = [self._part(given.get(name), name, address, optional=False) for name in self._required]
        parts += [self._part(given[name], name, address, optional=True) for name in self._optional if name in given]
        return [part for part in parts if part is not None]

    def _part(
        self, latent: Latent | None, name: str, address: Callable[[str], str | None], *, optional: bool
    ) -> Part | None:
        kind = kind_of(name, is_mask=bool(latent.is_mask) if latent else name in self._masks)
        if kind != "latent" and not self._images:
            return None  # there is no image to align it with: the name is only a filter
        if latent is None:
            raise Rejected(f"no-{kind}", f"{name!r} is not in the listing")
        url = address(latent.file_direct_url) if latent.file_direct_url else None
        if url is not None:
            return Part(name, kind, url=url, optional=optional)
        if optional:
            return None
        raise Rejected("bad-url" if latent.file_direct_url else "no-url", f"{kind} {name!r}"
                      + (f": {without_query(latent.file_direct_url)}" if latent.file_direct_url else ""))  # fmt: skip
