"""What others make of the same images on this machine, where they are installed."""

from __future__ import annotations

from tools.gpu_report import peers
from tools.gpu_report.context import Context
from tools.gpu_report.findings import Findings, NotHere


def run(context: Context, findings: Findings) -> None:
    for name in peers.PEERS:
        findings.part(name, _peer, context, findings, name)


def _peer(context: Context, findings: Findings, name: str) -> None:
    size, seconds = context.amount("1mp", "500px"), context.amount(2.0, 0.2)
    try:
        rate = peers.PEERS[name](context, size, seconds)
    except (ImportError, NotHere):
        raise
    except Exception as error:  # that another library does not run here, or has changed, is no failure of ours
        raise NotHere(f"did not run: {type(error).__name__}: {error}"[:200]) from error
    findings.add(f"{size}: {name}", str(rate))
