"""Which checks there are, in which order, and for how many seconds: what tells most first, what may do harm last."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CHECKS", "TOTAL_S", "Check"]


@dataclass(frozen=True, slots=True)
class Check:
    """seconds: what it may take, the start of its process included.

    entry: "MODULE:FUNCTION" of tools/gpu_report/checks; empty for `run` of the module that is named like the check.
    decides: where it fails, the report ends: no later check would mean anything.
    """

    seconds: float
    entry: str = ""
    decides: bool = False


CHECKS = {
    "smoke": Check(25, decides=True),
    "tests": Check(60),
    "hazard": Check(45),
    "limit": Check(45),
    "handoff": Check(15),
    "faults": Check(25),
    "training": Check(40),
    "hardware": Check(25),
    "parity": Check(25),
    "sweep": Check(20),
    "memory": Check(15),
    # So far in TOTAL_S. What follows may be cut: it runs where time is left, or with more --seconds.
    "limit-large": Check(60, "limit:large"),
    "faults-by-kind": Check(50, "faults:by_kind"),
    "peers": Check(40),
    "encode": Check(10),
    "training-others": Check(30, "training:others"),
    "hardware-by-kind": Check(25, "hardware:by_kind"),
    "parity-plain": Check(20, "parity:plain"),
    "sweep-all": Check(60, "sweep:every_size"),
    "hazard-unguarded": Check(10, "hazard:unguarded"),
}

TOTAL_S = 360.0
"""For the checks up to "memory", and 20 s for the photographs before them."""
