"""Converts datago's JSON to our settings: with datago's rules and defaults, and without its unknown keys."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from typing import Any

import msgspec

from datago_gpu.compat.logs import log
from datago_gpu.config import SOURCES, ImageConfig, LoaderConfig
from datago_gpu.errors import ConfigError

__all__ = ["BATCH", "config_of_pass", "loader_config"]

BATCH = 8
"""Batch size. Larger batches are faster on a GPU; smaller batches return the first sample sooner."""

_SEEDS = 2**63
_PICTURES = ("jpeg", "jpg", "png")
"""Extensions of the images that datago reads from shards."""
_OF_PARTS = {"key_dots", "masks", "additional_images", "latents", "optional"}
_OF_BATCHES = ("layout", "dtype", "mean", "std")
"""Our settings for arrays that go to a model. They are ignored here, because payloads are like datago's."""


def loader_config(text: str, batch_size: int = BATCH) -> LoaderConfig:
    """Converts a client's JSON text to settings. Raises ConfigError if datago would call it invalid, or would panic."""
    given = _check_object(_parse(text), "the config")
    source_type = given.get("source_type", "db")
    if source_type not in SOURCES:
        raise ConfigError(f"source_type must be one of {', '.join(map(repr, SOURCES))}, got {source_type!r}")
    limit, buffered = (_check_count(given, name) for name in ("limit", "samples_buffer_size"))
    source = _source(_check_object(given.get("source_config"), "source_config"), source_type)
    settings = _known_keys(given, LoaderConfig, "")
    settings |= {
        "source_type": source_type,
        "source_config": source,
        "image_config": _image(given.get("image_config")),
        "decode_config": _decode(given.get("decode_config")),
        "http_config": _http(given.get("http_config")),
        "batch_size": min(batch_size, limit, buffered),
        "epochs": 1,
        "seed": given.get("seed", random.getrandbits(32)),  # in datago, each run is shuffled differently
    }
    return LoaderConfig.load(settings)


def config_of_pass(config: LoaderConfig, number: int) -> LoaderConfig:
    """Returns the settings for a pass of a client, counted from 0. Each pass is shuffled differently."""
    return msgspec.structs.replace(config, seed=(config.seed + number) % _SEEDS)


def _source(given: dict[str, Any], source_type: str) -> dict[str, Any]:
    rank, world_size = (given.get(name, default) for name, default in (("rank", 0), ("world_size", 1)))
    if world_size == 0:
        raise ConfigError("source_config.world_size must be at least 1, got 0")
    # datago ignores the environment variables RANK and WORLD_SIZE.
    settings = _known_keys(given, SOURCES[source_type], "source_config.") | {"rank": rank, "world_size": world_size}
    if source_type == "db":
        settings.setdefault("require_images", False)
        settings.setdefault("random_method", "server")
    else:  # as in datago: ranks have different seeds, so they split the listing before they shuffle
        settings.setdefault("rank_split", "listed")
    if source_type == "file":
        settings.setdefault("hidden", True)
    return settings | _shards(settings) if source_type == "webdataset" else settings


def _shards(given: dict[str, Any]) -> dict[str, Any]:
    """Adds the settings that make shards behave as in datago: a key ends at the last dot, and other images of a sample
    are additional images. If the config names parts (an extension of ours), our own rules apply.
    """
    settings = {"reference_image_type": "jpg", "datago_form": True} | given
    reference = str(settings["reference_image_type"]).strip().lower().removeprefix(".")
    if _OF_PARTS & given.keys() or reference not in _PICTURES:
        return settings
    others = ",".join(ending for ending in _PICTURES if ending != reference)
    return settings | {"key_dots": "last", "additional_images": others, "optional": others}


def _image(given: Any) -> dict[str, Any]:
    if given is None:
        given = {"crop_and_resize": False}
    settings = _known_keys(_check_object(given, "image_config"), ImageConfig, "image_config.")
    if "crop_and_resize" not in settings:
        raise ConfigError("image_config.crop_and_resize is missing: true or false")
    for name in _OF_BATCHES:
        settings.pop(name, None)
    quality = settings.get("jpeg_quality")
    if isinstance(quality, int) and 0 <= quality <= 255:
        settings["jpeg_quality"] = min(max(quality, 1), 100)
    settings.setdefault("image_to_rgb8", False)
    settings.setdefault("mask_interpolation", "lanczos")
    return settings | {"mixed_buckets": True}


def _decode(given: Any) -> dict[str, Any]:
    """Converts the decoding settings. DATAGO_MAX_TASKS sets the number of threads."""
    settings = dict(_check_object(given or {}, "decode_config"))
    tasks = os.environ.get("DATAGO_MAX_TASKS", "")
    if tasks.isdecimal():
        settings.setdefault("threads", max(1, int(tasks)))
    return settings


def _http(given: Any) -> dict[str, Any]:
    """Converts the HTTP settings. DATAGO_MAX_RETRIES sets the number of tries."""
    settings = dict(_check_object(given or {}, "http_config"))
    retries = os.environ.get("DATAGO_MAX_RETRIES", "")
    if retries.isdecimal():
        settings.setdefault("max_tries", int(retries) + 1)
    return settings


def _parse(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise ConfigError(f"the config is not JSON: {error}") from None


def _check_object(given: Any, name: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise ConfigError(f"{name} must be an object, got {'nothing' if given is None else type(given).__name__}")
    return given


def _check_count(given: Mapping[str, Any], name: str) -> int:
    value = given.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name} must be a whole number of at least 1, got {value!r}")
    return value


def _known_keys(given: Mapping[str, Any], kind: type[msgspec.Struct], place: str) -> dict[str, Any]:
    """Returns the known keys. Like datago, ignores the others, but logs them at debug level."""
    for name in given:
        if name not in kind.__struct_fields__:
            log.debug("ignored the unknown key %s%s of datago's config", place, name)
    return {name: value for name, value in given.items() if name in kind.__struct_fields__}
