"""Whole loaders beside a model of what they promise: any settings, any data, any way to use them.

Each example draws a data set with bad things in it, settings, a way to read (a Loader, a LoaderDataset, datago's
client), and a script: take batches or samples, save a state and go on from there in the same loader or in another one,
kill the feeder, close. Whatever is handed out is compared with the model (model/__init__.py says what is promised;
drawn/ is what is drawn), and everything has to come within its time.

The suite runs 40 examples. A long run, whose examples differ each time:

    DATAGO_GPU_MODEL_EXAMPLES=2000 python -m pytest tests/end_to_end/test_model.py

An example that fails is printed whole, with a line `@reproduce_failure` that repeats it. It is not made smaller first:
that would take minutes, and some faults show only now and then, on a busy machine.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from hypothesis import Phase, given, note, settings
from hypothesis import strategies as st

from tests.drawn.cases import drawn_case, order_of, settled
from tests.drawn.runs import Run
from tests.drawn.ways import WAYS
from tests.drawn.worlds import WORLDS
from tests.model import Item, NoSamples

EXAMPLES = int(os.environ.get("DATAGO_GPU_MODEL_EXAMPLES", "40"))


@pytest.fixture(scope="module", autouse=True)
def _worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    for name, world in WORLDS.items():
        world.write(tmp_path_factory.mktemp(name))
    yield
    for world in WORLDS.values():
        world.close()


@pytest.mark.timeout(max(300, 10 * EXAMPLES))
@settings(max_examples=EXAMPLES, print_blob=True, phases=(Phase.reuse, Phase.generate))
@given(random=st.randoms(use_true_random=True))
def test_a_loader_does_what_the_model_does(random: Random) -> None:
    case = drawn_case(random)
    note(repr(case))
    with tempfile.TemporaryDirectory() as folder:
        config = settled(case, Path(folder))
        world = WORLDS[case.world]
        Run(config, WAYS[case.way](config), lambda settings: order_of(settings, world, case.broken)).follow(case.script)


@given(random=st.randoms(use_true_random=True))
def test_the_ranks_of_the_model_share_everything_without_overlap(random: Random) -> None:
    """And so those of the loader do, which does what the model does."""
    case = drawn_case(random)
    note(repr(case))
    if case.config["source_type"] == "mix":  # of which each source is shared as it is alone
        return
    with tempfile.TemporaryDirectory() as folder:
        config = settled(case, Path(folder))
    world_size = config.source_config.world_size or 1
    for epoch in (0, 1):
        found: list[str] = []
        for rank in range(world_size):
            with suppress(NoSamples):
                listing = order_of(config.with_source(rank=rank), WORLDS[case.world], case.broken)(epoch)
                found += [item.id for item in listing if isinstance(item, Item)]
        alone = order_of(config.with_source(rank=0, world_size=1), WORLDS[case.world], case.broken)
        with suppress(NoSamples):
            assert sorted(found) == sorted(item.id for item in alone(epoch) if isinstance(item, Item))
