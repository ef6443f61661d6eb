"""Which rank a process finds out that it has, where nobody has set one by hand."""

from __future__ import annotations

import logging
import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from datago_gpu.config import LoaderConfig, ranks
from datago_gpu.config.ranks import LocalRank, cpu_share, find_local_rank, find_ranks
from datago_gpu.doctor import machine
from datago_gpu.errors import ConfigError

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
}
MPICH = {"PMI_RANK": "2", "PMI_SIZE": "3", "MPI_LOCALRANKID": "2", "MPI_LOCALNRANKS": "3"}
JOB = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "6", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
"""What a script of sbatch sees, which is one process."""
SHELL = JOB | {"SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PTY_PORT": "34889"}
"""What a shell of salloc sees, where Slurm runs it as a step."""
STEP = JOB | {
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "6",
    "SLURM_PROCID": "4",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2),4",
}
"""What a task of srun sees: the second one on the last of three machines."""
ONE_FOR_EACH_MACHINE = STEP | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}
FILES = {"source_type": "file", "source_config": {"root_path": "/x"}}

Patch = pytest.MonkeyPatch


def set_all(monkeypatch: Patch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def initialise_torch(monkeypatch: Patch, rank: int, world_size: int, *, initialised: bool = True) -> None:
    state = SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: initialised,
        get_rank=lambda: rank,
        get_world_size=lambda: world_size,
    )
    monkeypatch.setitem(sys.modules, "torch.distributed", state)  # type: ignore[misc]


def initialise_jax(monkeypatch: Patch, rank: int | None, world_size: int | None) -> None:
    client = None if rank is None else object()
    state = SimpleNamespace(client=client, process_id=rank or 0, num_processes=world_size)
    monkeypatch.setitem(sys.modules, "jax._src.distributed", SimpleNamespace(global_state=state))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("variables", "rank", "local"),
    [
        ({}, (0, 1, ""), LocalRank()),
        (TORCHRUN, (1, 4, "RANK and WORLD_SIZE"), LocalRank(1, 2, "LOCAL_RANK", "LOCAL_WORLD_SIZE")),
        (
            OPEN_MPI,
            (5, 8, "OMPI_COMM_WORLD_RANK and OMPI_COMM_WORLD_SIZE"),
            LocalRank(1, 4, "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
        ),
        (MPICH, (2, 3, "PMI_RANK and PMI_SIZE"), LocalRank(2, 3, "MPI_LOCALRANKID", "MPI_LOCALNRANKS")),
        (
            STEP,
            (4, 6, "SLURM_PROCID and SLURM_STEP_NUM_TASKS"),
            LocalRank(1, 4, "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
        ),
        (JOB, (0, 1, ""), LocalRank()),
        (SHELL, (0, 1, "SLURM_PROCID and SLURM_STEP_NUM_TASKS"), LocalRank(0, 1, "SLURM_LOCALID", "")),
        (
            STEP | {"WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "2"},  # exported by the script that calls srun
            (4, 6, "SLURM_PROCID and SLURM_STEP_NUM_TASKS"),
            LocalRank(1, 2, "SLURM_LOCALID", "LOCAL_WORLD_SIZE"),
        ),
    ],
)
def test_each_launcher_is_understood(
    monkeypatch: Patch, variables: dict[str, str], rank: tuple[int, int, str], local: LocalRank
) -> None:
    set_all(monkeypatch, variables)
    assert find_ranks() == (*rank, "")
    assert find_local_rank() == local


@pytest.mark.parametrize("inner", [TORCHRUN, OPEN_MPI, MPICH])
def test_a_launcher_that_srun_has_started_once_for_each_machine_goes_first(
    monkeypatch: Patch, inner: dict[str, str]
) -> None:
    """That is the usual way, and no contradiction."""
    set_all(monkeypatch, ONE_FOR_EACH_MACHINE | inner)
    found, local = find_ranks(), find_local_rank()
    assert (str(found.rank), str(found.world_size)) == tuple(inner.values())[:2]
    assert (str(local.rank), str(local.size)) == tuple(inner.values())[2:]
    assert not found.doubt


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_shell_of_srun_is_one_process(monkeypatch: Patch, is_terminal: bool) -> None:
    """And a step that is started from this shell inherits its variables, but not its terminal."""
    set_all(monkeypatch, STEP | {"SLURM_PTY_PORT": "40000"})
    monkeypatch.setattr(os, "isatty", lambda _: is_terminal)
    assert find_ranks().world_size == (1 if is_terminal else 6)


@pytest.mark.parametrize(("node", "size"), [("0", 1), ("1", 1), ("2", 4), ("3", 1), ("x", 1)])
def test_slurm_tells_the_tasks_of_each_machine(monkeypatch: Patch, node: str, size: int) -> None:
    set_all(monkeypatch, STEP | {"SLURM_NODEID": node})
    assert find_local_rank().size == size


def test_a_framework_that_is_initialised_goes_before_the_environment(monkeypatch: Patch) -> None:
    set_all(monkeypatch, TORCHRUN)
    initialise_torch(monkeypatch, 3, 9, initialised=False)
    initialise_jax(monkeypatch, None, None)
    assert find_ranks() == (1, 4, "RANK and WORLD_SIZE", "")
    initialise_jax(monkeypatch, 6, 7)
    assert find_ranks() == (6, 7, "jax.distributed", "")
    initialise_torch(monkeypatch, 3, 9)
    assert find_ranks() == (3, 9, "torch.distributed", "")


@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (0, 2), (3, 4)])
def test_a_contradiction_is_one_warning(
    monkeypatch: Patch, caplog: pytest.LogCaptureFixture, rank: int, world_size: int
) -> None:
    """Fewer processes than the launcher has started, or another rank: then several may load the same samples."""
    monkeypatch.setattr(ranks, "_told", set())
    set_all(monkeypatch, TORCHRUN)
    initialise_torch(monkeypatch, rank, world_size)
    config = LoaderConfig.load(FILES)
    with caplog.at_level(logging.INFO, "datago_gpu"):
        for _ in range(3):
            assert config.resolve().rank_and_world_size() == (rank, world_size)
        told = f"rank {rank} of {world_size} by torch.distributed, but rank 1 of 4 by RANK and WORLD_SIZE"
        assert [told in each.message for each in caplog.records if each.levelno == logging.WARNING] == [True]
        caplog.clear()
        config.with_source(rank=0, world_size=1).resolve()  # by hand: that is meant
        assert not caplog.records


def test_the_share_is_logged_once(monkeypatch: Patch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(ranks, "_told", set())
    set_all(monkeypatch, STEP)
    with caplog.at_level(logging.INFO, "datago_gpu"):
        for _ in range(2):
            LoaderConfig.load(FILES).resolve()
    (told,) = caplog.records
    assert told.message == "this process loads the share of rank 4 of 6, by SLURM_PROCID and SLURM_STEP_NUM_TASKS"


def test_nonsense_counts_only_where_it_would_be_used(monkeypatch: Patch) -> None:
    set_all(monkeypatch, {"PMI_RANK": "one", "PMI_SIZE": "2", "MPI_LOCALRANKID": "one", "MPI_LOCALNRANKS": "0"})
    with pytest.raises(ConfigError, match="PMI_RANK must be a whole number of at least 0, got 'one'"):
        find_ranks()
    assert find_local_rank() == LocalRank()
    assert machine.ranks(None).state == "fail"
    initialise_torch(monkeypatch, 0, 2)
    assert find_ranks() == (0, 2, "torch.distributed", "")


@pytest.mark.parametrize(
    ("variables", "cpus", "share"),
    [
        ({}, 64, 64),
        ({"LOCAL_WORLD_SIZE": "8"}, 64, 8),
        ({"LOCAL_WORLD_SIZE": "8"}, 2, 1),
        ({"LOCAL_WORLD_SIZE": "many"}, 64, 64),
        (OPEN_MPI, 64, 16),
        (STEP, 64, 16),
        (STEP | {"SLURM_CPUS_ON_NODE": "64"}, 64, 16),
        (STEP | {"SLURM_CPUS_ON_NODE": "64"}, 16, 16),  # bound to 16 of them
        (JOB | {"SLURM_CPUS_ON_NODE": "64"}, 64, 64),
    ],
)
def test_processes_of_a_machine_share_its_cpus(
    monkeypatch: Patch, variables: dict[str, str], cpus: int, share: int
) -> None:
    set_all(monkeypatch, variables)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)))
    assert cpu_share() == share


@pytest.mark.parametrize(
    ("variables", "source", "state", "words"),
    [
        ({}, {}, "ok", "rank 0 of 1: neither a launcher nor"),
        (TORCHRUN, {}, "ok", "rank 1 of 4, found in RANK and WORLD_SIZE; local rank 1 of 2 (LOCAL_RANK)"),
        (TORCHRUN, {"rank": 2, "world_size": 3}, "ok", "rank 2 of 3, set in source_config"),
        (JOB, {}, "warn", "rank 0 of 1, although SLURM_NTASKS is 6: srun has not started this process"),
        (SHELL, {}, "warn", "rank 0 of 1, although SLURM_NTASKS is 6"),
        (STEP | {"RANK": "0", "WORLD_SIZE": "1"}, {}, "warn", "but rank 4 of 6 by SLURM_PROCID"),
    ],
)
def test_doctor_says_where_the_rank_was_found(
    monkeypatch: Patch, variables: dict[str, str], source: dict[str, Any], state: str, words: str
) -> None:
    set_all(monkeypatch, variables)
    check = machine.ranks(LoaderConfig.load(FILES | {"source_config": {"root_path": "/x", **source}}))
    assert check.state == state
    assert words in check.found


def test_doctor_says_that_processes_share_the_cpus(monkeypatch: Patch) -> None:
    set_all(monkeypatch, TORCHRUN)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    found = machine.cpus(LoaderConfig.load(FILES).decode_config, None).found
    assert "2 processes share them (LOCAL_WORLD_SIZE); to decode: 4 processes with Pillow, 4 threads with DALI" in found
