"""What `state_dict` gives: where a stream stands, in plain values, and which order of samples that belongs to."""

from __future__ import annotations

from typing import Any

import msgspec

from datago_gpu.config import LoaderConfig
from datago_gpu.errors import ConfigError
from datago_gpu.feeder.wire import Resume
from datago_gpu.shard_config import shown_shards

__all__ = ["resume_from", "state_of"]

STATE_VERSION = 1

_NOT_IN_STATE = frozenset(
    (
        *("api_url", "api_key", "auth_token", "storage_options", "rank", "world_size"),
        *("page_size", "check_count", "concurrent_downloads"),
    )
)
"""Settings of a source that are secret, that are told apart from it, or that change no order."""


def state_of(config: LoaderConfig, resume: Resume) -> dict[str, Any]:
    """The state of a stream with these settings that stands there. Fit for JSON."""
    return {"version": STATE_VERSION, "order": _order(config), "resume": msgspec.to_builtins(resume)}


def resume_from(config: LoaderConfig, state: dict[str, Any]) -> Resume:
    """Where a stream with these settings goes on.

    Raises ConfigError where the state is of another order of samples, or no state at all.
    """
    try:
        version, order, resume = state["version"], state["order"], msgspec.convert(state["resume"], Resume)
    except (KeyError, TypeError, msgspec.ValidationError) as error:
        raise ConfigError(f"this is not the state of a Loader: {error!r}") from error
    if not isinstance(order, dict):
        raise ConfigError(f"this is not the state of a Loader: its order is a {type(order).__name__}")
    if version != STATE_VERSION:
        raise ConfigError(f"the state has version {version!r}, this package reads {STATE_VERSION}")
    for name, value in _order(config).items():
        if order.get(name) != value:
            raise ConfigError(f"the state belongs to {name}={order.get(name)!r}, the loader has {value!r}")
    return resume


def _order(config: LoaderConfig) -> dict[str, Any]:
    """What the order of samples depends on."""
    values = msgspec.to_builtins(config.source_config)
    source = {name: value for name, value in values.items() if name not in _NOT_IN_STATE}
    if "url" in source:
        source["url"] = shown_shards(source["url"])
    rank, world_size = config.rank_and_world_size()
    return {"source_config": source, "seed": config.seed, "rank": rank, "world_size": world_size}
