"""Writes and reads the states of `state_dict`: the position of a stream, and the order of samples that it belongs to.

The order includes a digest of the listing, as far as the stream has used the listing. So the data may move to another
place under the same names, and the feeder notices changed data. A state of an older version of this package has no
digest, and contains the place of the data instead.

Version 4 stores values whose keys vary as JSON text: torch.distributed.checkpoint fills in a state key by key, and
would leave out a key that a loader does not have at its start. Version 2 stored them as dicts and lists. Both store
only settings that affect the order and differ from their defaults; version 1 stored all settings of the source. A state
may lack settings that were added later; those have their defaults. Version 3 is the form in lockstep.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any, Literal, get_args

import msgspec

from datago_gpu.config import SOURCES, LoaderConfig
from datago_gpu.config.local_paths import FILE_SCHEME
from datago_gpu.config.settings import Settings, fields_of, separator_of
from datago_gpu.config.shards import shown_shards
from datago_gpu.errors import ConfigError
from datago_gpu.feeder.wire import Resume
from datago_gpu.loader.lockstep_state import bucket_settings, is_lockstep, lockstep_state, read_lockstep
from datago_gpu.loader.mix_order import mix_differences, mix_order, normal_mix, weights_of_state
from datago_gpu.sources.reference import ListingDigest, Position

__all__ = ["OnChange", "check_on_change", "resume_from", "state_of"]

OnChange = Literal["refuse", "accept"]
"""What to do if the data has changed since the state was saved."""

STATE_VERSION = 4
READ_VERSIONS = (1, 2, STATE_VERSION)
_KEPT = ("position", "done", "delivered")
"""Fields of `Resume` that a state contains, besides `carried`."""

_NEVER = frozenset(
    (
        *("api_url", "api_key", "auth_token", "storage_options", "rank", "world_size"),
        *("page_size", "check_count", "concurrent_downloads", "require_images", "require_embeddings"),
        *("optional_masks", "optional_latents", "datago_form", "where", "label", "captions"),
    )
)
"""Source settings left out of the state: secrets, rank and world_size (stored separately), and those that do not affect
the order. Parts that a sample must have do not affect it, since a skipped sample keeps its number. Nor does `where`,
except in lockstep. Filters of a Dataroom do."""

_SKIPS, _CLASSES = frozenset(("min_short_edge",)), frozenset(("classes",))
_NEVER_OF = {
    "file": _SKIPS,
    "db": _CLASSES,
    **dict.fromkeys(("webdataset", "rows"), _SKIPS | _CLASSES),
    "table": _SKIPS | _CLASSES | {"id", "width", "height", "attributes", "optional", "root"},
}
"""Further settings of a source type that do not affect the order. In lockstep, `bucket_settings` has the shortest
edge. The classes of a folder name the folders that are listed."""

_IN_A_SHUFFLE = frozenset(
    (
        *("random_method", "shuffle_buffer", "rank_split"),
        *("buffer_mb", "reference_image_type", "image", "masks", "additional_images", "latents", "optional"),
    )
)
"""Settings that affect only a shuffled order. A shuffle of shards holds as many samples as fit into `buffer_mb`; tables
are shuffled another way if a column that is loaded holds bytes."""

_PLACES = frozenset(("root_path", "url", "path"))
"""Settings that say where the data is. They may differ if the state has a digest of the listing."""

_LONGEST = 200
"""Maximum number of characters of a value in a message."""


def state_of(config: LoaderConfig, resume: Resume) -> dict[str, Any]:
    """Returns the state of a stream with these settings at the position `resume`, in plain values for JSON."""
    if config.lockstep:
        return lockstep_state(config, _order_of(config), resume)
    order = _order_of(config)
    order["source_config"] = _as_text(order["source_config"])
    order["listing"] = _as_text(resume.listed)
    place = msgspec.to_builtins(resume)
    kept = {name: place[name] for name in _KEPT} | {"carried": _as_text(resume.carried)}
    return {"version": STATE_VERSION, "order": order, "resume": kept}


def _as_text(value: Any) -> str:
    return "" if value is None or value == [] else msgspec.json.encode(value).decode()


def _from_text(value: Any) -> Any:
    """Returns a value that `_as_text` wrote, or one of a state of version 1 or 2. Raises msgspec.DecodeError."""
    return (msgspec.json.decode(value) if value else None) if isinstance(value, str) else value


def check_on_change(given: str) -> OnChange:
    """Returns the argument, checked. Raises ConfigError for any other value."""
    if given not in get_args(OnChange):
        raise ConfigError(f"on_change must be 'refuse' or 'accept', got {given!r}")
    return "accept" if given == "accept" else "refuse"


def resume_from(config: LoaderConfig, state: dict[str, Any], on_change: OnChange = "refuse") -> Resume:
    """Returns where a stream with these settings resumes.

    Raises ConfigError if the state belongs to another order of samples (the message names the differences) or is not a
    state. Changed data is noticed later, when the source is listed.
    """
    if config.lockstep or is_lockstep(state):
        return _lockstep_resume(config, state, accepts=on_change == "accept")
    try:
        version, order, resume = state["version"], state["order"], state["resume"]
        resume = msgspec.convert({**resume, "carried": _from_text(resume.get("carried")) or []}, Resume)
        if isinstance(order, dict):
            order = order | {name: _from_text(order.get(name)) for name in ("source_config", "listing")}
    except (AttributeError, KeyError, TypeError, msgspec.DecodeError) as error:
        raise ConfigError(f"this is not the state of a Loader: {error!r}") from error
    if version not in READ_VERSIONS:
        versions = ", ".join(map(str, READ_VERSIONS))
        raise ConfigError(f"the state has version {version!r}, but this package reads versions {versions}")
    source = order.get("source_config") if isinstance(order, dict) else None
    if not isinstance(source, dict) or not all(isinstance(name, str) for name in source):
        raise ConfigError("this is not the state of a Loader: it has no source_config")
    try:
        listed = msgspec.convert(order.get("listing"), ListingDigest | None)
    except msgspec.ValidationError as error:
        raise ConfigError(f"this is not the state of a Loader: {error!r}") from error
    accepts = on_change == "accept"
    anywhere = accepts or listed is not None or _has_nothing_done(resume)
    theirs, ours = _normalise_order(config, order), _normalise_order(config, _order_of(config))
    differences = list(_list_differences(theirs, ours, but=_PLACES if anywhere else frozenset()))
    if differences:
        raise _of_another_order(differences)
    return msgspec.structs.replace(resume, listed=listed, accepts_change=accepts)


def _lockstep_resume(config: LoaderConfig, state: dict[str, Any], *, accepts: bool) -> Resume:
    """Returns where a stream resumes if it or the state is in lockstep. Rank and world size may differ."""
    if not (config.lockstep and is_lockstep(state)):
        wanted = "true" if is_lockstep(state) else "false"
        raise ConfigError(
            f"the state was saved with lockstep {wanted}, but lockstep is {str(config.lockstep).lower()} here, and the "
            f"order differs: set lockstep to {wanted}, or start without the state"
        )
    given, resume = read_lockstep(config, state)
    theirs, ours = _normalise_order(config, given), _normalise_order(config, _order_of(config))
    for order in (theirs, ours):
        for source in order["source_config"]["sources"] if order["source_type"] == "mix" else [order]:
            source["source_config"].pop("rank_split", None)
        order["rank"] = order["world_size"] = None
    anywhere = accepts or resume.listed is not None or not resume.taken
    found = _list_differences(theirs, ours, but=_PLACES if anywhere else frozenset())
    if given["buckets"] != bucket_settings(config):
        found.append(_describe_difference("image_config", given["buckets"], bucket_settings(config)))
    if found:
        raise _of_another_order(found)
    if config.source_type == "mix" and resume.taken and resume.listed:
        text = weights_of_state(config, given["source_config"])
        resume = msgspec.structs.replace(resume, listed=msgspec.structs.replace(resume.listed, samples=text))
    return msgspec.structs.replace(resume, accepts_change=accepts)


def _has_nothing_done(resume: Resume) -> bool:
    """Returns whether the state is at the start of an epoch with nothing left of earlier ones: any data fits then."""
    return resume.position == Position(resume.position.epoch) and not (resume.done or resume.carried)


def _order_of(config: LoaderConfig) -> dict[str, Any]:
    """Returns the settings on which the order of samples depends."""
    rank, world_size = config.rank_and_world_size()
    source = mix_order(config, _order_of) if config.source_type == "mix" else msgspec.to_builtins(config.source_config)
    for name in ("url", "path"):
        if name in source:
            source[name] = shown_shards(source[name])
    order = {"source_type": config.source_type, "source_config": source, "seed": config.seed}
    return _normalise_order(config, order | {"rank": rank, "world_size": world_size})


def _normalise_order(config: LoaderConfig, order: Mapping[str, Any]) -> dict[str, Any]:
    """Normalises an order: leaves out defaults and settings without effect, and normalises paths and addresses.

    config: resolves relative paths.
    """
    given = order["source_config"]
    source_type = order.get("source_type") or _type_of(given)
    if source_type == "mix":
        return _normalise_mix(config, order)
    shuffled = given.get("random_sampling", False)
    kind = SOURCES.get(source_type, Settings) if isinstance(source_type, str) else Settings
    fields = {field.name: field for field in fields_of(kind)}
    source = {}
    never = (_NEVER - {"where"} if config.lockstep else _NEVER) | _NEVER_OF.get(str(source_type), frozenset())
    for name in sorted(given.keys() - never - (frozenset() if shuffled else _IN_A_SHUFFLE)):
        value = given[name]
        if name in fields:
            value = _normalise_value(config, name, value, separator_of(fields[name].type))
        if name not in fields or value != fields[name].default:
            source[name] = value
    normal = {"source_type": source_type, "source_config": source}
    normal |= {name: order.get(name) for name in ("rank", "world_size")}
    if normal["world_size"] == 1:
        source.pop("rank_split", None)
    return normal | ({"seed": order.get("seed")} if shuffled else {})


def _normalise_mix(config: LoaderConfig, order: Mapping[str, Any]) -> dict[str, Any]:
    ranks = {name: order.get(name) for name in ("rank", "world_size")}
    try:
        source, shuffled = normal_mix(order["source_config"], lambda each: _normalise_order(config, {**each, **ranks}))
    except (AttributeError, KeyError, TypeError, msgspec.ValidationError) as error:
        raise ConfigError(f"this is not the state of a mix: {error!r}") from error
    return {"source_type": "mix", "source_config": source, **ranks} | ({"seed": order.get("seed")} if shuffled else {})


def _type_of(source: Mapping[str, Any]) -> str:
    """Infers the source type from the settings: states of version 1 do not store the type."""
    return "file" if "root_path" in source else "webdataset" if "url" in source else "db"


def _normalise_value(config: LoaderConfig, name: str, value: Any, separator: str | None) -> Any:
    if name == "duplicate_state" and isinstance(value, int):
        return max(0, value)  # no negative value filters anything
    if not isinstance(value, str):
        return value
    if name == "root_path":
        return _normalise_address(config, value)
    if name in ("url", "path"):
        return "::".join(_normalise_address(config, each.strip()) for each in value.split("::") if each.strip())
    if separator:
        return separator.join(sorted({each.strip() for each in value.split(separator)} - {""}))
    return value


def _normalise_address(config: LoaderConfig, text: str) -> str:
    """Normalises a path, @FILE or address. Text that starts with a brace may hold any paths and stays unchanged."""
    if text.startswith("@"):
        return "@" + _normalise_address(config, text[1:])
    if text.startswith("{") or ("://" in text and not text.lower().startswith(FILE_SCHEME)):
        return text.rstrip("/")
    try:
        return config.absolute(text)
    except ConfigError:
        return text


def _list_differences(theirs: dict[str, Any], ours: dict[str, Any], but: frozenset[str]) -> list[str]:
    """Lists the differences between two orders. theirs: of the state. ours: of the loader. but: what may differ."""
    if theirs["source_type"] != ours["source_type"]:
        return [_describe_difference("source_type", theirs["source_type"], ours["source_type"])]
    both = [name for name in ("seed", "rank", "world_size") if name in theirs and name in ours]
    found = [_describe_difference(name, theirs[name], ours[name]) for name in both if theirs[name] != ours[name]]
    sources = theirs["source_config"], ours["source_config"]
    if ours["source_type"] == "mix":
        return mix_differences(*sources, lambda one, other: _list_differences(one, other, but)) + found
    defaults = {field.name: field.default for field in fields_of(SOURCES[ours["source_type"]])}
    names = sorted({*chain(*sources)} - but)
    pairs = {name: [source.get(name, defaults.get(name)) for source in sources] for name in names}
    different = [name for name, (of_state, of_loader) in pairs.items() if of_state != of_loader]
    if "random_sampling" in different:  # then shuffle settings matter to only one of the two
        different = [name for name in different if name not in _IN_A_SHUFFLE]
    return [_describe_difference(f"source_config.{name}", *pairs[name]) for name in different] + found


def _of_another_order(differences: list[str]) -> ConfigError:
    hint = "Use the settings of the state, or start without the state"
    if any(each.startswith("world_size ") for each in differences):
        hint += ". Only the state of a run in lockstep suits any number of ranks"
    return ConfigError(f"the state belongs to another order of samples: {'; '.join(differences)}. {hint}")


def _describe_difference(name: str, theirs: Any, ours: Any) -> str:
    shown = (text if len(text := repr(value)) <= _LONGEST else f"{text[:_LONGEST]}..." for value in (theirs, ours))
    return "{} is {} in the state, {} here".format(name, *shown)
