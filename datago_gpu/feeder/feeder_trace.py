"""The feeder's part of a trace: what it lists, fetches, admits and packs in a window of time, written to a file."""

from __future__ import annotations

import os
from contextlib import suppress

from msgspec import json

from datago_gpu.feeder.admit import Admission
from datago_gpu.feeder.fetch import Fetcher
from datago_gpu.feeder.pack import Packer
from datago_gpu.tracing import Recorder, track_of_task, track_of_thread

__all__ = ["FeederTrace"]


class FeederTrace:
    """Records from its creation on."""

    def __init__(self, path: str) -> None:
        """path: of the file for the events, on the trainer's machine, which is this one."""
        self._path, self._recorder = path, Recorder()
        self._recorder.wrap_waits(lambda wait: wait.name)
        self._recorder.wrap_stage(Fetcher, "__call__", "fetch", track_of_task)
        self._recorder.wrap_stage(Admission, "quick", "admit", track_of_thread)
        self._recorder.wrap_stage(Admission, "thorough", "admit", track_of_thread)
        self._recorder.wrap_stage(Packer, "send", "pack", lambda: "pack")

    def close(self) -> None:
        """Ends the window and writes the file. If that fails, the trace lacks the feeder's events."""
        self._recorder.close()
        part = f"{self._path}.part"
        with suppress(OSError):
            with open(part, "wb") as file:
                file.write(json.encode(self._recorder.events))
            os.replace(part, self._path)
