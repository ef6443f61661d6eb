"""The checks of the GPU report that have a verdict, each in small, on a real GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("cuda"), pytest.mark.timeout(180)]


@pytest.mark.parametrize(
    "check", ["hardware", "parity", "hazard", "handoff", "faults", "faults-by-kind", "memory", "encode"]
)
def test_the_check_passes(run_report: Callable[..., tuple[dict[str, Any], str, int]], check: str) -> None:
    result, printed, status = run_report("cuda", check)
    assert status == 0, printed
    assert result["checks"][0]["status"] in ("pass", "info")
