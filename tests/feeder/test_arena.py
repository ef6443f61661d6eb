"""The ring of memory: pieces never overlap, and what is given back is used again."""

from __future__ import annotations

import gc
import mmap
import os

import psutil
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from datago_gpu.feeder.arena import ALIGNMENT, Ring, aligned, create, map_memory

SIZE = 100


class RingMachine(RuleBasedStateMachine):
    """Takes and gives back in any order; `used` is what a plain map of pieces would know."""

    def __init__(self) -> None:
        super().__init__()
        self.ring = Ring(SIZE)
        self.used: dict[int, range] = {}
        self.order: list[int] = []
        self.next_key = 0

    @rule(size=st.integers(1, SIZE))
    def take(self, size: int) -> None:
        key, self.next_key = self.next_key, self.next_key + 1
        offset = self.ring.take(key, size)
        if offset is None:
            assert self.order, "an empty ring has room for anything"
            return
        piece = range(offset, offset + size)
        assert piece.start >= 0
        assert piece.stop <= SIZE
        for other in self.used.values():
            assert piece.stop <= other.start or other.stop <= piece.start
        self.used[key] = piece
        self.order.append(key)

    @precondition(lambda self: self.used)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.used)))
        self.ring.give_back(key)
        del self.used[key]
        while self.order and self.order[0] not in self.used:
            self.order.pop(0)

    @rule()
    def give_all_back(self) -> None:
        for key in sorted(self.used, reverse=True):
            self.ring.give_back(key)
        self.used.clear()
        self.order.clear()
        assert self.ring.take(self.next_key, SIZE) == 0, "all of it can be had in one piece"
        self.ring.give_back(self.next_key)
        self.next_key += 1

    @invariant()
    def knows_how_many_are_out(self) -> None:
        assert len(self.ring) == len(self.used)


TestRing = RingMachine.TestCase
TestRing.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_pieces_follow_each_other_and_wrap_round() -> None:
    ring = Ring(100)
    assert [ring.take(key, 30) for key in range(4)] == [0, 30, 60, None]
    ring.give_back(0)
    assert ring.take(4, 31) is None
    assert ring.take(5, 30) == 0
    assert ring.take(6, 1) is None


def test_a_piece_that_is_returned_early_makes_room_once_the_older_ones_are_back() -> None:
    ring = Ring(100)
    for key in range(2):
        ring.take(key, 50)
    ring.give_back(1)
    assert ring.take(2, 50) is None
    assert len(ring) == 1
    ring.give_back(0)
    assert ring.take(3, 100) == 0


def test_more_than_all_of_it_never_fits() -> None:
    assert Ring(100).take(0, 101) is None


@given(st.integers(0, 10**12))
def test_aligned_is_the_next_multiple(size: int) -> None:
    assert 0 <= aligned(size) - size < ALIGNMENT
    assert aligned(size) % ALIGNMENT == 0


def test_both_sides_see_the_same_memory_and_no_descriptor_stays() -> None:
    before = psutil.Process().num_fds()
    descriptor = create(2 * mmap.PAGESIZE)
    assert not os.get_inheritable(descriptor)
    copy = os.dup(descriptor)
    ours, theirs = map_memory(descriptor), map_memory(copy)
    ours[5000:5004] = b"abcd"
    assert theirs[5000:5004] == b"abcd"
    assert len(theirs) == 2 * mmap.PAGESIZE
    ours.close()
    theirs.close()
    gc.collect()
    assert psutil.Process().num_fds() == before
