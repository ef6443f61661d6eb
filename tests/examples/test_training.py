"""The examples of training lower their losses, go on from their checkpoints, and run in two processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import mean

import pytest

from tests.examples.runs import EXAMPLES, NAMES, losses_of
from tests.support.needs import needs
from tests.support.ports import free_ports

LONGEST = 126
"""Lines of an example: it is to be read at once."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for all examples, which cut the same pictures."""
    torch = needs("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path_factory.mktemp("examples")
    torch.set_num_threads(threads)


@cache
def of_a_long_run(name: str, folder: Path) -> dict[int, float]:
    return losses_of(name, folder, 60)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls(name: str, folder: Path) -> None:
    losses = list(of_a_long_run(name, folder).values())
    assert len(losses) == 60
    assert mean(losses[-8:]) < mean(losses[:8])


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", [name for name in NAMES if name != "diffusion"])  # which draws noise of its own
def test_a_run_that_goes_on_sees_what_one_without_a_stop_would(name: str, folder: Path) -> None:
    whole = of_a_long_run(name, folder)
    begun = losses_of(name, folder, 14)
    rest = losses_of(name, folder, 20, "--resume")
    assert rest.keys() == set(range(15, 21))
    assert begun | rest == pytest.approx({step: whole[step] for step in range(1, 21)}, rel=1e-3)


@pytest.mark.timeout(300)
def test_two_ranks_train_and_go_on_together(folder: Path) -> None:
    (folder / "ranks").mkdir()
    ports = free_ports(2 * len(NAMES))
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.examples.ranks", str(rank), str(folder / "ranks"), *ports],
            cwd=EXAMPLES.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [rank.communicate(timeout=270)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(said)
    first, second = (json.loads((folder / "ranks" / f"rank{rank}.json").read_text()) for rank in range(2))
    for name in NAMES:
        assert list(first[name]) == list(second[name]) == ["1", "2", "3", "4", "5", "6"]
        assert first[name] != second[name]  # each sees samples of its own


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short_and_says_how_to_run_it(path: Path) -> None:
    text = path.read_text()
    if path.stem in NAMES:
        assert len(text.splitlines()) <= LONGEST
        assert f"python examples/{path.name}" in text
        assert f"torchrun --nproc-per-node 2 examples/{path.name}" in text
