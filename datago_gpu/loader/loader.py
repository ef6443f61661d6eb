"""`Loader`: connects the settings, the feeder process, the decoding thread and the trainer that iterates."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import wraps
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar

from datago_gpu.config import ConfigLike, LoaderConfig
from datago_gpu.config.limits import Limits, waiting_batches
from datago_gpu.decoders.select import Backend, choose
from datago_gpu.errors import DatagoError, SourceError, TooManyErrors
from datago_gpu.feeder.wire import Number, Resume
from datago_gpu.loader.assembly_maker import assembly_maker, make_pool
from datago_gpu.loader.class_names import ClassNames
from datago_gpu.loader.decode_thread import Ready, Worker, wrap_unexpected
from datago_gpu.loader.handoff import Ended, Handoff
from datago_gpu.loader.planning import Plans
from datago_gpu.loader.row_setup import load_config, make_row_thread
from datago_gpu.loader.run_stats import RunStats
from datago_gpu.loader.skips import Skips
from datago_gpu.loader.state import check_on_change, resume_from, state_of
from datago_gpu.loader.steps import progress_of
from datago_gpu.loader.supervisor import Supervisor
from datago_gpu.system import refuse_system

if TYPE_CHECKING:
    from pathlib import Path

    from datago_gpu.batch import Batch, Sample
    from datago_gpu.loader.given_rows import GivenRows
    from datago_gpu.loader.mix_counts import MixCounts
    from datago_gpu.loader.row_thread import RowThread
    from datago_gpu.loader.stats import Stats
    from datago_gpu.loader.trace_window import TraceWindow

__all__ = ["Loader"]

log = logging.getLogger("datago_gpu")

CLOSE_S = 0.8
"""Together with the feeder's KILL_S this keeps close() below one second. If an image is still being decoded then, the
thread finishes in the background."""
ROWS_CLOSE_S = 0.2
"""How many of these seconds `close` waits for the thread that reads the program's own rows. If the program's code takes
longer, the thread ends by itself afterwards."""

_OpenBatch: TypeAlias = "tuple[Batch, list[Number], int]"
"""A batch, the numbers of its samples, and how many of them `samples()` has yielded."""

R = TypeVar("R")


def _raises_datago_errors(method: Callable[[Loader], R]) -> Callable[[Loader], R]:
    """Makes a method raise only DatagoError: any other error becomes the cause of one."""

    @wraps(method)
    def call(self: Loader) -> R:
        try:
            return method(self)
        except (DatagoError, StopIteration):
            raise
        except Exception as error:
            raise wrap_unexpected("the loader", error) from error

    return call


class Loader(Plans, ClassNames):
    """Streams batches. Loading starts in the constructor. Iterate once, then close the loader, or use it in a `with`.

    config: a LoaderConfig, a dict, JSON text, or the path of a JSON or YAML file.
    device: "auto" or None (a GPU if there is one), "cuda", "cuda:1", "cpu", the index of a GPU, or a torch.device.
    backend: "auto" or None, "dali", or "pillow" (CPU only).
    state: a `state_dict` to resume from, as with `load_state_dict`, but without starting twice.
    source: rows of the program's own, in place of a source that the config names: a sequence, an iterable or an
        iterator of `Row`, or a function that is given the epoch and returns an iterable. One thread of this process,
        "datago-rows", reads the rows; docs/sources/own-rows.md has the details.
    on_change: what to do if the data has changed since the state was saved. "refuse": the first batch raises
        ConfigError, which names the change. "accept": the loader warns and continues with the data as it is now.

    After a `for` over batches or over `samples()` is left early, the next `for` continues where it stopped. Once all
    samples are delivered, a further `for` raises DatagoError: set `epochs` to the number of passes (`batch.epoch` tells
    which one it is), or use a `LoaderDataset`, of which each iteration is a pass. Any thread may call next(), one at a
    time. Bad samples are skipped, not raised; `stats` counts them.

    Raises ConfigError at once if the settings cannot work. Iterating raises SourceError, FeederError or TooManyErrors,
    each after everything loaded before it has been delivered.

    >>> config = {
    ...     "source_type": "file",
    ...     "source_config": {"root_path": "photos", "random_sampling": True},
    ...     "image_config": {"crop_and_resize": True, "default_image_size": 256},
    ...     "batch_size": 4,
    ... }
    >>> with Loader(config, device="cpu") as loader:
    ...     batch = next(loader)
    ...     state = loader.state_dict()
    >>> with Loader(config, device="cpu", state=state) as loader:
    ...     rest = [sample.id for batch in loader for sample in batch]
    >>> len(batch), len(rest)
    (4, 12)
    """

    def __init__(
        self,
        config: ConfigLike,
        device: object = "auto",
        backend: str | None = "auto",
        *,
        state: dict[str, Any] | None = None,
        source: object = None,
        on_change: str = "refuse",
    ) -> None:
        refuse_system()
        self._on_change = check_on_change(on_change)
        loaded, self._source = load_config(config, source)
        self.config = loaded.resolve()
        self.backend: Backend = choose(device, backend)
        """The back end that decodes, its device, and why it was chosen."""
        self._taking = threading.Lock()
        self._begun: _OpenBatch | None = None
        self._process = os.getpid()
        self._at_close: list[Callable[[], None]] = []
        self._start(Resume() if state is None else resume_from(self.config, state, self._on_change))

    def __iter__(self) -> Iterator[Batch]:
        self._refuse_second_run()
        return _Batches(self)

    @_raises_datago_errors
    def __next__(self) -> Batch:
        """Returns the next batch, or the rest of the batch in which `samples` was left."""
        self._refuse_other_processes()
        with self._taking:
            batch, numbers, taken = self._current_batch()
            self._begun = None
            self._progress.deliver(numbers[taken:], int((~batch.real[taken:]).sum()))
            if self._mix:
                self._mix.deliver(batch.mix[taken:], batch.pass_numbers[taken:], batch.real[taken:])
            return batch[taken:] if taken else batch

    def samples(self) -> Iterator[Sample]:
        """Yields the samples one by one. `state_dict` counts the samples yielded, also in the middle of a batch.

        If the iterator is left early, the next `samples()` or `for batch in loader` continues after the last sample
        yielded: the rest of its batch is returned first, as a shorter batch.
        """
        self._refuse_second_run()
        while True:
            self._refuse_other_processes()
            try:
                sample = self._next_sample()
            except StopIteration:
                return
            yield sample
            del sample  # otherwise the sample keeps its batch alive while we wait for the next one

    def stats(self) -> Stats:
        """Returns the counts so far, and the time that each stage waited."""
        return self._run_stats.stats()

    def open_trace(self, path: Path) -> TraceWindow:
        """Records what each stage does, until the window is closed. Use `datago_gpu.metrics.trace`."""
        from datago_gpu.loader.trace_window import TraceWindow  # few runs are ever traced

        return TraceWindow(path, self._worker, self._ready, self._run_stats)

    def call_at_close(self, function: Callable[[], None]) -> None:
        """Has a function called when the loader is closed, on the thread that closes it; at once if it is closed."""
        if self._stop.alive:
            self._at_close.append(function)
        else:
            function()

    def state_dict(self) -> dict[str, Any]:
        """Returns the position of the stream, in plain values for JSON. Every sample delivered so far counts as done.

        With server-side random draws (`random_method` "server") only the number of samples can be saved.
        """
        return state_of(self.config, self._progress.resume())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resumes from a `state_dict` of this loader, or of one with the same source, seed, rank and world size. With
        `lockstep`, rank, world size and batch size may differ.

        Samples that were delivered before are not loaded again. Raises ConfigError if the state belongs to another
        order of samples, or is not a state. Changed data is only noticed when the source has been listed: then the
        first batch raises ConfigError, unless `on_change` is "accept".
        """
        resume = resume_from(self.config, state, self._on_change)
        self._halt()
        self._start(resume)

    def close(self) -> None:
        """Stops loading and frees all resources. May be called more than once, in any state and on any thread.

        Batches that were delivered stay valid. Further iteration ends at once.
        """
        self._halt()
        while self._at_close:
            self._at_close.pop()()

    def _halt(self) -> None:
        self._stop()
        self._begun = None

    @property
    def feeder_pid(self) -> int:
        """Process id of the feeder, for example to monitor its memory or its threads."""
        return self._worker.pids[0]

    @property
    def download_pids(self) -> list[int]:
        """Process ids of the download processes (`http_config.download_processes`)."""
        return self._worker.pids[1:]

    @property
    def decode_pids(self) -> list[int]:
        """Process ids of the decode processes (`decode_config.processes`) that have started."""
        return self._pool.pids if self._pool else []

    @property
    def is_closing(self) -> bool:
        """After `close`: whether the decoding thread is still busy with an image. The thread ends by itself."""
        return self._worker.is_alive()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Loader({self.config.source_config!r}, backend={self.backend.name!r}, device={self.backend.device!r})"

    def _planned(self) -> tuple[LoaderConfig, GivenRows | None]:
        return self.config, self._source

    def _begin(self) -> Resume:
        return self._resumed

    def _current_epoch(self) -> int:
        return self._progress.epoch

    def _start(self, resume: Resume) -> None:
        config, self._resumed = self.config, resume
        self._progress = progress_of(config, resume)
        self._begun = None
        self._skips = Skips.of(config, resume)
        self._mix = _mix_counts(config, self._skips)
        self._fruitless = self._is_exhausted = False
        self._ready: Handoff[Ready] = Handoff(waiting_batches(config), Limits.of(config).pixels)
        rows = make_row_thread(config, resume, self._source)
        self._pool = make_pool(self.backend, config)
        feeder = Supervisor(config, resume, self._pool, rows)
        try:
            if rows:
                rows.start()
            make = assembly_maker(self.backend, config, self._pool)
            self._worker = Worker(feeder, make, self._ready)
            self._run_stats = RunStats(
                config, resume, self._worker, self._ready, self._progress, self._skips, self._mix, self._pool
            )
            self._worker.start()
        except BaseException as error:
            feeder.close()
            feeder.dispose()
            if isinstance(error, RuntimeError):  # the process has too many threads already
                raise wrap_unexpected("the start of the loader's threads", error) from error
            raise
        self._stop = weakref.finalize(self, _stop, self._worker, rows, self._process)

    def __reduce__(self) -> str:
        raise DatagoError("a Loader cannot be sent to another process: create it in the process that iterates over it")

    def _refuse_other_processes(self) -> None:
        """Raises DatagoError in a forked process.

        Call this before taking any lock: in a fork, a lock that another thread held stays locked for ever.
        """
        if os.getpid() != self._process:
            raise DatagoError(
                "this Loader was created in another process: create it in the process that iterates over it"
            )

    def _refuse_second_run(self) -> None:
        """Raises DatagoError if all samples were delivered: a loop over the epochs would silently run only once."""
        if self._is_exhausted:
            epochs, limit = self.config.epochs, self.config.limit
            had = f"epochs is {epochs}" + (f", limit is {limit}" if limit else "")
            raise DatagoError(
                f"this Loader has delivered all its samples ({had}): set epochs to the number of passes, or to None "
                "for no end; or use datago_gpu.torch.LoaderDataset, of which each iteration is the next pass"
            )

    @_raises_datago_errors
    def _next_sample(self) -> Sample:
        with self._taking:
            batch, numbers, taken = self._current_batch()
            self._begun = (batch, numbers, taken + 1) if taken + 1 < len(numbers) else None
            sample = batch[taken]
            self._progress.deliver([numbers[taken]], int(not sample.real))
            if self._mix:
                self._mix.deliver([sample.mix], [sample.pass_number], [sample.real])
            return sample

    def _current_batch(self) -> _OpenBatch:
        """Returns the batch that `samples` has begun, else the next one. Raises StopIteration at the end."""
        if self._begun is not None and self._stop.alive:
            return self._begun
        ready = self._next_ready()
        assert ready.batch is not None
        return ready.batch, ready.numbers, 0

    def _next_ready(self) -> Ready:
        """Returns the next item that has a batch, and counts how long the trainer waits for it. Raises StopIteration at
        the end."""
        self._run_stats.ask()
        ready = self._next_with_batch()
        self._run_stats.take()
        return ready

    def _next_with_batch(self) -> Ready:
        while True:
            ready = self._get()
            if ready.mark is not None:
                self._progress.begin(ready.mark)
            self._skips.add(ready.skipped)
            for notice in ready.notices:
                log.log(notice.level, "%s", notice.text)
            self._progress.skip(ready.skipped)
            self._fruitless, self._run_stats.dropped = ready.fruitless, ready.dropped
            self._check_skips(final=False)
            self._skips.note(ready.flaws)
            if ready.batch is not None:
                return ready

    def _get(self) -> Ready:
        try:
            return self._ready.get()
        except Ended:
            self._run_stats.end()
            if self._stop.alive:  # otherwise `close` ended the queue
                self._check_skips(final=True)
                self._is_exhausted = True
            raise StopIteration from None
        except DatagoError:
            self._run_stats.end()
            self.close()  # after one error, the check at the end must not raise another
            raise

    def _check_skips(self, *, final: bool) -> None:
        try:
            delivered, dropped = self._run_stats.delivered, self._run_stats.dropped
            self._skips.check(delivered, final=final, fruitless=self._fruitless, dropped=dropped)
        except (TooManyErrors, SourceError):
            self.close()
            raise


class _Batches:
    """Iterates over the batches of a loader. `iter` of an iterator that has ended must not raise: `islice` calls it."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        return next(self._loader)


def _mix_counts(config: LoaderConfig, skips: Skips) -> MixCounts | None:
    """Returns the counts of the sources of a mix; None without a mix."""
    if config.source_type != "mix":
        return None
    from datago_gpu.loader.mix_counts import MixCounts  # other streams start sooner without this import

    return MixCounts(config, skips)


def _stop(worker: Worker, rows: RowThread | None, process: int) -> None:
    if os.getpid() != process:  # a forked process shares the feeder's socket and must not shut it down
        return
    worker.stop()
    begin = time.monotonic()
    if rows and rows is not threading.current_thread():
        rows.join(ROWS_CLOSE_S)
    if worker is not threading.current_thread():
        worker.join(max(0.0, begin + CLOSE_S - time.monotonic()))
