"""Part 1a of the model: what becomes of the samples of a data set by what is asked for beside the picture."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from datago_gpu.config import DataroomSource, LoaderConfig, WebDatasetSource
from tests.model.items import Item, Lost, Shard

__all__ = ["as_asked_of_a_room", "as_asked_of_a_shard", "as_asked_of_files"]

_LACKING = {"mask": "no-mask", "image_other": "no-additional-image"}


def as_asked_of_a_shard(source: WebDatasetSource, shard: Shard) -> Shard:
    """A sample without what is required is left out."""
    wanted, optional = _names(source.masks, source.additional_images), _names(source.optional)

    def asked(item: Item) -> Item:
        item = replace(item, embedding=())
        lacking = [name for name in wanted if name not in item.pieces and name not in optional]
        if item.skipped == "no-image" or not lacking:
            return _with_pieces(item, wanted)
        return _left_out(item, _LACKING[lacking[0]])

    return [entry if isinstance(entry, Lost) else asked(entry) for entry in shard]


def as_asked_of_files(config: LoaderConfig, item: Item) -> Item:
    """A picture with its label if the folders are classes, and with its attributes if they are captions beside it."""
    source = config.source_config
    item = replace(item, embedding=(), pieces={}, label=item.label if getattr(source, "labels", "") else None)
    if not getattr(source, "captions", ""):
        return replace(item, attributes="{}", flaw="")
    return item if item.flaw or item.attributes != "{}" else replace(item, flaw="no-caption")


def as_asked_of_a_room(source: DataroomSource, items: list[Item]) -> list[Item]:
    """A sample without what is required is not even listed. One without an embedding is left out where embeddings are
    asked for, and so is one whose embedding has another length than most of the first hundred."""
    required = _names(source.has_masks, source.has_latents)
    wanted = [*required, *_names(source.optional_masks, source.optional_latents)]
    listed = [item for item in items if all(name in item.pieces for name in required)]
    lengths = [len(item.embedding) for item in listed if item.embedding][:100]
    usual = Counter(lengths).most_common(1)[0][0] if lengths else 0

    def asked(item: Item) -> Item:
        if not source.require_embeddings:
            return _with_pieces(replace(item, embedding=()), wanted)
        if not item.embedding:
            return _left_out(item, "no-embedding")
        if len(item.embedding) != usual:
            return _left_out(item, "bad-entry")
        return _with_pieces(item, wanted)

    return [asked(item) for item in listed]


def _with_pieces(item: Item, wanted: list[str]) -> Item:
    """The sample with the pieces that are wanted, each of which may cost it."""
    pieces = {name: item.pieces[name] for name in wanted if name in item.pieces}
    reasons = [reason for reason in [item.skipped, *(piece.skipped for piece in pieces.values())] if reason]
    return replace(
        item,
        pieces=pieces,
        skipped=reasons[0] if reasons else "",
        is_undecodable=item.is_undecodable or any(piece.is_undecodable for piece in pieces.values()),
    )


def _left_out(item: Item, reason: str) -> Item:
    return replace(item, skipped=reason, is_lacking=True, pieces={})


def _names(*lists: str) -> list[str]:
    return [name for text in lists for name in text.split(",") if name]
