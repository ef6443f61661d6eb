"""What a state has of a mix: the settings of each source on which the order of its samples depends.

Weights may change from run to run: the feeder goes on with the new ones (see `sources.mix`). The sources may not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from datago_gpu.config import LoaderConfig, MixSource

__all__ = ["mix_differences", "mix_order", "normal_mix", "weights_of_state"]

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
        where = part.source_config.where.strip()
        if where and not config.lockstep:  # in lockstep, the order of the source has it
            shown["where"] = where  # a place in a mix counts the samples that pass
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
        for name in ("repeat", "where"):
            if one.get(name) != other.get(name):
                found.append(f"{where}{name} is {one.get(name)!r} in the state, {other.get(name)!r} here")
    return found


def weights_of_state(config: LoaderConfig, given: Order) -> str:
    """Returns with which weights a state in lockstep was saved, as `stretches_text` writes them; "" if these are the
    weights of the settings. Raises ConfigError if this is not a state.

    given: what the state has as `source_config`.
    """
    # States without a mix are read sooner without these imports.
    from datago_gpu.sources.mix.mix_listing import parse_stretches, stretches_text
    from datago_gpu.sources.mix.turns import whole_weights

    mix = config.source_config
    assert isinstance(mix, MixSource)
    if mix.repeats:
        return ""
    weights = [each["weight"] for each in given["sources"]]
    known = given.get("stretches") or [[0, weights]]
    stretches = parse_stretches(msgspec.json.encode(known).decode(), len(mix.sources))
    if len(stretches) == 1 and whole_weights(stretches[0].weights) == whole_weights(mix.weights):
        return ""
    return stretches_text(stretches)


def _shown_stop(mix: Order) -> str:
    return repr(mix["stop"]) if mix["stop"] else "without effect (repeat)"


class _Mix(msgspec.Struct):
    sources: list[dict[str, Any]]
    stop: str
