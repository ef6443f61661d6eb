"""Files of entries: whole or not used, whatever happens to them, and never more of them than there is room for."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datago_gpu.sources.cache.cache_entry import BLOCK, Entry, head_bytes, size_on_disk
from datago_gpu.sources.cache.entry_files import EntryFiles, NewEntry, Unusable
from datago_gpu.sources.cache.payload_name import PayloadName, payload_name
from datago_gpu.sources.cache.shared_room import SharedRoom

MUCH = 2**40


def name(text: object, version: str = "") -> PayloadName:
    return payload_name(f"http://host/{text}", None, version)


def files_in(folder: Path) -> list[Path]:
    """The files of entries, finished or not."""
    return sorted(path for path in folder.glob("??/*"))


def taken_in(folder: Path) -> int:
    return sum(size_on_disk(path.stat().st_size) for path in files_in(folder))


def counted_in(folder: Path) -> int:
    return int.from_bytes((folder / "room").read_bytes()[:8], "little")


@pytest.mark.parametrize("length", [1, 2, 4096, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
def test_a_payload_comes_back_as_it_was(tmp_path: Path, length: int) -> None:
    files, room, payload = EntryFiles(str(tmp_path)), SharedRoom(str(tmp_path), MUCH), os.urandom(length)
    assert files.read(name("a"), MUCH, MUCH) is None
    files.write(room, name("a", "1"), payload, replaces=False)
    assert files.read(name("a"), MUCH, MUCH) == files.read(name("a", "1"), length, length) == payload
    assert files.read(name("a"), length - 1, MUCH) is None
    entry = files.read(name("a"), MUCH, length - 1)
    assert isinstance(entry, Entry)
    assert (entry.length, b"".join(entry.block(number) for number in range(len(entry.sums)))) == (length, payload)
    assert counted_in(tmp_path) == taken_in(tmp_path) == size_on_disk(head_bytes(length) + length)
    assert [path.stat().st_mode & 0o777 for path in files_in(tmp_path)] == [0o600]


def test_another_version_is_unusable_and_replaced(tmp_path: Path) -> None:
    files, room = EntryFiles(str(tmp_path)), SharedRoom(str(tmp_path), 4096)
    files.write(room, name("a", "1"), b"old", replaces=False)
    with pytest.raises(Unusable) as told:
        files.read(name("a", "2"), MUCH, MUCH)
    assert not told.value.damaged
    files.write(room, name("a", "2"), b"new", replaces=False)
    assert files.read(name("a", "1"), MUCH, MUCH) == b"old"
    files.write(room, name("a", "2"), b"new", replaces=True)  # there is room for one
    assert files.read(name("a", "2"), MUCH, MUCH) == files.read(name("a"), MUCH, MUCH) == b"new"
    assert counted_in(tmp_path) == taken_in(tmp_path) == 4096


@settings(max_examples=40)
@given(st.data())
def test_a_damaged_file_is_never_used_and_makes_room_for_a_good_one(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Cut, with a bit turned, longer, with another entry's content, empty."""
    folder = tmp_path_factory.mktemp("cache")
    length = data.draw(st.sampled_from([1, 100, 5000, BLOCK, BLOCK + 7, 2 * BLOCK]))
    files, room, payload = EntryFiles(str(folder)), SharedRoom(str(folder), MUCH), os.urandom(length)
    files.write(room, name("a"), payload, replaces=False)
    (path,) = files_in(folder)
    before = path.read_bytes()
    kind = data.draw(st.sampled_from(["cut", "turn", "longer", "swap", "empty"]))
    if kind == "cut":
        path.write_bytes(before[: data.draw(st.integers(0, len(before) - 1))])
    elif kind == "turn":
        at, bit = data.draw(st.integers(0, len(before) - 1)), data.draw(st.integers(0, 7))
        path.write_bytes(before[:at] + bytes((before[at] ^ (1 << bit),)) + before[at + 1 :])
    elif kind == "longer":
        path.write_bytes(before + b"x")
    elif kind == "swap":
        files.write(room, name("b"), os.urandom(length), replaces=False)
        (other,) = (each for each in files_in(folder) if each != path)
        path.write_bytes(other.read_bytes())
        other.unlink()
    else:
        path.write_bytes(bytes(len(before)))
    try:
        found = files.read(name("a"), MUCH, MUCH)
    except Unusable:
        found = None
    assert found is None
    files.write(room, name("a"), payload, replaces=True)
    assert files.read(name("a"), MUCH, MUCH) == payload


def test_first_come_until_the_room_is_full_and_what_is_there_stays(tmp_path: Path) -> None:
    files, room = EntryFiles(str(tmp_path)), SharedRoom(str(tmp_path), 5 * 4096)
    for number in range(9):
        files.write(room, name(number), b"x" * 4000, replaces=False)
    assert [files.read(name(number), MUCH, MUCH) is not None for number in range(9)] == [True] * 5 + [False] * 4
    assert counted_in(tmp_path) == taken_in(tmp_path) == 5 * 4096
    assert files.too_large == 4096


def test_what_another_is_writing_is_left_to_it(tmp_path: Path) -> None:
    files, room = EntryFiles(str(tmp_path)), SharedRoom(str(tmp_path), MUCH)
    new = files.begin(room, name("a"), 3, replaces=False)
    assert new
    assert files.begin(room, name("a"), 3, replaces=False) is None
    new.add(b"abc")
    assert files.read(name("a"), MUCH, MUCH) is None
    new.finish()
    new.drop()
    assert files.begin(room, name("a"), 3, replaces=False) is None
    assert files.read(name("a"), MUCH, MUCH) == b"abc"


@pytest.mark.parametrize("end", ["drop", "forgotten", "short"])
def test_an_entry_that_is_not_finished_leaves_nothing(tmp_path: Path, end: str) -> None:
    files, room = EntryFiles(str(tmp_path)), SharedRoom(str(tmp_path), MUCH)
    new = files.begin(room, name("a"), 10, replaces=False)
    assert new
    new.add(b"12345")
    if end == "short":
        new.finish()
    if end != "forgotten":
        new.drop()
        new.add(b"67890")
        new.finish()
        assert counted_in(tmp_path) == 0
    del new
    assert files_in(tmp_path) == []


def test_a_count_looks_only_at_folders_that_have_changed(tmp_path: Path) -> None:
    files, room = EntryFiles(str(tmp_path)), SharedRoom(str(tmp_path), MUCH)
    for number in range(30):
        files.write(room, name(number), b"x" * 5000, replaces=False)
    del room
    used = [path for path in tmp_path.iterdir() if path.is_dir()]
    for folder in used:
        os.utime(folder, ns=(1, time.time_ns() - 10**10))
    assert SharedRoom(str(tmp_path), MUCH)
    assert counted_in(tmp_path) == taken_in(tmp_path) == 30 * 8192
    for path in files_in(tmp_path):  # grows without a change of its folder: nobody looks
        path.write_bytes(b"x" * 9000)
    assert SharedRoom(str(tmp_path), MUCH)
    assert counted_in(tmp_path) == 30 * 8192
    os.utime(used[0])
    assert SharedRoom(str(tmp_path), MUCH)
    assert counted_in(tmp_path) == 30 * 8192 + 4096 * len(list(used[0].iterdir()))


def test_a_folder_in_use_is_not_counted_again(tmp_path: Path) -> None:
    """The files that others are writing must stay, and so must the room that they have taken."""
    files, room = EntryFiles(str(tmp_path)), SharedRoom(str(tmp_path), MUCH)
    new = files.begin(room, name("a"), 3, replaces=False)
    assert new
    other = SharedRoom(str(tmp_path), MUCH)
    assert counted_in(tmp_path) == 4096
    new.add(b"abc")
    new.finish()
    other.give_back(1)
    assert counted_in(tmp_path) == 4095
    assert EntryFiles(str(tmp_path)).read(name("a"), MUCH, MUCH) == b"abc"


def test_after_the_folder_was_deleted_nothing_is_written_to_its_old_count(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    files, room = EntryFiles(str(folder)), SharedRoom(str(folder), MUCH)
    files.write(room, name("a"), b"abc", replaces=False)
    entry = files.open(name("a"))
    folder.rename(tmp_path / "gone")
    for path in files_in(tmp_path / "gone"):
        path.unlink()
    (tmp_path / "gone" / "room").unlink()
    assert entry
    assert entry.content() == b"abc"  # who reads goes on
    assert files.read(name("a"), MUCH, MUCH) is None
    for _ in range(2):  # without the folder, and with a new one
        with pytest.raises(FileNotFoundError):
            files.write(room, name("a"), b"abc", replaces=False)
        folder.mkdir(exist_ok=True)
    assert files_in(folder) == []


@settings(max_examples=40)
@given(st.data())
def test_whatever_several_processes_do_the_room_is_kept_and_counted(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Entries are begun, finished, dropped, forgotten and replaced in any order, by users who come and go."""
    folder = tmp_path_factory.mktemp("cache")
    capacity = 4096 * data.draw(st.integers(1, 8))
    _do_anything(folder, capacity, data)  # all of its users are gone when it returns
    room = SharedRoom(str(folder), capacity)
    assert counted_in(folder) == taken_in(folder)
    assert room.take(capacity - taken_in(folder))
    assert not room.take(1)


DOING = ["begin", "begin", "replace", "finish", "finish", "drop", "forget", "restart"]


def _do_anything(folder: Path, capacity: int, data: st.DataObject) -> None:
    rooms = [SharedRoom(str(folder), capacity) for _ in range(2)]
    files, open_entries = EntryFiles(str(folder)), list[tuple[int, bytes, NewEntry]]()
    for what in data.draw(st.lists(st.sampled_from(DOING), max_size=25)):
        if what in ("begin", "replace"):
            number, content = data.draw(st.integers(0, 5)), bytes(data.draw(st.sampled_from([1, 4000, 9000])))
            room = rooms[data.draw(st.integers(0, len(rooms) - 1))]
            new = files.begin(room, name(number), len(content), replaces=what == "replace")
            if new:
                new.add(content)
                open_entries.append((number, content, new))
        elif what == "restart":
            rooms = [*rooms[1:], SharedRoom(str(folder), capacity)]
        elif open_entries:
            number, content, new = open_entries.pop(data.draw(st.integers(0, len(open_entries) - 1)))
            if what == "finish":
                new.finish()
                assert files.read(name(number), MUCH, MUCH) == content
            if what != "forget":
                new.drop()
            del new
        assert taken_in(folder) <= counted_in(folder) <= capacity


WRITER = """
import os, sys
from datago_gpu.sources.cache.entry_files import EntryFiles
from datago_gpu.sources.cache.payload_name import payload_name
from datago_gpu.sources.cache.shared_room import SharedRoom
folder, begin = sys.argv[1], int(sys.argv[2])
files, room = EntryFiles(folder), SharedRoom(folder, int(sys.argv[3]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(begin, begin + 100_000):
    new = files.begin(room, payload_name(f"http://host/{number}", None, ""), 3 * 2**19, replaces=False)
    if number == begin + 5:
        print("writing", flush=True)
    for size in (2**20, 2**19):
        if new:
            new.add(bytes((number % 256,)) * size)
    if new:
        new.finish()
        new.drop()
"""


def test_writers_that_are_killed_leave_whole_entries_and_a_right_count(tmp_path: Path) -> None:
    """Three processes write the same and different entries and are killed with SIGKILL in the middle."""
    capacity = 60 * 2**20
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [
        subprocess.Popen([*command, str(begin), str(capacity)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for begin in (0, 0, 50)
    ]
    for writer in writers:
        assert writer.stdout
        assert writer.stdout.readline() == b"ready\n"
    for writer in writers:
        assert writer.stdin
        writer.stdin.write(b"\n")
        writer.stdin.flush()
    for writer in writers:
        assert writer.stdout
        assert writer.stdout.readline() == b"writing\n"
    for writer in writers:
        writer.kill()
        writer.communicate()
    assert taken_in(tmp_path) <= counted_in(tmp_path) <= capacity
    (tmp_path / "ab").mkdir(exist_ok=True)
    (tmp_path / "ab" / "x.new").write_bytes(b"of a writer that was killed")
    files, room = EntryFiles(str(tmp_path)), SharedRoom(str(tmp_path), capacity)
    whole = 0
    for number in range(200):
        found = files.read(name(number), MUCH, MUCH)
        assert found in (None, bytes((number % 256,)) * (3 * 2**19))
        whole += found is not None
    assert whole >= 5
    assert len(files_in(tmp_path)) == whole  # nothing unfinished is left
    assert counted_in(tmp_path) == taken_in(tmp_path) <= capacity
    files.write(room, name("after"), b"abc", replaces=False)
    assert files.read(name("after"), MUCH, MUCH) == b"abc"


def _fifo(path: Path, _: Path) -> None:
    os.mkfifo(path)


def _linked(path: Path, before: Path) -> None:
    path.symlink_to(before)


def _loop(path: Path, _: Path) -> None:
    path.symlink_to(path.name)


def _folder(path: Path, _: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("put", [_fifo, _linked, _loop, _folder])
def test_what_is_no_file_is_no_entry_and_stops_nothing(tmp_path: Path, put: Callable[[Path, Path], None]) -> None:
    """A FIFO would be waited for without end. A folder stays: it may hold something."""
    files, room = EntryFiles(str(tmp_path)), SharedRoom(str(tmp_path), MUCH)
    files.write(room, name("a"), b"good", replaces=False)
    (path,) = files_in(tmp_path)
    put(path, path.rename(tmp_path / "before"))
    with pytest.raises(Unusable):
        files.read(name("a"), MUCH, MUCH)
    files.write(room, name("a"), b"good", replaces=True)
    files.write(room, name("b"), b"other", replaces=True)
    if put is _folder:
        assert path.is_dir()
    else:
        assert files.read(name("a"), MUCH, MUCH) == b"good"
    del room
    path.parent.joinpath("mine.new").mkdir()
    SharedRoom(str(tmp_path), MUCH)
    assert files.read(name("b"), MUCH, MUCH) == b"other"


def test_a_file_in_place_of_a_folder_of_entries_stops_nothing(tmp_path: Path) -> None:
    files, path = EntryFiles(str(tmp_path)), tmp_path / name("a").key.hex()[:2]
    path.write_text("mine")
    room = SharedRoom(str(tmp_path), MUCH)
    assert files.read(name("a"), MUCH, MUCH) is None
    files.write(room, name("a"), b"new", replaces=False)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE])
def test_an_entry_that_cannot_be_opened_now_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    assert EntryFiles(str(tmp_path)).read(name("a"), MUCH, MUCH) is None


def test_a_count_that_fails_does_not_lock_the_folder_for_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(SharedRoom, "_count", fail)
    with pytest.raises(OSError, match="no space") as kept:
        SharedRoom(str(tmp_path), MUCH)
    with (tmp_path / "users").open() as users:
        fcntl.flock(users, fcntl.LOCK_SH | fcntl.LOCK_NB)
    del kept


def test_a_folder_that_was_moved_and_made_anew_is_counted_by_its_new_number(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    old, files = SharedRoom(str(folder), 4096), EntryFiles(str(folder))
    folder.rename(tmp_path / "moved")
    files.write(SharedRoom(str(folder), 4096), name("a"), b"new", replaces=False)
    with pytest.raises(FileNotFoundError):
        files.write(old, name("b"), b"too many", replaces=False)
    assert counted_in(folder) == taken_in(folder) == 4096
