"""Traces a window of time of a run: the trainer's process and the feeder, in the format of Chrome's trace viewer."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from datago_gpu.errors import ConfigError
from datago_gpu.loader.assembly import Assembly
from datago_gpu.loader.decode_thread import Ready, Worker
from datago_gpu.loader.handoff import Handoff
from datago_gpu.loader.run_stats import RunStats
from datago_gpu.tracing import Event, Recorder, track_of_thread
from datago_gpu.wait import Wait

__all__ = ["TraceWindow"]

log = logging.getLogger("datago_gpu")

_FEEDER_S = 5.0
"""How long the feeder's events are awaited at the end."""
_LOOK_S = 0.01


class TraceWindow:
    """Records one run of a Loader from its creation to `close`, which writes the file. There is one at a time."""

    _open = threading.Lock()

    def __init__(self, path: Path, worker: Worker, ready: Handoff[Ready], run_stats: RunStats) -> None:
        """path: of the file, absolute. Raises ConfigError if it cannot be written, or if another window is open."""
        if not self._open.acquire(blocking=False):
            raise ConfigError("another trace is under way in this process: end it before the next one begins")
        try:
            path.open("wb").close()
        except OSError as error:
            self._open.release()
            raise ConfigError(f"the trace {str(path)!r} cannot be written: {error.strerror or error}") from error
        self._path, self._worker, self._run_stats = path, worker, run_stats
        self._waits = (worker.wait, ready.put_wait, ready.get_wait)
        self._feeder_pid, self._of_feeder = worker.pids[0], Path(f"{path}.feeder-{worker.pids[0]}")
        self._submitted: dict[int, float] = {}
        self._began = time.perf_counter()
        self._recorder = Recorder()
        self._recorder.wrap_waits(self._track_of)
        self._recorder.wrap(Assembly, "submit", self._note_submit)
        self._recorder.wrap(Assembly, "collect", self._note_collect)
        self._recorder.wrap(RunStats, "ask", self._note_step)
        worker.trace(str(self._of_feeder))

    def close(self) -> None:
        """Ends the window and writes the file, or warns that it cannot. Waits for the feeder's events, up to 5 s."""
        self._recorder.close()
        self._open.release()
        ended = time.perf_counter()
        self._worker.trace("")
        events = [(os.getpid(), event) for event in self._recorder.events]
        events += [(self._feeder_pid, event) for event in self._events_of_feeder()]
        shown = [(pid, event) for pid, event in events if event.ended > self._began and event.began < ended]
        rank = self._run_stats.rank
        names = {os.getpid(): f"trainer, rank {rank}", self._feeder_pid: f"feeder, rank {rank}"}
        rows = list(_rows(shown, names, self._began))
        try:
            self._path.write_bytes(msgspec.json.encode({"traceEvents": rows, "displayTimeUnit": "ms"}))
        except OSError as error:  # the training goes on, and an error of its own is not covered
            log.warning("the trace %s cannot be written: %s", str(self._path), error.strerror or error)

    def _track_of(self, wait: Wait) -> str | None:
        return track_of_thread() if any(wait is each for each in self._waits) else None

    def _note_submit(self, _owner: Any, arguments: tuple[Any, ...], _result: Any, began: float, _ended: float) -> None:
        if threading.current_thread() is self._worker:
            self._submitted[arguments[0].number] = began

    def _note_collect(self, _owner: Any, _arguments: tuple[Any, ...], result: Any, began: float, ended: float) -> None:
        if threading.current_thread() is not self._worker:
            return
        number = result.message.number
        began = self._submitted.pop(number, began)
        details: dict[str, int | str] = {"batch": number, "samples": len(result.message.lengths)}
        depth = max(1, _owner.depth)
        self._recorder.add(Event("decode", f"decode {number % depth}", began, ended, details))

    def _note_step(self, owner: Any, _arguments: tuple[Any, ...], _result: Any, began: float, _ended: float) -> None:
        if owner is self._run_stats and owner.step_began:
            self._recorder.add(Event("step", track_of_thread(), owner.step_began, began))

    def _events_of_feeder(self) -> Iterable[Event]:
        """Returns what the feeder has recorded; nothing if it has ended without writing it."""
        end = time.monotonic() + _FEEDER_S
        while time.monotonic() < end and not self._of_feeder.exists() and _is_running(self._feeder_pid):
            time.sleep(_LOOK_S)
        with suppress(OSError, msgspec.DecodeError):
            found = msgspec.json.decode(self._of_feeder.read_bytes(), type=list[Event])
            self._of_feeder.unlink()
            return found
        return []


def _is_running(pid: int) -> bool:
    """Returns whether a child process runs; one that has ended stays in /proc until its end is read."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _rows(events: Iterable[tuple[int, Event]], names: dict[int, str], begin: float) -> Iterator[dict[str, Any]]:
    """Yields the rows of the format: names of processes and tracks, and one row for each event, in microseconds."""
    for pid, name in names.items():
        yield {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": name}}
    tracks: dict[tuple[int, str], int] = {}
    for pid, event in sorted(events, key=lambda each: (each[0], each[1].track, each[1].began)):
        key = (pid, event.track)
        if key not in tracks:
            tracks[key] = len(tracks) + 1
            yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": tracks[key], "args": {"name": event.track}}
        began = max(event.began, begin)
        yield {
            "ph": "X",
            "name": event.stage,
            "cat": event.stage,
            "pid": pid,
            "tid": tracks[key],
            "ts": (began - begin) * 1e6,
            "dur": (event.ended - began) * 1e6,
            "args": event.details,
        }
