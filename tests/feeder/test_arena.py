"""The room in the shared memory: pieces never overlap, and what is given back is used again."""

from __future__ import annotations

import contextlib
import gc
import mmap
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from datago_gpu.feeder.arena import Allocator, create, map_memory
from datago_gpu.units import ALIGNMENT, aligned

SIZE = 100


class RoomMachine(RuleBasedStateMachine):
    """Takes and gives back in any order; `free` is the memory byte by byte."""

    def __init__(self) -> None:
        super().__init__()
        self.room = Allocator(SIZE)
        self.pieces: dict[int, range] = {}
        self.free = bytearray(b"." * SIZE)

    @rule(size=st.integers(1, SIZE), key=st.integers())
    def take(self, size: int, key: int) -> None:
        if key in self.pieces:
            return
        offset = self.room.take(key, size)
        lowest = self.free.find(b"." * size)
        assert offset == (None if lowest < 0 else lowest)
        if offset is not None:
            self.pieces[key] = range(offset, offset + size)
            self.free[offset : offset + size] = b"x" * size

    @precondition(lambda self: self.pieces)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.pieces)))
        self.room.give_back(key)
        piece = self.pieces.pop(key)
        self.free[piece.start : piece.stop] = b"." * len(piece)

    @rule()
    def give_all_back(self) -> None:
        for key in sorted(self.pieces, reverse=True):
            self.room.give_back(key)
        self.pieces.clear()
        self.free = bytearray(b"." * SIZE)
        assert self.room.take(0, SIZE) == 0, "all of it can be had in one piece"
        self.room.give_back(0)

    @invariant()
    def knows_how_many_are_out(self) -> None:
        assert len(self.room) == len(self.pieces)
        assert len(self.free) == SIZE, "no piece was outside"


TestRoom = RoomMachine.TestCase
TestRoom.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_the_lowest_place_that_fits_is_taken_first() -> None:
    room = Allocator(100)
    assert [room.take(key, 30) for key in range(4)] == [0, 30, 60, None]
    room.give_back(1)
    assert room.take(4, 31) is None
    assert room.take(5, 10) == 30
    assert room.take(6, 20) == 40


def test_more_than_all_of_it_is_an_error_since_it_never_fits() -> None:
    with pytest.raises(ValueError, match="101 bytes do not fit into a memory of 100"):
        Allocator(100).take(0, 101)


def test_what_is_not_taken_cannot_be_given_back() -> None:
    with pytest.raises(KeyError):
        Allocator(100).give_back(0)


@given(st.integers(0, 10**12))
def test_aligned_is_the_next_multiple(size: int) -> None:
    assert 0 <= aligned(size) - size < ALIGNMENT
    assert aligned(size) % ALIGNMENT == 0


def test_both_sides_see_the_same_memory_and_no_descriptor_stays() -> None:
    descriptor = create(2 * mmap.PAGESIZE)
    memory = os.fstat(descriptor)
    assert not os.get_inheritable(descriptor)
    copy = os.dup(descriptor)
    ours, theirs = map_memory(descriptor), map_memory(copy)
    ours[5000:5004] = b"abcd"
    assert theirs[5000:5004] == b"abcd"
    assert len(theirs) == 2 * mmap.PAGESIZE
    ours.close()
    theirs.close()
    gc.collect()
    assert not [each for each in _open_files() if os.path.samestat(each, memory)]


def _open_files() -> list[os.stat_result]:
    """What the descriptors of this process lead to. Those of other tests' loaders may end meanwhile."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.fstat(int(descriptor)))
    return found
