"""States in lockstep: small, the same on all ranks, and of any number of ranks."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datago_gpu.config import LoaderConfig
from datago_gpu.errors import ConfigError
from datago_gpu.feeder.wire import Mark, Resume
from datago_gpu.loader.state import resume_from, state_of
from datago_gpu.loader.steps import Steps
from datago_gpu.sources.reference import ListingDigest, Position, Skipped

LISTED = ListingDigest(1000, "0123abcd", whole=True)


def config_of(rank: int = 0, world_size: int = 1, *, source: dict[str, Any] | None = None, **more: Any) -> LoaderConfig:
    image = {"crop_and_resize": True} | more.pop("image", {})
    source = {"rank": rank, "world_size": world_size, "random_sampling": True} | (source or {})
    return LoaderConfig.load({"source_config": source, "image_config": image, "lockstep": True, **more})


def after(config: LoaderConfig, resume: Resume, batches: int, epoch: int = 0) -> Resume:
    """The place behind some more batches."""
    steps = Steps(config, resume)
    first = resume.taken[-1][1] if resume.taken and resume.taken[-1][0] == together(config) else 0
    for number in range(first, first + batches):
        behind = (number + 1) * config.batch_size
        steps.begin(Mark(Position(epoch, behind), LISTED))
        steps.deliver(range(behind - config.batch_size, behind))
    return steps.resume()


def together(config: LoaderConfig) -> int:
    return config.batch_size * config.rank_and_world_size()[1]


def test_with_batches_by_pixels_the_state_has_pixels_and_ranks_in_place_of_a_number() -> None:
    image = {"buckets": [[512, 512], [256, 256]]}
    config = config_of(1, 4, batch_pixels=4 * 512 * 512, image=image)
    steps, stride = Steps(config, Resume()), config.most_samples
    assert stride == 16
    for number, samples in enumerate([4, 16]):
        behind = (number + 1) * stride
        steps.begin(Mark(Position(0, behind), LISTED))
        steps.deliver(range(behind - samples, behind - 1))
        assert sum(count for _, count in steps.resume().taken) == number
        steps.deliver([behind - 1])
    state = json.loads(json.dumps(state_of(config, steps.resume())))
    assert (state["taken"], state["delivered"]) == ([[[1048576, 4], 2]], 80)
    assert resume_from(config, state).taken == [((1048576, 4), 2)]
    other = resume_from(config_of(0, 2, batch_size=6, image=image), state)
    assert after(config_of(0, 2, batch_size=6, image=image), other, 3).taken == [((1048576, 4), 2), (12, 3)]
    for wrong in ([[0, 4], 2], [[1048576, 0], 2], [[1048576], 2], [[1048576, 4, 1], 2]):
        with pytest.raises(ConfigError, match="not the state of a Loader"):
            resume_from(config, {**state, "taken": [wrong]})


@pytest.mark.parametrize(
    "change",
    [
        {"image": {"resolutions": [512, 1024]}},
        {"image": {"buckets": [[512, 512]]}},
        {"image": {"upscale": False}},
    ],
)
def test_a_state_of_other_buckets_is_refused(change: dict[str, Any]) -> None:
    state = state_of(config_of(), after(config_of(), Resume(), 2))
    with pytest.raises(ConfigError, match="image_config is"):
        resume_from(config_of(**change), state)
    own = state_of(config_of(**change), after(config_of(**change), Resume(), 2))
    assert resume_from(config_of(**change), json.loads(json.dumps(own))).taken == [(32, 2)]


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(0, 9)), max_size=5))
def test_the_state_is_the_same_on_all_ranks_and_any_run_goes_on_from_it(runs: list[tuple[int, int, int]]) -> None:
    state, taken = None, list[list[int]]()
    for world_size, batch_size, batches in runs:
        ranks = [config_of(rank, world_size, batch_size=batch_size) for rank in range(world_size)]
        resumes = [resume_from(config, state) if state else Resume() for config in ranks]
        states = [
            state_of(config, after(config, resume, batches)) for config, resume in zip(ranks, resumes, strict=True)
        ]
        assert all(each == states[0] for each in states)
        state = json.loads(json.dumps(states[0]))
        if batches and taken and taken[-1][0] == world_size * batch_size:
            taken[-1][1] += batches
        elif batches:
            taken.append([world_size * batch_size, batches])
        assert state["taken"] == taken
        assert (state["epoch"], set(state)) == (0, {"version", "order", "epoch", "taken"})


def test_a_state_has_the_same_keys_before_the_first_batch_and_in_every_epoch() -> None:
    """torch.distributed.checkpoint fills in a state key by key."""
    config = config_of(2, 4)
    begun, later = state_of(config, Resume()), state_of(config, after(config, Resume(), 3, epoch=7))
    assert [begun["epoch"], begun["taken"], later["epoch"], later["taken"]] == [0, [], 7, [[128, 3]]]
    assert {name: type(value) for name, value in begun["order"].items()} == {
        name: type(value) for name, value in later["order"].items()
    }
    assert not any(isinstance(value, dict) for value in later["order"].values())


def test_a_batch_counts_once_all_of_its_samples_are_delivered() -> None:
    config = config_of(batch_size=3)
    steps = Steps(config, Resume())
    steps.begin(Mark(Position(0, 3), LISTED))
    for number in range(2):
        steps.deliver([number])
        assert steps.resume().taken == []
    steps.deliver([2], failures=1)
    assert steps.resume().taken == [(3, 1)]
    assert (steps.delivered, steps.resume().delivered) == (2, 3)


def test_the_limit_goes_on_counting_whatever_the_number_of_ranks() -> None:
    one = config_of(batch_size=6, limit=60)
    state = state_of(one, after(one, Resume(), 4))
    assert state["delivered"] == 24
    assert resume_from(config_of(1, 3, batch_size=2, limit=20), state).delivered == 8


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, "seed is 0 in the state, 1 here"),
        ({"source": {"tags": "cat"}}, "source_config.tags"),
        ({"image": {"default_image_size": 256}}, "image_config is"),
        ({"lockstep": False}, "set lockstep to true"),
    ],
)
def test_a_state_of_another_order_is_refused(change: dict[str, Any], words: str) -> None:
    state = state_of(config_of(), after(config_of(), Resume(), 2))
    with pytest.raises(ConfigError, match=words):
        resume_from(config_of(**change), state)


def test_a_state_without_lockstep_is_refused() -> None:
    plain = config_of(lockstep=False)
    with pytest.raises(ConfigError, match="set lockstep to false"):
        resume_from(config_of(), state_of(plain, Resume()))


@given(
    st.dictionaries(st.sampled_from(["version", "order", "epoch"]), st.none() | st.integers() | st.text(), max_size=3)
)
def test_what_is_no_state_is_a_config_error(given_values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        resume_from(config_of(), {**given_values, "taken": [[1]]})


def test_a_skip_is_kept_until_its_epoch_is_over() -> None:
    steps = Steps(config_of(batch_size=2), Resume())
    skip = Skipped(0, "a", "", "missing", epoch=0)
    steps.begin(Mark(Position(0, 2), LISTED))
    assert not steps.covers(skip)
    steps.begin(Mark(Position(1, 2), LISTED))
    assert steps.covers(skip)
    assert msgspec.structs.replace(skip, epoch=1).epoch == steps.epoch


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": -1}, {"epoch": 1 << 70}, {"taken": [[0, 5]]}, {"taken": [[-2, 3]]}, {"taken": [[4, -1]]},
        {"taken": [[1 << 40, 1]]}, {"taken": [[4, 1 << 70]]}, {"delivered": -1}, {"delivered": 1 << 70},
    ],
    ids=str,
)  # fmt: skip
def test_numbers_that_no_run_has_are_refused(change: dict[str, Any]) -> None:
    config = config_of(batch_size=4, limit=100)
    state = state_of(config, after(config, Resume(), 3))
    for changed in (state | change, state | {"order": state["order"] | {"rows": [1 << 70, "0123", True]}}):
        with pytest.raises(ConfigError, match="not the state of a Loader"):
            resume_from(config, changed)
