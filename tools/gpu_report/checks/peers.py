"""What others make of the same images on this machine, where they are installed: the programs of benchmarks/peers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from benchmarks.common import NotHere
from benchmarks.suite.peers import Peer, find
from benchmarks.suite.peers import run as run_peer
from benchmarks.suite.workloads import named
from tools.gpu_report.context import Context
from tools.gpu_report.findings import Findings
from tools.gpu_report.ram import encoded, read
from tools.gpu_report.rates import Rate

PEERS = (
    Peer("torch DataLoader, Pillow, all cores", "torch", ("files",)),
    Peer("datago, CPU", "datago", ("files",)),
    Peer("torchvision, from memory, decode only", "torchvision", ("decode",)),
    Peer("torchcodec, from memory, decode only", "torchcodec", ("decode",)),
    Peer("SPDL, from memory", "spdl_nvjpeg", ("decode",)),
)
"""The names say what each leaves out."""
IMAGES_A_CORE = 128


def run(context: Context, findings: Findings) -> None:
    size = context.amount("1mp", "500px")
    count = context.amount(IMAGES_A_CORE * len(os.sched_getaffinity(0)), 16)
    root = named(context.material / size, context.material / f"{size}-{count}", count)
    for peer in PEERS:
        findings.part(peer.name, _peer, context, findings, peer, size, root, count)


def _peer(context: Context, findings: Findings, peer: Peer, size: str, root: Path, count: int) -> None:
    peer = find(peer, {})
    if peer.missing:
        raise NotHere(peer.missing)
    side, batch = context.target(size)[0], context.amount(64, 4)
    spec = {"kind": peer.kinds[0], "count": count, "size": side, "batch": batch, "root": str(root),
            "device": context.device}  # fmt: skip
    try:
        made = run_peer(peer, spec, timeout_s=max(context.left_s(), 1.0))
    except RuntimeError as error:  # that another library does not run here, or has changed, is no failure of ours
        raise NotHere(f"did not run: {error}"[:200]) from error
    files = read(context.material / size)
    pixels = float(encoded(files, None).sizes.astype(np.int64).prod(axis=1).mean())
    # Once the first batch is there, where that is known: workers take long to start.
    first_s = made["first_s"] or 0.0
    images = made["images"] - (batch if first_s else 0)
    size_mean = sum(file.size for file in files) / len(files)
    rate = Rate(images, round(images * size_mean), round(images * pixels), made["seconds"] - first_s)
    findings.add(f"{size}: {peer.name}", str(rate))
