"""Checks the output file of a command before the work begins, and writes it at the end."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import click

from datago_gpu.errors import ConfigError

__all__ = ["check_out", "write_out"]


def check_out(path: Path, *endings: str) -> None:
    """Raises UsageError if `path` cannot be written, or if its name has none of these endings."""
    folder = path.absolute().parent
    if path.suffix.lower() not in endings:
        raise click.UsageError(f"--out must end in {' or '.join(endings)}, got {str(path)!r}")
    if not folder.is_dir():
        raise click.UsageError(f"--out: the folder {str(folder)!r} does not exist")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise click.UsageError(f"--out: no permission to write {str(path)!r}")


def write_out(write: Callable[[Path], None], path: Path) -> None:
    """Calls `write` to write the file. Raises ConfigError if that fails, for example on a full disk."""
    try:
        write(path)
    except OSError as error:
        raise ConfigError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
