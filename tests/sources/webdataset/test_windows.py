"""The memory that decompressors ask for: counted by the first bytes of a shard, and shared without a deadlock."""

from __future__ import annotations

import io
import lzma
import tarfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datago_gpu.sources.reference import SampleRef, Skipped
from datago_gpu.sources.webdataset.budget import GivenUp
from datago_gpu.sources.webdataset.windows import MOST_WINDOW, SMALL_WINDOW, Windows, xz_window, zstd_window
from tests.support.bounds import MiB, peak_of
from tests.support.shards import keys, listed, tar_bytes
from tests.support.zstd import zstd_of_window


@pytest.mark.parametrize("window_log", [10, 17, 23, 27])
@pytest.mark.parametrize("skipped", [b"", b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd" * 2])
def test_the_window_of_zstd_is_told_by_the_first_bytes(window_log: int, skipped: bytes) -> None:
    assert zstd_window((skipped + zstd_of_window([b"x" * 5000], window_log))[:64]) == 1 << window_log


@pytest.mark.parametrize("preset", range(10))
def test_the_dictionary_of_xz_is_told_by_the_first_bytes(preset: int) -> None:
    sizes = [256, 1024, 2048, 4096, 4096, 8192, 8192, 16384, 32768, 65536]
    assert xz_window(lzma.compress(b"x" * 1000, preset=preset)[:64]) == sizes[preset] * 1024


def test_the_dictionary_of_a_block_with_sizes_is_told() -> None:
    plain = lzma.compress(b"x" * 1000, preset=6)
    block = bytes([plain[12], 0b11000000, 0x85, 0x01, 0xE8, 0x07, 0x21, 0x01, 22])
    assert xz_window(plain[:12] + block) == 8 * MiB


@given(st.binary(max_size=64))
def test_what_tells_nothing_counts_as_the_most(head: bytes) -> None:
    assert 0 <= xz_window(b"\xfd7zXZ\0" + head) <= MOST_WINDOW
    assert zstd_window(b"\x28\xb5\x2f\xfd" + head) >= 0


@settings(max_examples=50)
@given(
    st.lists(st.integers(1, 150), min_size=1, max_size=12),
    st.integers(1, 4),
    st.sampled_from([1, 100, 400]),
    st.data(),
)
def test_every_shard_gets_its_window_in_its_turn(
    sizes: list[int], count: int, capacity: int, data: st.DataObject
) -> None:
    """Each keeps its window until its turn has come and gone, as a shard does whose samples nobody takes yet."""
    windows, done = Windows(capacity), [threading.Event() for _ in sizes]
    held, most, lock = [0], [0], threading.Lock()

    def unpack(number: int) -> None:
        windows.take(number, sizes[number], lambda: False)
        with lock:
            held[0] += sizes[number]
            most[0] = max(most[0], held[0])
        assert done[number].wait(10)
        with lock:
            held[0] -= sizes[number]
        windows.give_back(sizes[number])

    threads = [threading.Thread(target=unpack, args=(number,)) for number in range(len(sizes))]
    for number in data.draw(st.permutations(range(len(sizes)))):
        threads[number].start()
    for turn in range(0, len(sizes), count):
        windows.let(turn + count)
        for number in range(turn, min(turn + count, len(sizes))):
            done[number].set()
            threads[number].join(10)
            assert not threads[number].is_alive()
    assert most[0] <= max(capacity, max(sizes)) + count * max(sizes)


def test_a_shard_that_is_closed_waits_no_longer() -> None:
    windows, gone, ended = Windows(10), threading.Event(), threading.Event()
    windows.take(0, 10, lambda: False)

    def wait() -> None:
        with pytest.raises(GivenUp):
            windows.take(1, 10, gone.is_set)
        ended.set()

    thread = threading.Thread(target=wait)
    thread.start()
    gone.set()
    windows.wake()
    assert ended.wait(10)
    thread.join()


def wide_shard(path: Path) -> None:
    """A few KB that ask for a window of 128 MiB, and use it."""
    name = path.name[0]
    pad = tarfile.TarInfo(f"{name}.bin")
    pad.size = 130 * MiB
    head = tar_bytes([(f"{name}.jpg", b"x" * 100)])[:1024]
    path.write_bytes(zstd_of_window([head, pad.tobuf(), *[bytes(MiB)] * 130, bytes(1024)], 27))


def read_wide(root: str) -> None:
    assert keys(f"{root}/{{0..4}}.tar.zst", buffer_mb=16) == list("01234")


def test_shards_with_wide_windows_take_turns(tmp_path: Path) -> None:
    """Five at once took 640 MiB: the one whose turn it is, and one that is ahead, take 256."""
    for number in range(5):
        wide_shard(tmp_path / f"{number}.tar.zst")
    assert peak_of(read_wide, str(tmp_path)) < 400


def test_a_window_beyond_the_most_is_refused(tmp_path: Path) -> None:
    good, wide = tar_bytes([("a.jpg", b"x")]), zstd_of_window([tar_bytes([("b.jpg", b"x")])], 28)
    (tmp_path / "0.tar.zst").write_bytes(zstd_of_window([good], 20))
    (tmp_path / "1.tar.zst").write_bytes(wide)
    found = listed(f"{tmp_path}/{{0..1}}.tar.zst")
    assert isinstance(found[1], Skipped)
    assert "a window of 268435456 bytes, at most 134217728 are allowed" in found[1].detail


def test_frames_behind_the_first_may_not_ask_for_more(tmp_path: Path) -> None:
    data = tar_bytes([(f"{number}.jpg", bytes([number]) * 5000) for number in range(9)])
    for name, window_log in (("narrow", 23), ("wide", 27)):
        packed = zstd_of_window([data[:9000]], 17) + zstd_of_window([data[9000:]], window_log)
        (tmp_path / f"{name}.tar.zst").write_bytes(packed)
    assert keys(tmp_path / "narrow.tar.zst") == [str(number) for number in range(9)]
    assert SMALL_WINDOW == 1 << 23
    first, lost = listed(tmp_path / "wide.tar.zst")
    assert isinstance(first, SampleRef)
    assert isinstance(lost, Skipped)
    assert "Frame requires too much memory" in lost.detail


def test_xz_of_the_highest_preset_is_read(tmp_path: Path) -> None:
    out = io.BytesIO()
    with lzma.open(out, "w", preset=9) as file:
        file.write(tar_bytes([("a.jpg", b"x"), ("b.jpg", b"y")]))
    for number in range(3):
        (tmp_path / f"{number}.tar.xz").write_bytes(out.getvalue())
    assert keys(f"{tmp_path}/{{0..2}}.tar.xz", buffer_mb=16) == list("ababab")
