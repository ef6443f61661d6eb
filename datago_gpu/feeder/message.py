"""Describes a batch to the trainer: each sample's metadata, and where its payloads lie in the arena."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import accumulate, chain

from msgspec import msgpack

from datago_gpu.feeder import wire
from datago_gpu.feeder.admit_parts import AdmittedPart
from datago_gpu.feeder.admitted import Admitted
from datago_gpu.imaging.geometry import Region, Size, rois_of
from datago_gpu.sources.reference import Skipped
from datago_gpu.sources.sample_info import columns_of
from datago_gpu.units import aligned

__all__ = ["Layout"]


class Layout:
    """Holds the payloads of a batch in the order that they will have in the arena: the images, then part by part."""

    def __init__(self, batch: list[Admitted]) -> None:
        self._batch = batch
        self._parts = _by_name(batch)
        self.payloads = [sample.payload for sample in batch]
        for _, parts in self._parts:
            self.payloads += [part.payload for part in parts]
        *self.places, self.size = accumulate((aligned(len(payload)) for payload in self.payloads), initial=0)
        """Where each payload begins, counted from the beginning of the batch, and the bytes of all together."""

    def message(
        self,
        number: int,
        epoch: int,
        offset: int,
        mark: wire.Mark,
        skipped: list[Skipped],
        counts: wire.Counts,
        fills: wire.Fills | None = None,
    ) -> wire.EncodedBatch:
        """Returns the message that announces the batch once its payloads lie in the arena from `offset` on."""
        batch = self._batch
        refs = [sample.ref for sample in batch]
        buckets = [sample.bucket for sample in batch if sample.bucket is not None]
        differ, flipped = len(set(buckets)) > 1, [sample.flipped for sample in batch]
        return wire.EncodedBatch(
            number=number,
            epoch=epoch,
            bucket=None if differ else batch[0].bucket,
            buckets=_packed("i", buckets) if differ else b"",
            offsets=[offset + place for place in self.places[: len(batch)]],
            lengths=[len(sample.payload) for sample in batch],
            indices=[ref.index if ref.epoch == epoch else (ref.epoch, ref.index) for ref in refs],
            infos=columns_of([ref.info for ref in refs]),
            where_texts=memoryview(msgpack.encode([ref.where for ref in refs])),
            flaws={row: ref.flaws for row, ref in enumerate(refs) if ref.flaws},
            parts=self._columns(offset) if self._parts else [],
            sizes=_packed("i", [sample.size for sample in batch]),
            original_sizes=_packed("i", [sample.original_size for sample in batch]),
            regions=_packed("f", [sample.region for sample in batch]),
            crops=_packed("f", [sample.crop for sample in batch]),
            rois=_rois([sample.region for sample in batch], [sample.size for sample in batch], buckets),
            orientations=bytes(sample.orientation for sample in batch),
            flipped=bytes(flipped) if any(flipped) else b"",
            further_views=[self._further_view(number) for number in range(len(batch[0].further))],
            largest=max(sample.size[0] * sample.size[1] for sample in batch),
            pixels=sum(sample.pixels for sample in batch if sample.bucket is None),
            fills=fills,
            mark=mark,
            skipped=skipped,
            counts=counts,
        )

    def _further_view(self, number: int) -> wire.ViewColumn:
        """Returns what one view after the first shows. number: of the view, without counting the first."""
        shown = [sample.further[number] for sample in self._batch]
        bucket, flipped = shown[0].bucket, [view.flipped for view in shown]
        assert bucket is not None
        regions = [sample.further_regions[number] for sample in self._batch]
        return wire.ViewColumn(
            bucket=bucket,
            regions=_packed("f", regions),
            crops=_packed("f", [view.region for view in shown]),
            rois=_rois(regions, [sample.size for sample in self._batch], [bucket] * len(shown)),
            flipped=bytes(flipped) if any(flipped) else b"",
        )

    def _part_rois(self, rows: list[int], parts: list[AdmittedPart]) -> bytes:
        if parts[0].kind == "latent":
            return b""
        targets = [bucket for row in rows if (bucket := self._batch[row].bucket)]
        return _rois([part.region for part in parts], [part.size for part in parts], targets)

    def _columns(self, offset: int) -> list[wire.PartColumn]:
        places = iter(self.places[len(self._batch) :])
        columns = []
        for rows, parts in self._parts:
            columns.append(
                wire.PartColumn(
                    name=parts[0].name,
                    kind=parts[0].kind,
                    rows=rows,
                    offsets=[offset + next(places) + part.offset for part in parts],
                    lengths=[len(part.payload) - part.offset for part in parts],
                    sizes=_packed("i", [part.size for part in parts]),
                    regions=_packed("f", [part.region for part in parts]),
                    rois=self._part_rois(rows, parts),
                    orientations=bytes(part.orientation for part in parts),
                    largest=max(part.size[0] * part.size[1] for part in parts),
                    arrays=[part.array for part in parts],
                )
            )
        return columns


def _by_name(batch: list[Admitted]) -> list[tuple[list[int], list[AdmittedPart]]]:
    """Returns, for each name and kind of part, the rows of the samples that have such a part, and the parts."""
    found: dict[tuple[str, str], tuple[list[int], list[AdmittedPart]]] = {}
    for row, sample in enumerate(batch):
        for part in sample.parts:
            rows, parts = found.setdefault((part.name, part.kind), ([], []))
            rows.append(row)
            parts.append(part)
    return list(found.values())


def _rois(regions: list[Region], sizes: list[Size], targets: list[Size]) -> bytes:
    """Returns the rois, or nothing where pictures keep their sizes and have no targets."""
    return rois_of(regions, sizes, targets).tobytes() if targets else b""


def _packed(kind: str, rows: Sequence[Sequence[float]]) -> bytes:
    if len(set(map(len, rows))) > 1:
        raise ValueError("rows of different lengths, which do not form an array")
    return array(kind, chain.from_iterable(rows)).tobytes()
