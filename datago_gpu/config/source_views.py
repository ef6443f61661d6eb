"""What the settings of a loader say of their source, or of each source of a mix."""

from __future__ import annotations

from typing import Self

import msgspec

from datago_gpu.config.cache_config import CacheConfig
from datago_gpu.config.image_config import ImageConfig
from datago_gpu.config.image_files import FileSource
from datago_gpu.config.mix import MixSource, PlainSource
from datago_gpu.config.settings import Settings
from datago_gpu.errors import ConfigError

__all__ = ["SourceViews"]


class SourceViews(Settings, frozen=True, kw_only=True):
    """The base of LoaderConfig, which has these fields."""

    source_type: str
    source_config: PlainSource | MixSource
    image_config: ImageConfig
    cache_config: CacheConfig

    def _mix_problem(self) -> str | None:
        """Returns why a source of the mix cannot be used with these settings, or None."""
        try:
            self.by_source()
        except ConfigError as problem:
            return str(problem)
        return None

    def _cache_problem(self) -> str | None:
        """Returns why there is nothing for a cache to keep, or None."""
        if self.cache_config.is_on and _is_local(self.source_config):
            return ("cache_config keeps what is downloaded, but source_config.root_path is a local folder: leave out "
                    "cache_config")  # fmt: skip
        return None

    def by_source(self) -> dict[str, Self]:
        """Returns name -> settings of each source of a mix, as a run of this source alone would have them.

        Without a mix: "" -> these settings. Raises ConfigError.
        """
        mix = self.source_config
        if not isinstance(mix, MixSource):
            return {"": self}
        found = {}
        for part in mix.sources:
            ranks = {"rank": mix.rank, "world_size": mix.world_size}
            source = part.source_config
            try:
                found[part.name] = msgspec.structs.replace(
                    self,
                    source_type=part.source_type,
                    source_config=msgspec.structs.replace(source, **ranks),
                    cache_config=CacheConfig() if _is_local(source) else self.cache_config,
                    image_config=msgspec.structs.replace(self.image_config, **part.image_config),
                )
            except ConfigError as problem:
                raise ConfigError(f"source {part.name!r} of the mix: {problem}") from None
        return found

    @property
    def highest_flip(self) -> float:
        """The highest probability of a mirror image that a source has: 0 if no image is ever mirrored."""
        return max(config.image_config.flip for config in self.by_source().values())

    @property
    def source_types(self) -> list[tuple[str, str]]:
        """Name and source_type of each source of a mix; without a mix, of the one source, whose name is ""."""
        mix = self.source_config
        if isinstance(mix, MixSource):
            return [(part.name, part.source_type) for part in mix.sources]
        return [("", self.source_type)]

    @property
    def needs_http(self) -> bool:
        """Whether a source lists over http, or may."""
        return any(each not in ("file", "rows") for _, each in self.source_types)

    @property
    def takes_rows(self) -> bool:
        """Whether the rows of the program itself are the source, or a source of the mix."""
        source = self.source_config
        return self.source_type == "rows" or (isinstance(source, MixSource) and source.rows_part is not None)


def _is_local(source: PlainSource | MixSource) -> bool:
    """Returns whether all images of a source are in a local folder."""
    return isinstance(source, FileSource) and not source.is_stored
