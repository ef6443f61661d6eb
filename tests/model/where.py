"""Part 1b of the model: what `where` leaves out of a listing."""

from __future__ import annotations

import json
from dataclasses import replace

from datago_gpu.config import LoaderConfig
from datago_gpu.config.expression import parse_expression
from datago_gpu.config.expression_tree import columns_in
from tests.model.items import FILTERED, Item, Lost
from tests.model.listing import Listing, NoSamples, Order
from tests.support.expressions import evaluate

__all__ = ["chosen_by_where"]


def chosen_by_where(config: LoaderConfig, order: Order, of_all_ranks: Order) -> Order:
    """Marks what `where` leaves out. It looks at whatever the source does not leave out itself.

    A table knows before the first sample which rows pass, of all ranks.
    """
    text = config.source_config.where
    if not text:
        return order
    tree = parse_expression(text)
    names = {column.name for column in columns_in(tree)}

    def marked(entry: Item | Lost) -> Item | Lost:
        if isinstance(entry, Lost) or entry.is_lacking:
            return entry
        captions = getattr(config.source_config, "captions", "")
        if entry.skipped and captions and entry.flaw != "no-caption":  # the caption is read after the image
            return entry
        record = dict.fromkeys(names) | json.loads(entry.attributes) | {"id": entry.id, "path": entry.id}
        return entry if evaluate(tree, record) else replace(entry, skipped=FILTERED)

    def chosen(epoch: int) -> Listing:
        if config.source_type == "table" and all(_is_filtered(marked(entry)) for entry in of_all_ranks(0)):
            raise NoSamples([])
        return [marked(entry) for entry in order(epoch)]

    return chosen


def _is_filtered(entry: Item | Lost) -> bool:
    return isinstance(entry, Item) and entry.is_filtered
