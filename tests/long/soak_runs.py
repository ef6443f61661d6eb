"""The runs of the soak: one that goes on all the time, and others that come and go. soak.py has the gates."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from datago_gpu import Batch, Loader
from tests.long.soak_catalog import Item
from tests.long.soak_watch import Watch

__all__ = ["DOWNLOADS", "VARIANTS", "Soak"]

KEY = "0123456789abcdef0123456789abcdef01234567"
VARIANTS: dict[str, dict[str, Any]] = {
    "listed": {},
    "shuffled": {"random_sampling": True, "shuffle_buffer": 300},
    "with parts": {"has_masks": "seg", "optional_latents": "vae", "require_embeddings": True},
}
LONG = "with parts"
"""The variant that streams all the time."""
EPOCHS = 2
"""The most that one of the others takes."""
DOWNLOADS = 32
WARM_S = 30.0
"""Seconds before memory is compared; a fifth of a shorter soak."""

Row = tuple[tuple[int, int] | None, tuple[str, ...], int]


class Soak:
    """What a soak finds. backend: "pillow" or "dali". processes: how many download for the long run."""

    def __init__(
        self, url: str, items: list[Item], backend: str, processes: int, seed: int, folder: Path, watch: Watch
    ) -> None:
        self.url, self.items, self.backend, self.processes, self.seed, self.folder, self.watch = (
            url, items, backend, processes, seed, folder, watch,
        )  # fmt: skip
        self.rng = random.Random(seed)
        self.problems: list[str] = []
        self.counts: Counter[str] = Counter()
        self.closes_s: list[float] = []
        self.expected: dict[str, list[list[Row]]] = {}
        """Variant -> what its first epochs bring."""
        self.stopping = threading.Event()
        self.warm_s = WARM_S
        self._numbers = itertools.count()

    def config(self, variant: str, processes: int = 0, **more: Any) -> dict[str, Any]:
        return {
            "source_config": {"api_url": self.url, "api_key": KEY, "page_size": 200, **VARIANTS[variant]},
            "image_config": {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 16},
            "http_config": {
                "concurrent_downloads": DOWNLOADS, "max_backoff_s": 0.1, "max_tries": 14, "max_payload_mb": 4,
                "stall_timeout_s": 1.0, "total_timeout_s": 20.0, "download_processes": processes,
            },
            "batch_size": 16, "prefetch_buffer_size": 512, "samples_buffer_size": 32, "arena_mb": 32,
            "seed": 7, "skipped_file": str(self.folder / f"skipped-{next(self._numbers)}.jsonl"),
            **more,
        }  # fmt: skip

    def load(self, config: dict[str, Any]) -> Loader:
        return Loader(config, device="cpu", backend=self.backend)

    def problem(self, text: str) -> None:
        """Note it, and say so at once."""
        self.problems.append(text)
        print(f"  WRONG: {text}", flush=True)

    def undisturbed(self, variant: str) -> None:
        """What is delivered while nothing goes wrong, held against the samples; all else is held against it."""
        config = self.config(variant, epochs=EPOCHS)
        epochs: list[list[Row]] = [[] for _ in range(EPOCHS)]
        with self.load(config) as loader:
            for batch in loader:
                epochs[batch.epoch].append(row_of(batch))
        self.expected[variant] = epochs
        good = [item.id for item in self.items if not self.reason(item, variant)]
        for rows in epochs:
            if sorted(name for _, ids, _ in rows for name in ids) != good:
                self.problem(f"{variant}: not every good sample exactly once without any fault")
            for bucket in {bucket for bucket, _, _ in rows} if variant != "shuffled" else ():
                inside = [name for at, ids, _ in rows if at == bucket for name in ids]
                if inside != sorted(inside):
                    self.problem(f"{variant}: bucket {bucket} is not in the order of the listing")
        self.check_skips(config, variant, EPOCHS, exactly=True)

    @staticmethod
    def reason(item: Item, variant: str) -> str:
        return item.parts_reason if variant == "with parts" else item.reason

    def check_skips(self, config: dict[str, Any], variant: str, epochs: int, *, exactly: bool) -> None:
        """Those of the first `epochs` epochs. exactly: none twice (a run that was resumed may tell of one again)."""
        file = Path(config["skipped_file"])
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        file.unlink()
        found = Counter((line["epoch"], line["id"], line["reason"]) for line in lines if line["epoch"] < epochs)
        wanted = {(epoch, item.id, self.reason(item, variant))
                  for epoch in range(epochs) for item in self.items if self.reason(item, variant)}  # fmt: skip
        self.counts["skipped"] += len(found)
        if found.keys() != wanted:
            odd = sorted(found.keys() ^ wanted)
            self.problem(f"{variant}: {len(odd)} skips differ from the samples that are bad, such as {odd[:3]}")
        if exactly and any(count > 1 for count in found.values()):
            self.problem(f"{variant}: skipped twice: {[key for key, count in found.items() if count > 1][:3]}")

    def check(self, stream: str, batch: Batch, at: int, expected: Row) -> bool:
        """Hold batch number `at` of a stream against what is expected."""
        self.counts[f"samples of the {stream}"] += len(batch)
        if (row := row_of(batch)) == expected:
            return True
        self.problem(f"{stream}: batch {at}, of epoch {batch.epoch}, is {row}, not {expected}")
        return False

    def long_run(self) -> None:
        """One loader, all the time, in a thread of its own."""
        config, whole = self.config(LONG, self.processes, epochs=None), self.expected[LONG][0]
        began, at, rng = time.monotonic(), 0, random.Random(self.seed + 1)
        with self.load(config) as loader:
            for at, batch in enumerate(loader):
                self.watch.progress("long run")
                if self.stopping.is_set() or not self.check("long run", batch, at, whole[at % len(whole)]):
                    break
                if at % 50 == 0 and time.monotonic() - began > self.warm_s:
                    self.watch.note("feeder", loader.feeder_pid)
                    for pid in loader.download_pids:
                        self.watch.note("download", pid)
                    for pid in loader.decode_pids:
                        self.watch.note("decode", pid)
                if rng.random() < 0.001:
                    self.pause(loader)
        self.watch.pause("long run")
        self.counts["epochs of the long run"] = at // len(whole)
        self.check_skips(config, LONG, at // len(whole), exactly=True)

    def short_run(self) -> None:
        """One loader for an epoch or two, with what may happen to it."""
        variant, epochs = self.rng.choice(list(VARIANTS)), self.rng.randint(1, EPOCHS)
        expected = [row for rows in self.expected[variant][:epochs] for row in rows]
        config = self.config(variant, self.rng.randint(0, 2), epochs=epochs)
        kill_at, close_at = (self.rng.randrange(2 * len(expected)) for _ in range(2))
        loader, at = self.load(config), 0
        self.watch.progress("short run")
        try:
            while (batch := next(loader, None)) is not None:
                self.watch.progress("short run")
                if at == len(expected) or not self.check("short runs", batch, at, expected[at]):
                    break
                at += 1
                if at == kill_at:
                    victims = dict.fromkeys(loader.decode_pids, "decode processes killed")
                    victims |= dict.fromkeys(loader.download_pids, "downloading processes killed")
                    victim = self.rng.choice([loader.feeder_pid, *victims])
                    self.counts[victims.get(victim, "feeders killed")] += 1
                    send(victim, signal.SIGKILL)
                elif self.rng.random() < 0.003:
                    self.pause(loader)
                if at == close_at:
                    loader = self.resumed(config, loader)
        finally:
            self.watch.pause("short run")
            self.close(loader)
        self.counts["short runs"] += 1
        if at != len(expected) or batch is not None:
            self.problem(f"{variant}: ended at batch {at} of {len(expected)}")
        self.check_skips(config, variant, epochs, exactly=close_at >= len(expected))

    def resumed(self, config: dict[str, Any], loader: Loader) -> Loader:
        """Another loader that goes on from the state of this one, as JSON has it."""
        self.counts["resumed"] += 1
        state = json.loads(json.dumps(loader.state_dict()))
        self.close(loader)
        other = self.load(config)
        other.load_state_dict(state)
        return other

    def close(self, loader: Loader) -> None:
        clock = time.monotonic()
        loader.close()
        self.closes_s.append(time.monotonic() - clock)

    def pause(self, loader: Loader) -> None:
        """Stop a feeder, and let it go on a little later."""
        self.counts["feeders stopped"] += 1
        pid = loader.feeder_pid
        send(pid, signal.SIGSTOP)
        later = threading.Timer(self.rng.uniform(0.05, 1.5), send, [pid, signal.SIGCONT])
        later.daemon = True
        later.start()

    def run(self, seconds: float) -> None:
        """Both kinds of runs until the time is over."""
        end, long = time.monotonic() + seconds, threading.Thread(target=self._guarded, args=[self.long_run])
        self.warm_s = min(WARM_S, seconds / 5)
        warm = time.monotonic() + self.warm_s
        long.start()
        try:
            while time.monotonic() < end and not self.problems:
                self._guarded(self.short_run)
                if time.monotonic() > warm:
                    # While a refused batch is decoded anew, the long run's pipeline and its threads are gone.
                    self.watch.note("trainer", os.getpid(), moments=10)
        finally:
            self.stopping.set()
            long.join()

    def _guarded(self, run: Callable[[], None]) -> None:
        try:
            run()
        except Exception as error:  # told with the others
            self.problem(f"{run.__name__}: {type(error).__name__}: {error}")


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a feeder, which may have ended by now."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def row_of(batch: Batch) -> Row:
    """What a batch holds, in short."""
    arrays = [batch.image, batch.embeddings, *batch.masks.values()]
    for latents in batch.latents.values():
        arrays += latents if isinstance(latents, list) else [latents]
    sums = [zlib.crc32(np.ascontiguousarray(array).tobytes()) for array in arrays if array is not None]
    return batch.bucket, tuple(batch.ids), zlib.crc32(repr((sums, batch.attributes)).encode())
