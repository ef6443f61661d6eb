"""Whatever a trainer does with batches and streams: no memory goes back while it is read, and in the end all does."""

from __future__ import annotations

import gc
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datago_gpu.decoders import parking as parking_module
from datago_gpu.decoders.device import lend
from datago_gpu.decoders.parking import Parking
from tests.decoders.fakecuda import LEGACY, PER_THREAD, FakeGpu, FakeStream, Memory, install

READERS = (
    "default", "per thread", "cupy", "another of cupy", "torch", "foreign to torch", "jax", "no order",
    "__cuda_array_interface__",
)  # fmt: skip


class World:
    """A trainer, its frameworks, and a loader's parking on one GPU."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.gpu = FakeGpu()
        install(patch, self.gpu)
        self.kept: list[Any] = []
        patch.setattr(parking_module, "_KEPT_FOR_EVER", self.kept)
        self.gpu.contexts = {0, 1}
        self.parking = Parking(0)
        self.held: list[tuple[Any, Any, int]] = []
        """What the trainer holds: an array, the token of its memory, and the stream that reads it."""
        self.handles = {"default": LEGACY, "per thread": PER_THREAD}
        self.handles |= {name: self.gpu.new_stream() for name in READERS[4:]}
        self.cupy = {name: FakeStream(self.gpu) for name in READERS[2:4]}
        torch = SimpleNamespace(is_initialized=lambda: True, current_stream=lambda _: self.torch)
        patch.setitem(sys.modules, "torch", SimpleNamespace(cuda=torch))
        self.torch = SimpleNamespace(cuda_stream=0, stream_id=0)

    def take(self, reader: str) -> None:
        """Take a batch, and make an array of it that `reader` reads."""
        memory = Memory(self.gpu)
        batch = lend(self.parking, memory)
        handle = self._select(reader)
        if reader == "__cuda_array_interface__":
            array = batch
            assert batch.__cuda_array_interface__
        else:
            array = batch.__dlpack__(stream={"no order": -1, "jax": self.handles["torch"]}.get(reader, handle))
        self.held.append((array, memory.token, handle))

    def _select(self, reader: str) -> int:
        """Make a stream the current one of its framework."""
        self.gpu.current_stream = SimpleNamespace(ptr=0)
        self.torch = SimpleNamespace(cuda_stream=0, stream_id=0)
        if reader in self.cupy:
            self.gpu.current_stream = self.cupy[reader]
            return int(self.cupy[reader].ptr)
        handle = self.handles[reader]
        if "torch" in reader:
            self.torch = SimpleNamespace(cuda_stream=handle, stream_id=7 if reader == "torch" else handle)
        return handle

    def read(self, index: int) -> None:
        if self.held:
            _, token, handle = self.held[index % len(self.held)]
            if handle not in self.gpu.destroyed | self.gpu.capturing:
                self.gpu.read(token, handle)

    def drop(self, index: int) -> None:
        if self.held:
            del self.held[index % len(self.held)]
            gc.collect(0)

    def destroy(self, which: str) -> None:
        """Let go of a stream, and make another one."""
        if which in self.cupy:
            self.gpu.current_stream = SimpleNamespace(ptr=0)
            self.cupy[which] = FakeStream(self.gpu)
        else:
            self.gpu.destroyed.add(self.handles[which])
            self.handles[which] = self.gpu.new_stream()

    def run(self, index: int) -> None:
        self.gpu.run(list(self.gpu.queued)[index % len(self.gpu.queued)], 1)

    def capture(self, on: bool) -> None:
        self.gpu.capturing = {int(self.cupy["cupy"].ptr)} if on else set()


def steps() -> st.SearchStrategy[list[tuple[str, Any]]]:
    numbers = st.integers(0, 30)
    return st.lists(
        st.one_of(
            st.tuples(st.just("take"), st.sampled_from(READERS)),
            st.tuples(st.sampled_from(["read", "drop", "run"]), numbers),
            st.tuples(st.just("destroy"), st.sampled_from(["cupy", "another of cupy", "foreign to torch"])),
            st.tuples(st.just("sweep"), st.none()),
            st.tuples(st.just("current"), st.sampled_from([0, 1])),
            st.tuples(st.just("broken"), st.booleans()),
            st.tuples(st.just("capture"), st.booleans()),
        ),
        max_size=40,
    )


@settings(max_examples=300, deadline=None)
@given(steps(), st.booleans())
def test_no_memory_goes_back_while_it_is_read_and_in_the_end_all_does(
    steps: list[tuple[str, Any]], closed_first: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        world = World(patch)
        gpu = world.gpu
        for name, argument in steps:
            if name == "sweep":
                world.parking.sweep()
            elif name in ("current", "broken"):
                setattr(gpu, name, argument)
            elif not (gpu.broken and name in ("take", "read")):
                getattr(world, name)(argument)
            assert gpu.wrong == []
        gpu.broken, gpu.capturing = False, set()
        if closed_first:
            world.parking.close()
        world.held.clear()
        gpu.current_stream = None
        gc.collect(0)
        world.parking.close()
        assert (gpu.wrong, Memory.alive, world.kept) == ([], 0, [])
