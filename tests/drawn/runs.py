"""Does what a script says, and has a judge look at all that comes. Nothing may take longer than WAIT_S."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec
import psutil

from datago_gpu import DatagoError, LoaderConfig
from tests.drawn.cases import Step
from tests.drawn.judges import Exact, Judge, Loosely
from tests.drawn.ways import Way
from tests.model import Order, Skip

__all__ = ["Run"]

WAIT_S = 60
"""For one batch, at most. The machine may be very busy."""

T = TypeVar("T")


class Run:
    """The loaders of one example, one after the other.

    order_of: the order that the model has for settings.
    """

    def __init__(self, config: LoaderConfig, way: Way, order_of: Callable[[LoaderConfig], Order]) -> None:
        self._config, self._way, self._order_of = config, way, order_of
        self._threads = ThreadPoolExecutor(1)
        self._told: Counter[Skip] = Counter()
        """What was left out before this loader, by the list that all loaders write."""
        self._passes = self._opened = 0
        """Passes that were begun, of all and of this object."""
        self._has_failed = False
        """Whether the pass has ended with an error."""
        self._killed = False
        """Whether a process of this loader was killed. Another one takes its place once."""
        self._judge: Judge

    def follow(self, script: list[Step]) -> None:
        """Do all of it, or as much as there is something left to do for."""
        try:
            self._within("open", lambda: self._way.open(None))
            self._begin_pass(0)
            for word, times in script:
                if not self._do(word, times):
                    break
        finally:
            self._within("close", self._way.close)
            self._threads.shutdown(wait=False)

    def _do(self, word: str, times: int) -> bool:
        """One step. False when nothing more is to come."""
        if word == "kill the feeder":
            self._kill(times)
        elif word == "close":
            self._close()
            return False
        elif word == "go on in another loader":
            self._go_on(new=True)
        elif word == "load the state":
            self._go_on(new=False)
        else:
            return self._take(word, times)
        return True

    def _take(self, word: str, times: int) -> bool:
        is_by_sample = not self._way.has_batches or (word == "samples" and self._way.has_samples)
        if is_by_sample:
            self._way.begin_samples()
        for _ in range(times):
            if not (self._take_sample() if is_by_sample else self._take_batch()) and not self._next_pass():
                return False
        return True

    def _take_batch(self) -> bool:
        got, error = self._asked("a batch", self._way.batch)
        self._judge.batch(got)
        self._epoch = got.epoch if got else self._epoch
        return got is not None or self._end(error)

    def _take_sample(self) -> bool:
        got, error = self._asked("a sample", self._way.sample)
        epoch = self._way.state()["resume"]["position"]["epoch"] if self._way.has_states else 0
        self._judge.sample(got, epoch)
        return got is not None or self._end(error)

    def _asked(self, what: str, take: Callable[[], T | None]) -> tuple[T | None, str]:
        """What comes, or with which error the stream ends."""
        try:
            return self._within(what, take), ""
        except DatagoError as error:
            # That nothing passes is a ConfigError if no sample has a name that the expression uses.
            return None, "SourceError" if "source_config.where" in str(error) else type(error).__name__

    def _end(self, error: str) -> bool:
        """Nothing may come any more. What is bad has been told of. False."""
        found = self._newly_told()
        self._judge.end(error if self._way.has_states else None, found)  # a client only logs errors
        self._has_failed = bool(error)
        assert self._way.loader is not None
        stats = self._way.loader.stats()
        assert stats.skipped == dict(Counter(reason for _, _, reason in found.elements()))
        if isinstance(self._judge, Exact):
            assert error or stats.filtered == self._judge.filtered
            assert stats.flawed == self._judge.flawed
        assert self._within("nothing after the end", lambda: next(self._way.loader, None)) is None
        return False

    def _next_pass(self) -> bool:
        """False where there is none."""
        if self._has_failed or self._passes >= self._way.passes:
            return False
        self._way.next_pass()
        self._begin_pass(self._epoch + 1)
        return True

    def _begin_pass(self, epoch: int) -> None:
        """A pass that begins with this epoch, of ways that count epochs."""
        config = self._config
        if self._way.passes > 1:  # each is a stream of its own
            if not self._way.has_states:
                config, epoch = msgspec.structs.replace(config, seed=config.seed + self._opened), 0
            elif config.epochs is not None:
                config = msgspec.structs.replace(config, epochs=epoch + 1)
        self._passes, self._opened = self._passes + 1, self._opened + 1
        self._killed = self._has_failed = False
        self._epoch = epoch
        self._judge = (Exact if config.ordered else Loosely)(config, self._order_of(config), epoch)

    def _go_on(self, *, new: bool) -> None:
        if not self._way.has_states:
            self._start_over(new=new)
            return
        state = json.loads(json.dumps(self._way.state()))
        self._within("close", self._way.close)
        self._judge.middle(self._newly_told())
        assert state["resume"]["delivered"] == self._judge.delivered
        self._judge.go_on()
        self._killed = False
        self._within("going on", lambda: (self._way.open if new else self._way.load)(state))

    def _start_over(self, *, new: bool) -> None:
        """A client has no states."""
        self._within("close", self._way.close)
        self._judge.middle(self._newly_told())
        self._opened = 0 if new else self._opened
        self._within("a new start", lambda: (self._way.open if new else self._way.load)(None))
        self._begin_pass(0)

    def _close(self) -> None:
        """In the middle: nothing comes any more."""
        self._within("close", self._way.close)
        if (loader := self._way.loader) is not None:
            assert self._within("nothing after a close", lambda: _whatever_comes(loader)) == []
            assert self._within("nothing after a close", lambda: _whatever_comes(loader.samples())) == []
        self._judge.middle(self._newly_told())

    def _kill(self, number: int) -> None:
        """The feeder, or a process that downloads for it or decodes. Once a loader: the second time is an error."""
        if (loader := self._way.loader) is None or self._killed:
            return
        pids = [loader.feeder_pid, *loader.download_pids, *loader.decode_pids]
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            process = psutil.Process(pids[number % len(pids)])
            if os.getpid() in [each.pid for each in process.parents()]:
                process.send_signal(signal.SIGKILL)
                self._killed = True

    def _newly_told(self) -> Counter[Skip]:
        """What was left out since this was asked last."""
        assert self._config.skipped_file is not None
        entries = map(json.loads, Path(self._config.skipped_file).read_text().splitlines())
        told = Counter((entry["epoch"], entry["id"], entry["reason"]) for entry in entries)
        found, self._told = told - self._told, told
        return found

    def _within(self, what: str, call: Callable[[], T]) -> T:
        """What the call returns. A loader that does not answer is closed, so that its thread ends."""
        waiting = self._threads.submit(call)
        try:
            return waiting.result(WAIT_S)
        except TimeoutError:
            told = self._where_it_hangs(what)
            self._way.close()
            raise AssertionError(told) from None

    def _where_it_hangs(self, what: str) -> str:
        lines = [f"nothing for {WAIT_S} s; awaited was: {what}"]
        if (loader := self._way.loader) is not None:
            lines.append(str(loader.stats()))
            for pid in (loader.feeder_pid, *loader.download_pids, *loader.decode_pids):
                with suppress(psutil.Error):
                    process = psutil.Process(pid)
                    lines.append(f"process {pid}: {process.status()}, {process.cpu_times()}")
        stacks = ["".join(traceback.format_stack(frame)[-4:]) for frame in sys._current_frames().values()]
        return "\n".join([*lines, *stacks])


def _whatever_comes(batches: Iterable[T]) -> list[T]:
    """All that is iterated over. A loader that has delivered all of its samples says so."""
    try:
        return list(batches)
    except DatagoError as error:
        if "has delivered all its samples" not in str(error):
            raise
        return []
