"""Settings: where downloaded payloads are kept for later epochs and runs."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from datago_gpu.config.settings import Names, Settings

__all__ = ["CacheConfig"]


class CacheConfig(Settings, frozen=True, kw_only=True):
    """A folder that keeps what was downloaded. Without `path`, nothing is kept.

    Attributes:
        path: folder in which downloaded images, masks, latents and shards are kept for later epochs and runs: best on a
            local disk. All ranks and runs of a machine may use the same folder at the same time. The folder can be
            deleted at any time. "": nothing is kept.
        size_gb: size in GiB that the folder may reach. What is downloaded is added until the folder is full, and then
            stays: nothing is replaced by something else.
        ignored_parameters: parameters in the query of an http(s) address that do not say which payload is meant,
            comma-separated or a list, such as `token`. Those of signed addresses of S3, Google, Azure and CloudFront
            are ignored anyway.
    """

    place: ClassVar[str] = "cache_config."
    path: str = ""
    size_gb: Annotated[float, Meta(gt=0, le=1_000_000)] | None = None
    ignored_parameters: Names = ""

    @property
    def is_on(self) -> bool:
        """Whether there is a cache."""
        return bool(self.path.strip())

    def _problem(self) -> str | None:
        if self.is_on and self.size_gb is None:
            return "cache_config.size_gb is missing: set how many GiB the folder cache_config.path may take"
        if not self.is_on and (self.size_gb is not None or self.ignored_parameters):
            return "cache_config has no path: set cache_config.path to a folder, or leave cache_config out"
        return None
