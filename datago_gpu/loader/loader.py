"""Joins the parts: settings, feeder process, decoder thread, and the trainer that iterates."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar

from datago_gpu.config import ConfigLike, LoaderConfig
from datago_gpu.config.limits import Limits
from datago_gpu.decode.select import Backend, choose
from datago_gpu.errors import DatagoError, TooManyErrors
from datago_gpu.feeder.wire import Number, Resume
from datago_gpu.loader.decode_thread import Ready, Worker, unexpected
from datago_gpu.loader.handoff import Ended, Handoff
from datago_gpu.loader.progress import Progress
from datago_gpu.loader.skips import Failures
from datago_gpu.loader.state import checked_on_change, resume_from, state_of
from datago_gpu.loader.stats import Stage, Stats
from datago_gpu.loader.supervisor import Supervisor

if TYPE_CHECKING:
    from datago_gpu.batch import Batch, Sample
    from datago_gpu.loader.assembly import Assembly

__all__ = ["Loader"]

log = logging.getLogger("datago_gpu")

CLOSE_S = 0.8
"""A second with KILL_S of the feeder. A decoder may take longer with a picture: its thread then ends by itself."""

_Begun: TypeAlias = "tuple[Batch, list[Number], int]"
"""A batch, the numbers of its samples, and how many of them were handed out one by one."""

R = TypeVar("R")


def _raising_ours(method: Callable[[Loader], R]) -> Callable[[Loader], R]:
    """Have a method raise errors of ours alone: a foreign one becomes the cause of a DatagoError."""

    @wraps(method)
    def call(self: Loader) -> R:
        try:
            return method(self)
        except (DatagoError, StopIteration):
            raise
        except Exception as error:
            raise unexpected("the loader", error) from error

    return call


class Loader:
    """Streams batches. Starts to load when it is made; iterate over it once, then close it, or use it in a `with`.

    config: a LoaderConfig, a dict, JSON text, or the path of a JSON or YAML file.
    device: "auto" or None (a GPU if there is one), "cuda", "cuda:1", "cpu", the index of a GPU, or a torch.device.
    backend: "auto" or None, "dali", or "pillow" (CPU only).
    state: a `state_dict` to go on from, as with `load_state_dict`, without starting twice.
    on_change: what to do where the data has changed since a state was saved: "refuse" raises ConfigError, with what has
        changed, in place of the first batch; "accept" warns and goes on with what is there.

    It is its own iterator: when a `for` over batches or over `samples()` is left early, the next one goes on where it
    stopped. Batches may be taken from any thread, by one at a time. Leaving bad samples out is not an error: see
    `stats`.

    Raises ConfigError at once where the settings cannot work; while iterating SourceError, FeederError and
    TooManyErrors, each after all that was loaded before has been handed out.

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
        on_change: str = "refuse",
    ) -> None:
        self._on_change = checked_on_change(on_change)
        self.config = LoaderConfig.load(config).settled()
        self.backend: Backend = choose(device, backend)
        """Which back end decodes, on which device, and why."""
        self._taking = threading.Lock()
        self._begun: _Begun | None = None
        self._process = os.getpid()
        self._start(Resume() if state is None else resume_from(self.config, state, self._on_change))

    def __iter__(self) -> Iterator[Batch]:
        return self

    @_raising_ours
    def __next__(self) -> Batch:
        """The next batch; where `samples` was left in the middle of one, the rest of that."""
        self._refuse_other_processes()
        with self._taking:
            batch, numbers, taken = self._at_hand()
            self._begun = None
            self._progress.deliver(numbers[taken:])
            return batch[taken:] if taken else batch

    def samples(self) -> Iterator[Sample]:
        """The samples one by one. `state_dict` then counts those yielded, also in the middle of a batch.

        When the iterator is left early, the next `samples()` or `for batch in loader` goes on behind the last sample
        that was yielded: the rest of its batch comes first, as a shorter batch.
        """
        while True:
            self._refuse_other_processes()
            try:
                sample = self._next_sample()
            except StopIteration:
                return
            yield sample
            del sample  # while the next one is waited for, it would keep its batch

    def stats(self) -> Stats:
        """Counts so far, and where the time went."""
        worker, seconds = self._worker, max((self._ended_at or time.perf_counter()) - self._began_at, 1e-9)
        stages = [
            Stage(name, count.items, count.items / seconds, count.waited_input_s / seconds,
                  count.waited_output_s / seconds)
            for name, count in worker.counts.stages.items()
        ]  # fmt: skip
        delivered = self._progress.delivered - self._delivered_before
        put_s, get_s = self._ready.waited_put_s / seconds, self._ready.waited_get_s / seconds
        stages.append(Stage("decode", worker.decoded, worker.decoded / seconds, worker.waited_s / seconds, put_s))
        stages.append(Stage("trainer", delivered, delivered / seconds, get_s, 0.0))
        skipped, cores = dict(self._failures.by_reason), worker.counts.cpu_s / seconds
        flawed = dict(self._failures.flaws_by_reason)
        passed_over = dict(worker.counts.passed_over)
        return Stats(
            delivered, skipped, worker.bytes, seconds, tuple(stages), cores, flawed, worker.rescued, passed_over,
            self._dropped,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, in plain values for JSON: what was handed out is done, the rest is to come.

        With server-side random draws (`random_method` "server") only the number of samples can be kept.
        """
        return state_of(self.config, self._progress.resume())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`, of this loader or one with the same source, seed, rank and world size.

        Samples that were handed out before are not loaded again. Raises ConfigError where the state is of another
        order of samples, or no state at all. Whether the data is still the same is known when it has been listed:
        where it is not, the first batch raises ConfigError, unless `on_change` is "accept".
        """
        resume = resume_from(self.config, state, self._on_change)
        self.close()
        self._start(resume)

    def close(self) -> None:
        """Stop loading and give everything back. May be called more than once, from any state and thread.

        Batches that were handed out stay valid. Iterating further ends at once.
        """
        self._stop()
        self._begun = None

    @property
    def feeder_pid(self) -> int:
        """Process id of the feeder, to watch its memory or its threads."""
        return self._worker.pids[0]

    @property
    def download_pids(self) -> list[int]:
        """Process ids of those that download for it: `http_config.download_processes`."""
        return self._worker.pids[1:]

    @property
    def is_closing(self) -> bool:
        """After `close`: whether its thread is still busy with a picture. It ends by itself."""
        return self._worker.is_alive()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Loader({self.config.source_config!r}, backend={self.backend.name!r}, device={self.backend.device!r})"

    def _start(self, resume: Resume) -> None:
        config = self.config
        self._progress = Progress(resume)
        self._begun = None
        self._delivered_before = resume.delivered
        listed = None if config.skipped_file is None else config.absolute(config.skipped_file)
        self._failures = Failures(config.max_failures, listed, delivered_before=resume.delivered)
        self._fruitless = False
        self._dropped = 0
        self._ready: Handoff[Ready] = Handoff(
            -(-config.samples_buffer_size // config.batch_size), Limits.of(config).pixels
        )
        self._began_at, self._ended_at = time.perf_counter(), 0.0
        backend, feeder = self.backend, Supervisor(config, resume)
        try:
            make = _maker(backend, config)
            self._worker = Worker(feeder, make, self._ready)
            self._worker.start()
        except BaseException as error:
            feeder.close()
            feeder.dispose()
            if isinstance(error, RuntimeError):  # there are too many threads already
                raise unexpected("the start of the decoding thread", error) from error
            raise
        self._stop = weakref.finalize(self, _stop, self._worker, self._process)

    def __reduce__(self) -> str:
        raise DatagoError("a Loader cannot be sent to another process: make it in the one that iterates over it")

    def _refuse_other_processes(self) -> None:
        """Before any lock: in a fork, a lock that another thread held stays locked for ever."""
        if os.getpid() != self._process:
            raise DatagoError("this Loader was made in another process: make it in the one that iterates over it")

    @_raising_ours
    def _next_sample(self) -> Sample:
        with self._taking:
            batch, numbers, taken = self._at_hand()
            self._begun = (batch, numbers, taken + 1) if taken + 1 < len(numbers) else None
            self._progress.deliver([numbers[taken]])
            return batch[taken]

    def _at_hand(self) -> _Begun:
        """The batch that `samples` has begun, else the next one. Raises StopIteration at the end."""
        if self._begun is not None and self._stop.alive:
            return self._begun
        ready = self._next_ready()
        assert ready.batch is not None
        return ready.batch, ready.numbers, 0

    def _next_ready(self) -> Ready:
        """The next item with a batch in it. Raises StopIteration at the end."""
        while True:
            ready = self._get()
            if ready.mark is not None:
                self._progress.begin(ready.mark)
            self._failures.add(ready.skipped)
            for notice in ready.notices:
                log.log(notice.level, "%s", notice.text)
            self._progress.skipped(ready.skipped)
            self._fruitless, self._dropped = ready.fruitless, ready.dropped
            self._check_failures(final=False)
            self._failures.note(ready.flaws)
            if ready.batch is not None:
                return ready

    def _get(self) -> Ready:
        try:
            return self._ready.get()
        except Ended:
            self._ended_at = self._ended_at or time.perf_counter()
            if self._stop.alive:  # else `close` has ended it
                self._check_failures(final=True)
            raise StopIteration from None
        except DatagoError:
            self._ended_at = time.perf_counter()
            self.close()  # one error is enough: the check at the end may not add another
            raise

    def _check_failures(self, *, final: bool) -> None:
        try:
            delivered = self._progress.delivered - self._delivered_before
            self._failures.check(delivered, final=final, fruitless=self._fruitless)
        except TooManyErrors:
            self.close()
            raise


def _stop(worker: Worker, process: int) -> None:
    if os.getpid() != process:  # a fork shares the feeder's socket, and must not shut it down
        return
    worker.stop()
    if worker is not threading.current_thread():
        worker.join(CLOSE_S)


def _maker(backend: Backend, config: LoaderConfig) -> Callable[[], Assembly]:
    """Imports what decodes, and numpy with it, and returns what makes the Assembly. Raises ConfigError.

    To be called once the feeder starts, which takes as long; and on the trainer's thread, since a fork in the middle of
    an import on another one gets half a module.
    """
    from datago_gpu.decode.decoders import load_decoder, make_decoder, make_placer
    from datago_gpu.decode.threads import pillow_threads
    from datago_gpu.imaging.allowance import Allowance
    from datago_gpu.loader.assembly import Assembly

    load_decoder(backend)

    def make() -> Assembly:
        memory = Allowance(Limits.of(config).decoding, pillow_threads(config.decode_config))
        return Assembly(
            lambda mask: make_decoder(
                backend, config.image_config, config.decode_config, config.batch_size, mask=mask, memory=memory
            ),
            make_placer(backend),
            config.source_config.optional_parts,
        )

    return make
