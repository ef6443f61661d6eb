"""Whole loaders that go on from a state after the data was moved, or has changed."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from datago_gpu import ConfigError, Loader, LoaderConfig
from tests.support.images import add_picture, add_pictures, file_config
from tests.support.needs import needs

COUNT = 40


@pytest.fixture
def root(tmp_path: Path) -> Path:
    add_pictures(tmp_path / "data", [(40, 40)] * COUNT)
    return tmp_path / "data"


def settings(root: Path, *, shuffled: bool = True, **more: Any) -> LoaderConfig:
    return file_config(root, source={"random_sampling": shuffled}, **more)


def opened(config: LoaderConfig, **more: Any) -> Loader:
    return Loader(config, device="cpu", backend="pillow", **more)


def stopped(config: LoaderConfig, batches: int) -> tuple[list[str], dict[str, Any]]:
    """The samples of the first batches, and the state behind them."""
    with opened(config) as loader:
        seen = [name for _ in range(batches) for name in next(loader).ids]
        state: dict[str, Any] = json.loads(json.dumps(loader.state_dict()))
        return seen, state


def rest(config: LoaderConfig, state: dict[str, Any], **more: Any) -> list[str]:
    with opened(config, state=state, **more) as loader:
        return [name for batch in loader for name in batch.ids]


def test_a_file_that_was_added_is_named(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    seen, state = stopped(settings(root), 5)
    add_picture(root / "0000a.jpg")
    with pytest.raises(ConfigError, match=r"there are 41 images below .*, but there were 40; .*'0000a\.jpg'") as caught:
        rest(settings(root), state)
    assert 'on_change="accept"' in str(caught.value)
    with caplog.at_level(logging.WARNING, "datago_gpu"):
        left = rest(settings(root), state, on_change="accept")
    assert len(left) == COUNT + 1 - len(seen)
    assert [record.getMessage()[:29] for record in caplog.records] == ["the data has changed since th"]


@pytest.mark.parametrize("shuffled", [False, True])
def test_the_same_data_elsewhere_is_the_same(root: Path, tmp_path: Path, shuffled: bool) -> None:
    seen, state = stopped(settings(root, shuffled=shuffled), 3)
    shutil.copytree(root, tmp_path / "elsewhere")
    shutil.rmtree(root)
    left = rest(settings(tmp_path / "elsewhere", shuffled=shuffled), state)
    assert sorted(seen + left) == [f"{number:04}.jpg" for number in range(COUNT)]


def test_in_order_only_what_was_passed_matters(root: Path) -> None:
    """What lies behind is still to come, whatever it is."""
    config = settings(root, shuffled=False)
    _, state = stopped(config, 3)
    add_picture(root / "new.jpg")
    (root / "0030.jpg").unlink()
    assert rest(config, state) == [f"{number:04}.jpg" for number in range(12, COUNT) if number != 30] + ["new.jpg"]
    (root / "0003.jpg").unlink()
    with pytest.raises(ConfigError, match=r"of the first 12 images below .*, some were added, removed or renamed"):
        rest(config, state)
    for number in range(3, COUNT):
        (root / f"{number:04}.jpg").unlink(missing_ok=True)
    with pytest.raises(ConfigError, match=r"only 4 images below .* are there, but 12 are done in the state"):
        rest(config, state)
    assert rest(config, state, on_change="accept") == []


def test_samples_that_wait_for_their_batch_are_held_to_the_listing(root: Path) -> None:
    """Those behind them are done already. A new one between would take the number of one that waits."""
    add_picture(root / "0001.jpg", 30, 60)
    config = settings(root, shuffled=False)
    _, state = stopped(config, 3)
    assert state["resume"]["position"]["index"] == 1
    add_picture(root / "0005a.jpg")
    with opened(config, state=state) as loader, pytest.raises(ConfigError, match="the data has changed"):
        assert next(loader, None) is None, "no sample comes before the data is known to be the same"


def test_a_state_of_no_batch_yet_belongs_to_any_data(root: Path, tmp_path: Path) -> None:
    with opened(settings(root)) as loader:
        state = loader.state_dict()
    add_pictures(tmp_path / "other", [(40, 40)] * 3)
    assert len(rest(settings(tmp_path / "other"), state)) == 3


def test_a_state_without_a_digest_says_where_its_data_lies(root: Path, tmp_path: Path) -> None:
    seen, state = stopped(settings(root), 3)
    del state["order"]["listing"]
    assert len(rest(settings(root), state)) == COUNT - len(seen)
    shutil.copytree(root, tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"source_config\.root_path is .* in the state, "):
        rest(settings(tmp_path / "elsewhere"), state)
    assert len(rest(settings(tmp_path / "elsewhere"), state, on_change="accept")) == COUNT - len(seen)


@pytest.mark.parametrize("listing", [3, {"count": "x", "digest": ""}, {"digest": "00"}])
def test_a_digest_that_is_none_is_refused(root: Path, listing: object) -> None:
    _, state = stopped(settings(root), 1)
    state["order"]["listing"] = listing
    with pytest.raises(ConfigError, match="not the state of a Loader"):
        opened(settings(root), state=state)


def test_what_to_do_with_changed_data_is_one_of_two_words(root: Path) -> None:
    with pytest.raises(ConfigError, match="on_change must be 'refuse' or 'accept', got 'ignore'"):
        opened(settings(root), on_change="ignore")


def test_a_feeder_that_takes_over_finds_changed_data(root: Path) -> None:
    """It could not go on with the same samples."""
    config = settings(root, samples_buffer_size=1, prefetch_buffer_size=4, arena_mb=2, batch_size=1)
    with opened(config) as loader:
        next(loader)
        add_picture(root / "0000a.jpg")
        os.kill(loader.feeder_pid, signal.SIGKILL)
        with pytest.raises(ConfigError, match="there are 41 images"):
            for _ in loader:
                pass


def test_load_state_dict_holds_to_the_data_as_well(root: Path) -> None:
    seen, state = stopped(settings(root), 2)
    add_picture(root / "zz.jpg")
    with opened(settings(root)) as loader:
        loader.load_state_dict(state)
        with pytest.raises(ConfigError, match=r"1 more images below .* the first is 'zz\.jpg'"):
            next(loader)
    with opened(settings(root), on_change="accept") as loader:
        loader.load_state_dict(state)
        assert sum(len(batch) for batch in loader) == COUNT + 1 - len(seen)


def after_an_addition(root: Path, make: Callable[..., Any]) -> Any:
    """Takes a batch, adds a picture, and loads the state twice. `make` makes a data set or what loads one, by keywords.

    Returns the one that accepts the change, after the rest of its pass. The other one has refused the change.
    """
    first = make()
    stream = iter(first)
    next(stream)
    state = first.state_dict()
    del stream  # ends the pass
    add_picture(root / "zz.jpg")
    other = make()
    other.load_state_dict(state)
    with pytest.raises(ConfigError, match="the data has changed"):
        next(iter(other))
    third = make(on_change="accept")
    third.load_state_dict(state)
    assert sum(len(batch["ids"]) for batch in third) == COUNT + 1 - 4
    return third


def test_a_dataset_of_torch_takes_it_the_same_way(root: Path) -> None:
    dataset_type = needs("datago_gpu.torch").LoaderDataset
    third = after_an_addition(root, partial(dataset_type, settings(root), device="cpu", backend="pillow"))
    assert sum(len(batch["ids"]) for batch in third) == COUNT + 1, "the next pass has all that is there"


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata's call
def test_torchdata_s_loader_takes_it_the_same_way(root: Path) -> None:
    stateful, dataset_type = needs("torchdata.stateful_dataloader"), needs("datago_gpu.torch").LoaderDataset

    def loader(**more: Any) -> Any:
        dataset = dataset_type(settings(root), device="cpu", backend="pillow", **more)
        return stateful.StatefulDataLoader(dataset, batch_size=None)

    after_an_addition(root, loader)


def test_a_new_pass_of_torch_s_takes_the_data_as_it_is(root: Path) -> None:
    dataset = needs("datago_gpu.torch").LoaderDataset(settings(root), device="cpu", backend="pillow")
    assert sum(len(batch["ids"]) for batch in dataset) == COUNT
    add_picture(root / "0000a.jpg")
    assert sum(len(batch["ids"]) for batch in dataset) == COUNT + 1
