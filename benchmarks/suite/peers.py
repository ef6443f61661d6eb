"""Who takes part: programs in ../peers, each run by an interpreter that has what it needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["LIMITS", "OURS", "PEERS", "PROGRAMS", "STALL_S", "VARIANTS", "Peer", "Stalled", "find", "printed", "run"]

PROGRAMS = Path(__file__).parent.parent / "peers"
BENCH_VENV = Path(__file__).parent.parent.parent / ".venv-bench" / "bin" / "python"
TIMEOUT_S = 300
STALL_S = 20.0
"""Seconds without a batch, after which a contestant counts as stalled and no longer as slow."""


class Stalled(RuntimeError):
    """A contestant delivered no batch for longer than the limit, and was ended."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One contestant.

    program: its file, less "_peer.py". kinds: those of the workloads it takes part in; cannot: why not in the others.
    only: the one workload that it is of interest in. options: of its own, in every run. stall_s: the longest wait that
    is no stall; 0 where all comes at the end.
    """

    name: str
    program: str
    kinds: tuple[str, ...]
    cannot: str = ""
    only: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    stall_s: float = STALL_S
    python: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    missing: str = ""


OURS = Peer("datago_gpu", "ours", ("files", "shards", "dataroom", "million", "payloads"))
VARIANTS = (
    Peer("datago_gpu, no draft", "ours", ("files",), only="2.5mp-512", options={"draft": False}),
    Peer("datago_gpu, interleave 8", "ours", ("shards",), options={"source": {"interleave": 8}}),
    Peer("datago_gpu, 1 download process", "ours", ("payloads",), options={"http": {"download_processes": 1}}),
    Peer("datago_gpu, 2 download processes", "ours", ("payloads",), options={"http": {"download_processes": 2}}),
)
PEERS = (
    Peer("datago", "datago", ("files", "shards", "dataroom", "million")),
    Peer("torch DataLoader + Pillow", "torch", ("files", "million"), "it reads local files"),
    Peer("webdataset", "webdataset", ("shards",), "it reads shards"),
    Peer("SPDL", "spdl", ("files", "million"), "its own loading functions read local files"),
    Peer("LitData, raw files", "litdata", ("files",), "it reads files, and shards of a format of its own"),
    Peer("torch DataLoader + torchcodec", "torchcodec", ("files",), "it decodes; torch reads local files"),
    Peer("Grain", "grain", ("files",), "its sources of images read local files"),
    Peer("Mosaic Streaming", "streaming", ("files",), "it reads shards of a format of its own, here local ones"),
    Peer("DALI, CPU", "dali", ("files", "million"), "its CPU readers read local files"),
)
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": "268435456", "MALLOC_MMAP_THRESHOLD_": "33554432"}
"""glibc then keeps what a picture leaves free; else a process of one thread gives it back each time (7% of 2.5 MP)."""
LIMITS = (
    Peer("limit: aiohttp alone", "aiohttp", ("shards", "dataroom", "payloads"), stall_s=0),
    Peer("limit: decoding from RAM", "ram", ("files", "shards", "dataroom"), environment=KEEP_MEMORY, stall_s=0),
)


def find(peer: Peer, pythons: dict[str, str]) -> Peer:
    """The contestant with its interpreter: the one given for it or for all, else this one, else that of .venv-bench."""
    tried: dict[str, Any] = {}
    for python in (pythons.get(peer.program), pythons.get(""), sys.executable, str(BENCH_VENV)):
        if python and Path(python).exists():
            said = _described(python, peer.program)
            if "versions" in said:
                return replace(peer, python=python, versions=said["versions"])
            tried = tried or said
    missing = f"{tried.get('missing', peer.program)}: {tried.get('reason', 'no interpreter')}"
    return replace(peer, missing=missing)


@cache
def _described(python: str, program: str) -> dict[str, Any]:
    return _answer(printed([python, str(PROGRAMS / f"{program}_peer.py"), "--describe"]))


def run(peer: Peer, spec: dict[str, Any], within: tuple[str, ...] = (), timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """One run. Raises Stalled, and RuntimeError with its last words."""
    own, more = peer.options, spec.get("options", {})
    options = {**own, **more, "source": {**own.get("source", {}), **more.get("source", {})}}
    program, whole = PROGRAMS / f"{peer.program}_peer.py", {"stall_s": peer.stall_s, **spec, "options": options}
    return _answer(printed([*within, peer.python, str(program), json.dumps(whole)], peer.environment, timeout_s))


def _answer(text: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(text.splitlines()[-1])
    return answer


def printed(
    command: list[str],
    more: dict[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
    folder: Path | None = None,
) -> str:
    """Runs a program, with more environment variables, in a folder or here, and returns what it printed.

    Raises Stalled, and RuntimeError with its last words.
    """
    ranked = ("RANK", "WORLD_SIZE")
    environment = {name: value for name, value in os.environ.items() if name not in ranked} | (more or {})
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, env=environment, cwd=folder, check=False
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"not done after {timeout_s:.0f} s") from None
    if done.returncode and done.stderr.startswith("Timeout ("):  # faulthandler's first word
        raise Stalled(done.stderr)
    if done.returncode:
        raise RuntimeError("\n".join(done.stderr.strip().splitlines()[-4:]))
    return done.stdout
