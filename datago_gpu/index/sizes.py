"""Finds the sizes of a source's pictures without decoding them: as the source lists them, else by their headers."""

from __future__ import annotations

import asyncio
import os
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, NamedTuple

from msgspec import structs

from datago_gpu import eventloop
from datago_gpu.config import ImageConfig, LoaderConfig, MixSource, UserSource
from datago_gpu.errors import ConfigError
from datago_gpu.eventloop import call_in_thread
from datago_gpu.feeder.caption import read_caption
from datago_gpu.feeder.runtime import http_client_type
from datago_gpu.index.local_files import FilesJob, LocalFiles
from datago_gpu.index.look import Look, Looker
from datago_gpu.index.ranges import AnyRange
from datago_gpu.index.remote_look import RemoteLooker
from datago_gpu.sources import open_source
from datago_gpu.sources.caption_text import MOST_CAPTION_BYTES
from datago_gpu.sources.http.failure import HttpFailure
from datago_gpu.sources.local import Patience
from datago_gpu.sources.reference import Position, SampleRef, Skipped
from datago_gpu.sources.rows import RowsSource, planned_sizes

if TYPE_CHECKING:
    from datago_gpu.sources.http.http_client import HttpClient

__all__ = ["PictureSizes", "find_sizes"]

_AT_ONCE = 256
"""Pictures that are looked at together."""

Size = tuple[int, int]


class PictureSizes(NamedTuple):
    """The sizes of the pictures of a source, all ranks together."""

    sides: array[int]
    """Height and width of each picture, upright where its header was read."""
    unusable: dict[str, int]
    """Why pictures have no size: reason -> number."""
    listed: bool
    """Whether the source lists the sizes; if not, headers were read."""


def find_sizes(config: LoaderConfig, tell: Callable[[int], None] = lambda _: None) -> PictureSizes:
    """Returns the sizes of all pictures that `where` lets pass. tell: is called with the number of pictures so far.

    Where `where` decides by a caption that is read with the image, only local captions are read.

    Raises ConfigError if there are no pictures, and what listing the source raises.
    """
    source = config.source_config
    if isinstance(source, UserSource | MixSource) or not getattr(source, "require_images", True):
        raise ConfigError("there are no pictures to look at: the settings name no source that loads images")
    # Settings by which the source lists sizes, in its own order; no other setting matters here.
    image = ImageConfig(crop_and_resize=True, upscale=False, image_to_rgb8=config.image_config.image_to_rgb8)
    plain: LoaderConfig = structs.replace(config, image_config=image, batch_pixels=None, lockstep=False)
    return eventloop.run(_find(plain.with_source(rank=0, world_size=1, random_sampling=False), tell))


async def _find(config: LoaderConfig, tell: Callable[[int], None]) -> PictureSizes:
    async with http_client_type()(config.http_config) as http:
        source = open_source(config, http)
        if isinstance(source, RowsSource):
            rows = await source.rows()
            sizes = await call_in_thread(None, planned_sizes, rows)
            if sizes is not None and sizes.any():
                known = sizes[(sizes > 0).all(axis=1)]
                return PictureSizes(
                    array("i", known.tobytes()), _without(len(sizes) - len(known), rows.passing()), True
                )
        finder = _Finder(config, http, tell)
        async with aclosing(source.refs(Position())) as samples:
            async for sample in samples:
                await finder.take(sample)
        await finder.end()
        return PictureSizes(finder.sides, dict(finder.unusable.most_common()), not finder.looked)


def _without(count: int, passing: object) -> dict[str, int]:
    left_out = 0 if passing is None else int((~passing).sum())  # type: ignore[operator]
    return {"no-size": count - left_out} if count > left_out else {}


class _Finder:
    """Collects sizes. looked: whether a header had to be read."""

    def __init__(self, config: LoaderConfig, http: HttpClient, tell: Callable[[int], None]) -> None:
        self._tell = tell
        self._files, self._looker = LocalFiles(config), Looker(config, near=True)
        self._remote, self._patience = RemoteLooker(config, AnyRange(config, http).get), Patience(config.http_config)
        self.sides, self.unusable = array("i"), Counter[str]()
        self.looked = False
        self._waiting: list[SampleRef] = []
        """Samples whose headers are to be read together."""

    async def take(self, sample: SampleRef | Skipped) -> None:
        """Finds the size of a sample, at once or together with later ones."""
        if isinstance(sample, Skipped):
            if not sample.is_filtered:
                self.unusable[sample.reason] += 1
        elif all(sample.size):
            self._add(Look(*sample.size))
        else:
            self._waiting.append(sample)
        if len(self._waiting) == _AT_ONCE:
            await self.end()

    async def end(self) -> None:
        """Finds the sizes of the samples that wait."""
        samples, self._waiting = self._waiting, []
        await self._look_at(samples)

    async def _look_at(self, samples: Sequence[SampleRef]) -> None:
        self.looked = self.looked or bool(samples)
        files = [sample for sample in samples if sample.path and sample.payload is None]
        others = [sample for sample in samples if not sample.path or sample.payload is not None]
        looks = await call_in_thread(None, self._look_at_files, files) if files else []
        looks += await asyncio.gather(*(self._look_at_other(sample) for sample in others))
        for look in looks:
            self._add(look)

    def _add(self, look: Look) -> None:
        if look.reason:
            self.unusable[look.reason] += 1
        else:
            self.sides.extend((look.height, look.width))
        self._tell(len(self.sides) // 2)

    def _look_at_files(self, samples: Sequence[SampleRef]) -> list[Look]:
        samples = [sample for sample in samples if self._passes(sample)]
        names = [os.fsencode(sample.path.removeprefix("/")) for sample in samples]
        job = FilesJob(b"/", names, [None] * len(names), [sample.span for sample in samples])
        return [Look.of_row(row) for row in self._files.rows(job) if row]

    def _passes(self, sample: SampleRef) -> bool:
        """Returns whether `where` lets a sample pass, if that depends on its caption."""
        if sample.passes is None:
            return True
        read_caption(sample, self._patience, MOST_CAPTION_BYTES)
        return sample.passes(sample)

    async def _look_at_other(self, sample: SampleRef) -> Look:
        payload = sample.payload
        if payload is not None:
            return await call_in_thread(None, self._look_into, payload)
        try:
            found = await self._remote.look(sample.url, "", sample.span)
        except HttpFailure as failure:
            return Look(reason=failure.reason, detail=failure.detail)
        assert found is not None
        return found.look

    def _look_into(self, payload: bytes) -> Look:
        return self._looker.look_into(lambda begin, end: payload[begin:end], len(payload))
