"""The budget for bad samples: what is counted, what is logged and listed, and when a run ends."""

from __future__ import annotations

import json
import logging
import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datago_gpu import ConfigError, Loader, TooManyErrors
from datago_gpu.loader.skips import KEPT, SHARE_FROM, Skips
from datago_gpu.sources.reference import Skipped
from tests.support.images import add_pictures, file_config


def bad(count: int, reason: str = "truncated", first: int = 0) -> list[Skipped]:
    numbers = range(first, first + count)
    return [Skipped(number, f"id{number}", f"/data/{number}.jpg", reason, "cut at 10") for number in numbers]


def test_skips_are_counted_by_reason() -> None:
    failures = Skips(None)
    failures.add([*bad(3), *bad(2, "empty")])
    failures.add(bad(1))
    assert dict(failures.by_reason) == {"truncated": 4, "empty": 2}


def test_in_lockstep_a_few_bad_samples_say_nothing_about_the_data() -> None:
    """Of a small validation set, a rank may have a single sample."""
    few, many = Skips(None, judged_from=100), Skips(None, judged_from=100)
    few.add(bad(99))
    few.check(0, final=True)
    few.check(0, final=True, fruitless=True)
    many.add(bad(100))
    with pytest.raises(TooManyErrors):
        many.check(0, final=True)


def test_the_first_of_each_reason_warns_and_the_others_are_for_debugging(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "datago_gpu"):
        Skips(None).add([*bad(3), *bad(1, "empty", first=9)])
    assert [record.levelname for record in caplog.records] == ["WARNING", "DEBUG", "DEBUG", "WARNING"]
    assert caplog.records[0].getMessage() == "skipped sample 'id0' (/data/0.jpg): truncated: cut at 10"


@given(st.integers(0, 20), st.integers(0, 40), st.integers(0, 1000))
def test_a_count_is_the_number_of_bad_samples_that_are_allowed(allowed: int, count: int, delivered: int) -> None:
    failures = Skips(allowed)
    failures.add(bad(count))
    assert raises(failures, delivered, final=False) == (count > allowed)


@given(st.floats(0, 0.99), st.integers(0, 300), st.integers(0, 300), st.booleans())
def test_a_share_is_looked_at_from_the_100th_sample_on_and_at_the_end(
    allowed: float, count: int, delivered: int, final: bool
) -> None:
    failures = Skips(allowed)
    failures.add(bad(count))
    seen = count + delivered
    expected = count > allowed * seen and (final or seen >= SHARE_FROM)
    assert raises(failures, delivered, final=final) == (expected or (final and count > 0 and not delivered))


def test_without_a_bound_only_a_run_in_which_all_was_bad_is_an_error() -> None:
    failures = Skips(None)
    failures.add(bad(1000))
    failures.check(0)
    failures.check(1, final=True)
    with pytest.raises(TooManyErrors, match="1000 of 1000 samples were bad"):
        failures.check(0, final=True)


def test_a_run_that_goes_on_may_find_only_bad_ones_left() -> None:
    """Else a run whose last samples are bad would fail after every restart."""
    failures = Skips(None, delivered_before=1)
    failures.add(bad(3))
    failures.check(0, final=True)
    with pytest.raises(TooManyErrors, match="3 of 3 samples were bad"):
        failures.check(0, final=True, fruitless=True)


def test_samples_that_drop_last_leaves_out_are_good() -> None:
    failures = Skips(None)
    failures.add(bad(1))
    failures.check(0, final=True, dropped=56)
    with pytest.raises(TooManyErrors, match=r"1 of 57 samples were bad \(1 truncated\); drop_last left out 56"):
        failures.check(0, final=True, fruitless=True, dropped=56)


def test_a_run_without_samples_is_no_error() -> None:
    for allowed in (None, 0, 0.0):
        Skips(allowed).check(0, final=True)


def test_the_error_says_how_many_of_which_kind_and_shows_the_last_ones() -> None:
    failures = Skips(4)
    failures.add([*bad(3, "empty"), *bad(12, first=3)])
    with pytest.raises(TooManyErrors) as caught:
        failures.check(5)
    lines = str(caught.value).splitlines()
    assert lines[0] == (
        "15 of 20 samples were bad (12 truncated, 3 empty); max_failures is 4; the last bad ones:"
    )  # the most frequent first
    assert [error.id for error in caught.value.last] == [f"id{number}" for number in range(15 - KEPT, 15)]
    assert lines[-1].strip() == "sample 'id14' (/data/14.jpg): truncated: cut at 10"


def raises(failures: Skips, delivered: int, *, final: bool) -> bool:
    try:
        failures.check(delivered, final=final)
    except TooManyErrors:
        return True
    return False


def entries(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_skip_is_a_line_of_the_file_as_soon_as_it_is_known(tmp_path: Path) -> None:
    path = tmp_path / "skipped.jsonl"
    failures = Skips(None, str(path))
    assert path.read_text() == ""
    failures.add([Skipped(3, "a\n\u00e9", "/data/a", "truncated", 'cut "here"', 2)])
    assert entries(path) == [
        {"id": "a\n\u00e9", "reason": "truncated", "detail": 'cut "here"', "where": "/data/a", "epoch": 2}
    ]
    failures.add(bad(2))
    assert [entry["id"] for entry in entries(path)] == ["a\n\u00e9", "id0", "id1"]


def test_the_file_is_added_to_by_further_runs_and_ranks(tmp_path: Path) -> None:
    path = tmp_path / "skipped.jsonl"
    ranks = [Skips(None, str(path)) for _ in range(2)]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda rank: [rank.add(bad(1)) for _ in range(100)], ranks))
    assert len(entries(path)) == 200


@pytest.mark.parametrize("name", ["nowhere/skipped.jsonl", "", "pipe", "a\0b"])
def test_a_file_that_cannot_be_written_is_an_error_before_anything_starts(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")  # nobody reads it
    with pytest.raises(ConfigError, match=r"skipped_file '.*' cannot be written: |is not a path: "):
        Loader(file_config(tmp_path, skipped_file=f"{tmp_path}/{name}"), device="cpu")
    assert not psutil.Process().children()


def test_a_full_disk_warns_once_and_does_not_stop_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in add_pictures(tmp_path, [(40, 40)] * 200)[:190]:
        (tmp_path / name).write_bytes(b"no image")
    with Loader(file_config(tmp_path, skipped_file="/dev/full"), device="cpu") as loader:
        assert sum(map(len, loader)) == 10
        assert loader.stats().skipped == {"unknown-format": 190}
    warnings = [record.getMessage() for record in caplog.records if "skipped_file" in record.getMessage()]
    assert warnings == ["cannot write to skipped_file /dev/full, samples are missing there: No space left on device"]


def test_after_a_line_that_was_cut_the_next_begins_on_its_own(tmp_path: Path) -> None:
    """A file may grow to so many bytes and no more, for a while, as on a disk that is full."""
    path = tmp_path / "skipped.jsonl"
    failures = Skips(None, str(path))
    failures.add(bad(1))
    size = path.stat().st_size
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 9, allowed[1]))
    try:
        failures.add(bad(1, first=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
    failures.add(bad(1, first=2))
    first, cut, last = path.read_text().splitlines()
    assert (json.loads(first)["id"], len(cut), json.loads(last)["id"]) == ("id0", 9, "id2")


def test_what_a_killed_trainer_had_learned_is_in_the_file(tmp_path: Path) -> None:
    root, path = tmp_path / "images", tmp_path / "skipped.jsonl"
    for name in add_pictures(root, [(40, 40)] * 12)[1::3]:
        (root / name).write_bytes(b"no image")
    code = """
import os, sys
from datago_gpu import Loader
from tests.support.images import file_config
loader = Loader(file_config(sys.argv[1], skipped_file=sys.argv[2]), device="cpu")
for batch in loader: pass
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code, root, path], cwd=Path(__file__).parents[2], timeout=30)
    assert done.returncode == -9
    assert [entry["id"] for entry in entries(path)] == [f"{number:04}.jpg" for number in (1, 4, 7, 10)]
