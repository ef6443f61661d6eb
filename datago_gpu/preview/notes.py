"""Texts about batches and samples that both layouts use."""

from __future__ import annotations

from datago_gpu.preview.gather import Overview, ShownBatch, ShownSample
from datago_gpu.preview.text import shorten_middle

__all__ = ["SIZES_NOTE", "crop_note", "heading", "mask_note", "size_note", "skipped_note"]

SIZES_NOTE = "sizes are width x height in pixels"


def heading(batch: ShownBatch) -> tuple[str, str]:
    """Returns the size of a batch (width x height; `Batch.bucket` is (H, W)), and a note with the other facts."""
    name = f"{batch.bucket[1]} x {batch.bucket[0]}" if batch.bucket else "own sizes"
    real = batch.count - batch.fills
    shown = "" if len(batch.samples) == real else f", {len(batch.samples)} of them shown"
    epoch = f", epoch {batch.epoch}" if batch.epoch else ""
    fills = f", {batch.fills} more only fill places" if batch.fills else ""
    return name, f"{real} sample{'s' * (real != 1)}{shown}{fills}{epoch}"


def size_note(sample: ShownSample) -> str:
    label = f"  ·  {sample.label}" if sample.label else ""
    return f"{sample.size[1]} x {sample.size[0]} px{label}"


def skipped_note(overview: Overview) -> str:
    skipped = ", ".join(f"{count} {reason}" for reason, count in overview.skipped.items())
    filtered = f"  ·  filtered: {overview.filtered}" if overview.filtered else ""
    return (f"  ·  skipped: {skipped}" if skipped else "") + filtered


def crop_note(overview: Overview) -> str:
    if not overview.cropped:
        return "crop_and_resize is off: the model sees whole images at their own sizes"
    found = all(sample.panels[-1].name == "original" for batch in overview.batches for sample in batch.samples)
    missing = "" if found else "; some originals could not be loaded again"
    further = "; yellow: the parts of further views" if overview.views > 1 else ""
    return f"the part of the original that the model sees{further}{missing}"


def mask_note(overview: Overview, name: str) -> str:
    labels = ", a colour for each label" if name in overview.label_maps else ""
    return f"mask {shorten_middle(name, 40)}{labels}"
