"""What Linux and macOS do in different ways, and the refusal of systems on which datago_gpu cannot run.

The feeder, downloads and decoding threads need nothing but POSIX. Decode processes need Linux.
"""

from __future__ import annotations

import os
import sys

from datago_gpu.errors import ConfigError

__all__ = ["descriptor_path", "has_memfd", "path_of", "refuse_system", "usable_cpus"]


def refuse_system() -> None:
    """Raises ConfigError on Windows, before anything fails that Windows lacks."""
    if sys.platform in ("win32", "cygwin"):
        raise ConfigError(
            "datago_gpu does not run on Windows, which cannot hand open sockets and memory to another process as Linux "
            "does. Use Linux; on this machine, WSL is one: wsl --install, then install datago_gpu inside"
        )


def has_memfd() -> bool:
    """Returns whether this system has memory without a name, and all else that decode processes need: Linux has."""
    return hasattr(os, "memfd_create")


def usable_cpus() -> int:
    """Returns how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def descriptor_path(descriptor: int) -> str:
    """Returns a path that opens the file of an open descriptor, also if the file has no name any more."""
    return f"/proc/self/fd/{descriptor}" if sys.platform == "linux" else f"/dev/fd/{descriptor}"


def path_of(descriptor: int) -> str:
    """Returns the path of the file that is open as `descriptor`, without symbolic links."""
    if sys.platform == "darwin":
        import fcntl

        found: bytes = fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024))
        return os.fsdecode(found.rstrip(b"\0"))
    return os.readlink(f"/proc/self/fd/{descriptor}")
