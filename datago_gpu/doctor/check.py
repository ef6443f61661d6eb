"""`Check`, the result of one check, and `run_within`, which limits the time of work that may hang."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Self, TypeVar

from datago_gpu.redact import printable

__all__ = ["Check", "mib", "run_within"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check: its subject, what was found, and a remedy for a problem.

    state: "ok"; "none": missing, but not needed; "warn": works, but not well; "fail": does not work.
    Control characters in `found` and `remedy`, which may quote a server or a file's name, appear as escapes.
    """

    name: str
    state: Literal["ok", "none", "warn", "fail"]
    found: str
    remedy: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "found", printable(self.found, lines=True))
        object.__setattr__(self, "remedy", printable(self.remedy, lines=True))

    @classmethod
    def ok(cls, name: str, found: str) -> Self:
        return cls(name, "ok", found)

    @classmethod
    def none(cls, name: str, found: str) -> Self:
        return cls(name, "none", found)

    @classmethod
    def warn(cls, name: str, found: str, remedy: str) -> Self:
        return cls(name, "warn", found, remedy)

    @classmethod
    def fail(cls, name: str, found: str, remedy: str) -> Self:
        return cls(name, "fail", found, remedy)

    def redacted(self, hide: Callable[[str], str]) -> Check:
        """Returns a copy with `hide` applied to its texts."""
        return replace(self, found=hide(self.found), remedy=hide(self.remedy))

    def __str__(self) -> str:
        """Returns the check as one line, even if its texts have several."""
        line = f"{self.name}: {self.found}" + (f" -> {self.remedy}" if self.remedy else "")
        return " ".join(line.split())


def mib(count: float) -> str:
    """Formats a number of bytes for people."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def run_within(seconds: float, work: Callable[[], T]) -> T:
    """Returns the result of `work`, or raises TimeoutError. Work that hangs (on a lost file server) is abandoned."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="datago_gpu-doctor", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {seconds:g} s")
    if errors:
        raise errors[0]
    return results[0]
