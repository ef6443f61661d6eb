"""What a state has of a mix: the settings of each source on which the order of its samples depends.

Weights may change from run to run: the feeder goes on with the new ones (see `sources.mix`). The sources may not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import msgspec

from datago_gpu.config import LoaderConfig, MixSource
from datago_gpu.sources.mix.turns import whole_weights

__all__ = ["mix_differences", "mix_order", "mix_weights_changed", "normal_mix"]

Order = dict[str, Any]
Normalise = Callable[[Mapping[str, Any]], Order]
Differences = Callable[[Order, Order], list[str]]


def mix_order(config: LoaderConfig, order_of: Callable[[LoaderConfig], Order]) -> Order:
    """Returns the value that a state has as `source_config`. order_of: returns the order of a source alone."""
    mix = config.source_config
    assert isinstance(mix, MixSource)
    sources: list[Order] = []
    for part, each in zip(mix.sources, config.by_source().values(), strict=True):
        order = order_of(each)
        shares = {"repeat" if mix.repeats else "weight": mix.weights[len(sources)]}
        shown = {name: order[name] for name in ("source_type", "source_config")}
        sources.append({"name": part.name, **shown, **shares})
    return {"sources": sources, "stop": "" if mix.repeats else mix.stop}


def normal_mix(given: Mapping[str, Any], normalise: Normalise) -> tuple[Order, bool]:
    """Normalises what `mix_order` has returned. Returns also whether a source is shuffled.

    Raises msgspec.ValidationError if the value is not of this form.
    """
    found = msgspec.convert(given, _Mix)
    sources, shuffled = [], False
    for each in found.sources:
        order = normalise({"source_type": each["source_type"], "source_config": each["source_config"]})
        shuffled = shuffled or bool(order["source_config"].get("random_sampling"))
        sources.append({**each, "source_config": order["source_config"]})
    return {"sources": sources, "stop": found.stop}, shuffled


def mix_differences(theirs: Order, ours: Order, differences: Differences) -> list[str]:
    """Lists the differences between two mixes. theirs: of the state. differences: lists those of two sources."""
    names = [[each["name"] for each in mix["sources"]] for mix in (theirs, ours)]
    if names[0] != names[1]:
        were, are = (", ".join(map(repr, each)) for each in names)
        way_out = "add or remove a source only with a new run (a weight of 0 turns a source off)"
        return [f"the sources of the mix are {were} in the state, {are} here: {way_out}"]
    if theirs["stop"] != ours["stop"]:
        return [f"source_config.stop is {_shown_stop(theirs)} in the state, {_shown_stop(ours)} here"]
    found = []
    for one, other in zip(theirs["sources"], ours["sources"], strict=True):
        where = f"source {one['name']!r} of the mix: "
        found += [where + each for each in differences(one, other)]
        if one.get("repeat") != other.get("repeat"):
            found.append(f"{where}repeat is {one.get('repeat')} in the state, {other.get('repeat')} here")
    return found


def mix_weights_changed(theirs: Order, ours: Order) -> list[str]:
    """Lists the weights that differ: in lockstep, they may change only where an epoch begins."""
    weights = [[each.get("weight") for each in mix["sources"]] for mix in (theirs, ours)]
    if (
        len(weights[0]) != len(weights[1])
        or None in chain(*weights)
        or whole_weights(weights[0]) == whole_weights(weights[1])
    ):
        return []
    return [
        f"the weight of source {one['name']!r} of the mix is {one['weight']:g} in the state, {other['weight']:g} here, "
        "and in lockstep weights change only between epochs: finish the epoch with the weights of the state"
        for one, other in zip(theirs["sources"], ours["sources"], strict=True)
        if one["weight"] != other["weight"]
    ][:1]


def _shown_stop(mix: Order) -> str:
    return repr(mix["stop"]) if mix["stop"] else "without effect (repeat)"


class _Mix(msgspec.Struct):
    sources: list[dict[str, Any]]
    stop: str
