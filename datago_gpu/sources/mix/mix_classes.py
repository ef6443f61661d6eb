"""Checks that a label means the same class in all sources of a mix."""

from __future__ import annotations

from collections.abc import Mapping

from datago_gpu.config import MixSource
from datago_gpu.errors import DatagoError
from datago_gpu.sources.class_labels import check_classes, classes_of
from datago_gpu.sources.mix.mix_listing import named

__all__ = ["check_mixed_classes"]


async def check_mixed_classes(mix: MixSource, sources: Mapping[str, object]) -> None:
    """Raises ConfigError if two sources have classes of different names, and what finding the names raises."""
    found = {}
    for part in mix.sources:
        try:
            found[part.name] = await classes_of(sources[part.name], part.source_config)
        except DatagoError as problem:
            raise named(problem, part.name) from problem
    check_classes(found)
