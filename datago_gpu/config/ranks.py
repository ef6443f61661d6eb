"""Finds out which of several processes this one is: its rank in the run, and its rank on its machine.

A framework that is initialised in this process knows best. After it comes the environment of the launcher, the inner
one first: `torchrun` and `mpirun` may themselves have been started by `srun`, once for each machine.
Nothing is imported and nothing is initialised here.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from datago_gpu.errors import ConfigError
from datago_gpu.system import usable_cpus

__all__ = ["VARIABLES", "LocalRank", "Ranks", "cpu_share", "find_local_rank", "find_ranks", "log_once"]

log = logging.getLogger("datago_gpu")

_told: set[str] = set()


class Ranks(NamedTuple):
    """The rank of this process, the number of processes, and where these numbers were found."""

    rank: int = 0
    world_size: int = 1
    origin: str = ""
    """Empty if nothing says that there are several processes."""
    doubt: str = ""
    """A contradiction between two places, in words; or empty."""


class LocalRank(NamedTuple):
    """The rank among the processes of this machine, None if unknown; their number; and where these were found."""

    rank: int | None = None
    size: int = 1
    rank_origin: str = ""
    size_origin: str = ""


class _Launcher(NamedTuple):
    """Names the environment variables that a launcher sets for each process that it starts."""

    rank: str
    world_size: str
    local_rank: str
    local_size: str


_TORCHRUN = _Launcher("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_OPEN_MPI = _Launcher(
    "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"
)
_MPICH = _Launcher("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")
_SLURM = _Launcher("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE")
_LAUNCHERS = (_TORCHRUN, _OPEN_MPI, _MPICH, _SLURM)
_OF_A_STEP = ("SLURM_STEP_ID", "SLURM_NODEID", "SLURM_PTY_PORT", "SLURM_NTASKS", "SLURM_CPUS_ON_NODE")

VARIABLES = (*(name for launcher in _LAUNCHERS for name in launcher), *_OF_A_STEP)
"""All environment variables that are read here."""


def find_ranks() -> Ranks:
    """Returns what the most specific place says: torch.distributed, jax.distributed, torchrun, MPI or Slurm.

    Raises ConfigError if the environment variables of that place are no numbers.
    """
    claims = _claims()
    found = next(claims, Ranks())
    with suppress(ConfigError):  # a launcher that is not asked may have left nonsense
        for other in claims:
            smaller = found.world_size < other.world_size
            if smaller or (found.world_size == other.world_size and found.rank != other.rank):
                return found._replace(doubt=_describe_doubt(found, other))
    return found


def find_local_rank() -> LocalRank:
    """Returns the rank on this machine and the number of processes there. Ignores variables that are no numbers."""
    rank = rank_origin = size = size_origin = None
    for launcher in _LAUNCHERS:
        if launcher is _SLURM and not _is_task():
            continue
        if rank is None and (text := os.environ.get(launcher.local_rank, "")).isdecimal():
            rank, rank_origin = int(text), launcher.local_rank
        if size is None:
            text = os.environ.get(launcher.local_size, "")
            text = _tasks_of_node(text) if launcher is _SLURM else text
            if text.isdecimal() and int(text):
                size, size_origin = int(text), launcher.local_size
    return LocalRank(rank, size or 1, rank_origin or "", size_origin or "")


def cpu_share() -> int:
    """Returns the number of CPUs that this process may use, divided by the processes of its machine, and at least 1.

    Slurm often binds each task to CPUs of its own. These are not divided again.
    """
    usable, local = usable_cpus(), find_local_rank()
    of_step = os.environ.get("SLURM_CPUS_ON_NODE", "")
    if local.size_origin == _SLURM.local_size and of_step.isdecimal() and int(of_step):
        return max(1, min(usable, int(of_step) // local.size))
    return max(1, usable // local.size)


def log_once(level: int, text: str) -> None:
    """Logs a text, unless this process has logged it before."""
    if text not in _told:
        _told.add(text)
        log.log(level, "%s", text)


def _claims() -> Iterator[Ranks]:
    """Yields what each place says that says something, the most specific place first."""
    for claim in (_of_torch(), _of_jax()):
        if claim:
            yield claim
    launchers = [launcher for launcher in _LAUNCHERS if launcher is not _SLURM or _is_task()]
    given = {each: (os.environ.get(each.rank), os.environ.get(each.world_size)) for each in launchers}
    # Scripts of sbatch often export WORLD_SIZE alone: that says less than what srun sets for each task.
    complete = [launcher for launcher in launchers if all(given[launcher])]
    for launcher in complete or [launcher for launcher in launchers if any(given[launcher])]:
        rank, world_size = _number(launcher.rank, 0), _number(launcher.world_size, 1)
        yield Ranks(rank, world_size, f"{launcher.rank} and {launcher.world_size}")


def _of_torch() -> Ranks | None:
    """Asks torch.distributed, if it is imported and initialised."""
    module = sys.modules.get("torch.distributed")
    if module is None or not module.is_available() or not module.is_initialized():
        return None
    return Ranks(module.get_rank(), module.get_world_size(), "torch.distributed")


def _of_jax() -> Ranks | None:
    """Asks jax.distributed, if it is imported and initialised.

    `jax.process_index()` would initialise the devices of JAX, which takes their memory. So its numbers are read where
    `jax.distributed.initialize` has put them.
    """
    state = getattr(sys.modules.get("jax._src.distributed"), "global_state", None)
    if state is None or getattr(state, "client", None) is None:
        return None
    return Ranks(state.process_id, state.num_processes, "jax.distributed")


def _is_task() -> bool:
    """Returns whether `srun` has started this process as one of the tasks of a step.

    A shell of `salloc` or a script of `sbatch` has the variables of its job (SLURM_PROCID 0, SLURM_NTASKS 8), but is
    one process. So is a shell of `srun --pty`, whose further tasks have ended.
    """
    if not os.environ.get("SLURM_STEP_ID") or not os.environ.get(_SLURM.world_size):
        return False
    return not (os.environ.get("SLURM_PTY_PORT") and os.isatty(0))


def _tasks_of_node(tasks: str) -> str:
    """Returns the number of tasks on this machine. tasks: of each machine, as Slurm writes them, such as "4(x2),1"."""
    node = os.environ.get("SLURM_NODEID", "0")
    number = int(node) if node.isdecimal() else 0
    for part in tasks.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if not found:
            break
        number -= int(found[2] or 1)
        if number < 0:
            return found[1]
    return ""


def _number(name: str, least: int) -> int:
    """Returns the value of an environment variable, `least` if it is empty. Raises ConfigError."""
    text = os.environ.get(name, "")
    if not text:
        return least
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < least:
        raise ConfigError(f"the environment variable {name} must be a whole number of at least {least}, got {text!r}")
    return value


def _describe_doubt(found: Ranks, other: Ranks) -> str:
    return (
        f"this process is rank {found.rank} of {found.world_size} by {found.origin}, but rank {other.rank} of "
        f"{other.world_size} by {other.origin}: {found.origin} is used; set rank and world_size in source_config "
        "if that is wrong"
    )
