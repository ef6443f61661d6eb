"""Computes from the settings how much memory the trainer and its decode processes share. In the trainer's process."""

from __future__ import annotations

from datago_gpu.config import LoaderConfig
from datago_gpu.config.limits import Limits, decoded_pixel_bytes, files_of_a_sample, view_pixels, widest_pixel
from datago_gpu.feeder.decoding.memory_plan import ENCODED_FACTOR, ENCODED_HEAD, Plan, paged
from datago_gpu.units import aligned

__all__ = ["plan_for"]


def plan_for(config: LoaderConfig, processes: int) -> Plan:
    """Makes the plan of the memory for these settings."""
    limits, image, decode = Limits.of(config), config.image_config, config.decode_config
    pixels = max(limits.pixels, decode.max_pixels)
    if image.crop_and_resize:
        pixels = view_pixels(config)
    room, least = pixels * widest_pixel(config), aligned(1)
    if image.pre_encode_images:
        room, least = room * ENCODED_FACTOR, ENCODED_HEAD + least
    rows = config.most_samples * image.view_count
    return Plan(
        image=image,
        decode=decode,
        processes=processes,
        slots=decode.prefetch * files_of_a_sample(config),
        rows=rows,
        bench=paged(room + rows * least),
        shelf=paged(0 if image.pre_encode_images else decoded_pixel_bytes(config)),
        memory=limits.decoding,
    )
