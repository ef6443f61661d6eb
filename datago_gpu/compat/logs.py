"""Applies datago's log levels and its RUST_LOG variable to Python's logging."""

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
    """Sets the level of the logger `datago_gpu`: RUST_LOG if set, else `log_level`, else errors only.

    Adds a handler for stderr if the program has not configured logging. Returns False if called before; creating a
    client calls this function with "warn".
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
    """Parses a level such as "info", or directives such as "warn,datago=debug,hyper=off".

    Directives for datago win over the general one.
    """
    found = logging.ERROR
    named = False
    for directive in text.lower().split(","):
        target, equals, level = directive.strip().rpartition("=")
        if equals and target.partition("::")[0] in ("datago", "datago_gpu"):
            found, named = _LEVELS.get(level, found), True
        elif not equals and not named:
            found = _LEVELS.get(level, found)
    return found
