"""Turns encoded batches into Batches: decodes images, masks and additional images, and copies arrays to the device.

Each name has its own decoder, made when its first payload arrives. If one decoder fails on a payload, its sample is
skipped.
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from datago_gpu.batch import Batch
from datago_gpu.decoders.bfloat16 import as_bfloat16
from datago_gpu.decoders.decoder import DecodedImages, Decoder, EncodedImages, Payloads
from datago_gpu.decoders.placement import Placer, row_mapping, scatter_rows
from datago_gpu.feeder import wire
from datago_gpu.loader.latents import Latents
from datago_gpu.loader.loaded_batch import LoadedBatch
from datago_gpu.loader.loaded_views import absent_views, further_views
from datago_gpu.plan.repeat import repeat
from datago_gpu.sources.class_labels import UNLABELLED

if TYPE_CHECKING:
    from datago_gpu.loader.gray import GrayImages

__all__ = ["Assembled", "Assembly"]


@dataclass(slots=True)
class Assembled:
    """The result for one encoded batch."""

    message: wire.EncodedBatch
    batch: Batch | None
    """None if no sample could be decoded. In lockstep there is always a batch."""
    kept: list[int]
    """Indices, in `message`, of the samples that could be decoded."""
    failures: dict[int, str]
    """Index of each other sample -> the decoder's error."""
    rescued: dict[int, str] = field(default_factory=dict)
    """Index of each sample with an image that DALI refused and Pillow decoded -> DALI's error."""


@dataclass(slots=True)
class _Job:
    message: wire.EncodedBatch
    images: bool
    latents: list[Latents] = field(default_factory=list)
    embeddings: Any = None


class Assembly:
    """Decodes up to `depth` batches at a time, first in, first out. For one thread.

    make_decoder: makes a decoder: "views" for all views of the samples' own images, "mask" or "image" for parts.
    optional: name -> kind, for each mask, image or latent that a sample may lack. parts: the same for each one that
    the settings ask for. gray: makes the images of a batch in lockstep that has no good sample. bfloat16: whether the
    numbers of the decoders' images are bits of bfloat16. seed: the setting. labels: whether every batch has labels.
    """

    def __init__(
        self,
        make_decoder: Callable[[str], Decoder],
        placer: Placer,
        optional: Mapping[str, str] | None = None,
        *,
        parts: Mapping[str, str] | None = None,
        gray: GrayImages | None = None,
        bfloat16: bool = False,
        seed: int = 0,
        labels: bool = False,
    ) -> None:
        self._seed = seed
        self._typed = as_bfloat16 if bfloat16 else _unchanged
        self._make_decoder, self._placer = make_decoder, placer
        self._optional, self._parts, self._gray_images = optional or {}, dict(parts or {}), gray
        self._has_labels = labels
        self._images = make_decoder("views")
        self._others: dict[tuple[str, str], Decoder] = {}
        self._under_way: deque[_Job] = deque()
        self.depth = self._images.depth

    def __len__(self) -> int:
        """Returns the number of batches under way."""
        return len(self._under_way)

    def submit(self, message: wire.EncodedBatch, memory: mmap.mmap) -> None:
        """Starts to decode a batch. The memory must not change until `collect` has returned the batch."""
        job = _Job(message, images=any(message.lengths))
        if job.images:
            self._images.submit(_images(message, memory))
        buckets, flipped = _buckets(message), _flipped(message)
        for column in message.parts:
            self._parts[column.name] = column.kind
            if column.kind == "latent":
                job.latents.append(Latents(column, memory, self._placer))
            else:
                self._decoder(column).submit(_pictures(column, message.bucket, buckets, flipped, memory))
        if "embedding" in message.infos and all(embeddings := message.column("embedding")):
            job.embeddings = self._placer.begin([np.frombuffer(each, np.float32) for each in embeddings])
        self._under_way.append(job)

    def collect(self) -> Assembled:
        """Waits for the oldest batch under way and returns the result."""
        job = self._under_way.popleft()
        message = job.message
        images = self._images.collect() if job.images else DecodedImages(None)
        failures, rescued = dict(images.failures), dict(images.rescued)
        pictures = []
        for column in message.parts:
            if column.kind != "latent":
                decoded = self._decoder(column).collect()
                pictures.append((column, decoded))
                for at, problem in decoded.failures.items():
                    failures.setdefault(column.rows[at], f"{column.kind} {column.name!r}: {problem}")
                rescued |= {column.rows[at]: problem for at, problem in decoded.rescued.items()}
        if failures:
            failures = dict(sorted(failures.items()))
            rescued = {at: problem for at, problem in rescued.items() if at not in failures}
        good = [at for at in range(len(message.lengths)) if at not in failures]
        if message.fills and (message.fills.bad or not good):
            return Assembled(message, self._gray(message, message.fills.rows), [], failures)
        if not good:
            return Assembled(message, None, good, failures)
        kept, real = repeat(message.fills.rows, message.fills.real, good) if message.fills else (good, None)
        batch = LoadedBatch.of(message, kept, real, seed=self._seed)
        if images.image is not None:
            every = list(range(len(message.lengths)))
            batch.image = self._typed(self._in_batch_order(images.image, images, every, kept))
            shown = [self._typed(self._in_batch_order(view, images, every, kept)) for view in images.further]
            batch.further_views = further_views(message, kept, shown)
        self._add_parts(batch, job, pictures, kept)
        return Assembled(message, batch, good, failures, rescued)

    def _add_parts(
        self, batch: Batch, job: _Job, pictures: list[tuple[wire.PartColumn, DecodedImages]], kept: list[int]
    ) -> None:
        """Adds all but the images. kept: the row of each sample in the message."""
        for column, decoded in pictures:
            into, typed = (batch.masks, _unchanged) if column.kind == "mask" else (batch.additional_images, self._typed)
            image = decoded.image
            shown = None if image is None else self._in_batch_order(image, decoded, column.rows, kept)
            into[column.name] = typed(shown)
            batch.present[column.name] = np.isin(kept, column.rows)
        for latents in job.latents:
            batch.latents[latents.name] = latents.of(kept)
            batch.present[latents.name] = np.isin(kept, latents.rows)
        self._note_absent(batch, self._optional)
        if job.embeddings is not None:
            embeddings = self._placer.finish(job.embeddings)
            batch.embeddings = scatter_rows(self._placer, embeddings, kept, list(range(len(kept))), len(kept))
        self._add_labels(batch, job.message, kept)

    def _add_labels(self, batch: Batch, message: wire.EncodedBatch, kept: list[int]) -> None:
        if self._has_labels or "label" in message.infos:
            found = message.column("label")
            labels = [UNLABELLED if found[row] is None else found[row] for row in kept]
            # As one row of a larger array: a Placer stacks numbers one by one, which takes 0.5 us for each.
            batch.labels = self._placer.finish(self._placer.begin([np.array(labels, np.int64)]))[0]

    def _gray(self, message: wire.EncodedBatch, kept: list[int]) -> Batch:
        """Returns the batch for a message without a good sample."""
        batch = LoadedBatch.of(message, kept, [False] * len(kept), seed=self._seed)
        self._add_labels(batch, message, kept)
        if self._gray_images and message.bucket:
            made = self._gray_images.views(message.bucket, len(kept), self._placer)
            (_, batch.image), *further = [(size, self._typed(image)) for size, image in made]
            batch.further_views = absent_views(further, len(kept))
        self._note_absent(batch, self._parts)
        return batch

    def abandon(self) -> None:
        """Drops everything under way. Batches already delivered stay valid."""
        self._under_way.clear()
        for decoder in (self._images, *self._others.values()):
            decoder.close()
        self._others.clear()
        self._images = self._make_decoder("views")

    def close(self) -> None:
        """Drops everything under way and ends. Batches already delivered stay valid."""
        self._under_way.clear()
        for decoder in (self._images, *self._others.values()):
            decoder.close()
        self._placer.close()

    def _decoder(self, column: wire.PartColumn) -> Decoder:
        key = (column.name, column.kind)
        if key not in self._others:
            self._others[key] = self._make_decoder(column.kind)
        return self._others[key]

    def _in_batch_order(self, image: Any, decoded: DecodedImages, rows: list[int], kept: list[int]) -> Any:
        """Puts the images of a view in the order of the Batch. rows: the samples of the encoded batch that were given
        to the decoder."""
        there = [row for at, row in enumerate(rows) if at not in decoded.failures] if decoded.failures else rows
        if there == kept:
            return image
        return scatter_rows(self._placer, image, *row_mapping(there, kept), len(kept))

    @staticmethod
    def _note_absent(batch: Batch, parts: Mapping[str, str]) -> None:
        """Adds an entry (None) for each of these names that no sample of this batch has."""
        for name, kind in parts.items():
            if name not in batch.present:
                into = {"mask": batch.masks, "image": batch.additional_images, "latent": batch.latents}[kind]
                into[name] = None
                batch.present[name] = np.zeros(len(batch.real), bool)


def _unchanged(image: Any) -> Any:
    return image


def _images(message: wire.EncodedBatch, memory: mmap.mmap) -> EncodedImages:
    """Returns the images of a batch as views of the arena, without a copy."""
    images = _encoded_images(message, message.bucket, _buckets(message), _flipped(message), memory)
    count = len(message.lengths)
    images.further = [
        replace(
            images,
            target=view.bucket,
            regions=np.ndarray((count, 4), np.float32, view.regions),
            rois=np.ndarray((count, 6), np.float32, view.rois),
            flipped=_flipped(view),
        )
        for view in message.further_views
    ]
    return images


def _pictures(
    column: wire.PartColumn,
    target: tuple[int, int] | None,
    buckets: NDArray[np.int32] | None,
    flipped: NDArray[np.bool_] | None,
    memory: mmap.mmap,
) -> EncodedImages:
    targets = None if buckets is None else buckets[column.rows]
    return _encoded_images(column, target, targets, None if flipped is None else flipped[column.rows], memory)


def _buckets(message: wire.EncodedBatch) -> NDArray[np.int32] | None:
    """Returns the target sizes, (N, 2), or None if all images have the same."""
    return np.frombuffer(message.buckets, np.int32).reshape(-1, 2) if message.buckets else None


def _flipped(message: wire.EncodedBatch | wire.ViewColumn) -> NDArray[np.bool_] | None:
    """Returns which samples are shown mirrored, (N,), or None if none is."""
    return np.frombuffer(message.flipped, np.bool_) if message.flipped else None


def _encoded_images(
    columns: wire.EncodedBatch | wire.PartColumn,
    target: tuple[int, int] | None,
    targets: NDArray[np.int32] | None,
    flipped: NDArray[np.bool_] | None,
    memory: mmap.mmap,
) -> EncodedImages:
    count = len(columns.lengths)
    return EncodedImages(
        payloads=Payloads(memory, columns.offsets, columns.lengths),
        sizes=np.ndarray((count, 2), np.int32, columns.sizes),  # faster than `frombuffer` and `reshape`
        regions=np.ndarray((count, 4), np.float32, columns.regions),
        orientations=np.ndarray(count, np.uint8, columns.orientations),
        target=target,
        targets=targets,
        rois=np.ndarray((count, 6), np.float32, columns.rois) if columns.rois else None,
        flipped=flipped,
        largest=columns.largest,
        checked=True,
    )
