"""Settings and fixtures of the whole suite."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, settings

from datago_gpu.config.ranks import VARIABLES
from datago_gpu.decoders.select import Backend, choose
from tests.support import generators
from tests.support.gpus import usable

# Most of the suite's time is the start of processes. Where Python may keep no compiled modules, as in many containers,
# each start would compile the package again: 60 ms more for a loader.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# No deadline: a slow machine is not a bug. Fixtures that only make a folder or clear the environment may be shared by
# the examples of a property.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _no_ambient_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine that runs the tests has in its environment must not change them."""
    names = [*VARIABLES, "DATAROOM_API_URL", "DATAROOM_API_KEY", "HF_TOKEN", "HF_TOKEN_PATH", "HF_HOME", "HF_ENDPOINT"]
    for name in (*names, *(name for name in os.environ if name.lower().endswith("_proxy"))):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=["pillow-cpu", "dali-cpu", pytest.param("dali-cuda", marks=pytest.mark.cuda)])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each decoder on each device."""
    name, _, where = request.param.partition("-")
    return choose(usable(where), name)


LONGEST = (
    *("test_benchmarks.py", "test_soak.py", "test_long.py", "test_report.py", "test_programs.py", "test_torch.py"),
    *("test_processes.py", "test_ray.py", "test_training.py", "test_model.py", "test_jax.py", "test_ranks.py"),
)
"""Files that take half a minute and more. Begun last, they would keep one worker busy when all others are done."""

_left_open = generators.watch()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the tests of the longest files first."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(autouse=True, scope="module")
def _frozen() -> None:
    """Excludes all that is imported and collected by now from garbage collection. Some tests collect, and a feeder does
    at the end of each epoch: beside thousands of tests, a collection would take longer than a small epoch.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _generators_are_closed() -> Iterator[None]:
    """Whoever starts an asynchronous generator closes it: at a time that is known, and in the same task."""
    yield
    left = _left_open.copy()
    _left_open.clear()
    assert not left, "asynchronous generators that nobody closed; contextlib.aclosing does"


@contextmanager
def interruptible() -> Iterator[None]:
    """What is started here inherits a SIGINT that ends it, also where a shell started the suite with SIGINT ignored.

    A shell does so for `nohup make test` and, in a script, for `make test &`.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    with interruptible():
        yield
