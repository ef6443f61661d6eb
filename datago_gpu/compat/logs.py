"""datago's log levels, and its RUST_LOG, for Python's logging."""

from __future__ import annotations

import logging
import os
import threading

__all__ = ["initialize_logging", "log"]

log = logging.getLogger("datago_gpu")

_LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "off": logging.CRITICAL + 1,
}
_once = threading.Lock()  # taken for ever by the first call


def initialize_logging(log_level: str | None = None) -> bool:
    """Set what the logger `datago_gpu` says: RUST_LOG if that is set, else `log_level`, else errors.

    It writes to stderr where the program has no logging of its own. False where this had been done before; making a
    client does it as well, with "warn".
    """
    if not _once.acquire(blocking=False):
        return False
    log.setLevel(_level(os.environ.get("RUST_LOG") or log_level or "error"))
    if not log.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("[%(asctime)s %(levelname)s %(name)s] %(message)s"))
        log.addHandler(handler)
    return True


def _level(text: str) -> int:
    """Of "info", or of directives such as "warn,datago=debug,hyper=off": those for datago, else the one for all."""
    found = logging.ERROR
    named = False
    for directive in text.lower().split(","):
        target, equals, level = directive.strip().rpartition("=")
        if equals and target.partition("::")[0] in ("datago", "datago_gpu"):
            found, named = _LEVELS.get(level, found), True
        elif not equals and not named:
            found = _LEVELS.get(level, found)
    return found
