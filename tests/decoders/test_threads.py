"""How many threads decode."""

from __future__ import annotations

import os

import pytest

from datago_gpu.config import DecodeConfig
from datago_gpu.decoders.threads import decoding_threads, gpu_threads


@pytest.mark.parametrize(
    ("cpus", "processes", "expected"),
    [(4, "", 4), (64, "", 16), (64, "8", 8), (192, "8", 16), (2, "8", 1), (64, "0", 16), (64, "many", 16)],
)
def test_a_gpu_is_helped_by_the_share_of_its_process(
    monkeypatch: pytest.MonkeyPatch, cpus: int, processes: str, expected: int
) -> None:
    """Each thread costs memory of the GPU: with 192 CPUs it would be 3 GiB, for each process."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert gpu_threads(DecodeConfig()) == expected
    assert gpu_threads(DecodeConfig(), mask=True) == max(1, expected // 2)
    assert decoding_threads(DecodeConfig()) == max(1, cpus // (8 if processes == "8" else 1))


def test_the_setting_holds_for_all() -> None:
    decode = DecodeConfig(threads=7)
    assert (decoding_threads(decode), gpu_threads(decode), gpu_threads(decode, mask=True)) == (7, 7, 7)
