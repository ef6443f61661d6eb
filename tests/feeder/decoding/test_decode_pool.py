"""The trainer's ends of its decode processes, without any process behind them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

from datago_gpu import LoaderConfig
from datago_gpu.feeder.decoding.decode_pool import DecodersGone, Pool
from datago_gpu.feeder.decoding.plan_sizes import plan_for


@pytest.fixture
def pool() -> Iterator[Pool]:
    config = LoaderConfig.load({"source_type": "file", "source_config": {"root_path": "/"}, "batch_size": 4})
    made = Pool(plan_for(config, 2))
    yield made
    made.close()


def test_a_full_pipe_is_told_and_does_not_block(pool: Pool) -> None:
    with contextlib.ExitStack() as lent:
        tasks, _, _ = pool.connect(lent)
        sent = 0
        while pool.send(bytes(4096)):
            sent += 1
        assert sent > 1
        os.read(tasks, 4096)
        assert pool.send(bytes(4096))


def test_nobody_at_the_other_end_is_told_by_receive(pool: Pool) -> None:
    with contextlib.ExitStack() as lent:
        pool.connect(lent)
    assert pool.send(b"task")
    with pytest.raises(DecodersGone):
        pool.receive()
    pool.wait_for_end()


def test_a_pool_that_was_woken_stays_awake(pool: Pool) -> None:
    """`wake` may come while a feeder is replaced."""
    pool.wake()
    with contextlib.ExitStack() as lent:
        pool.connect(lent)
        with pytest.raises(DecodersGone):
            pool.receive()


def test_a_closed_pool_names_no_process(pool: Pool) -> None:
    pool.close()
    assert pool.pids == []
    assert pool.cpu_s == 0
    pool.close()
