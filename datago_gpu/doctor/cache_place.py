"""Checks the folder of the cache: whether it can be written, what kind of disk it is on, and how much room there is."""

from __future__ import annotations

import os
import shutil
import tempfile
from functools import partial
from pathlib import Path

from datago_gpu.config import LoaderConfig
from datago_gpu.doctor.check import Check, mib, run_within
from datago_gpu.errors import ConfigError
from datago_gpu.sources.cache.cache_folder import FORM_FOLDER
from datago_gpu.sources.cache.shared_room import used_bytes

__all__ = ["cache_check", "kind_of_disk"]

MOUNTS = Path("/proc/self/mountinfo")
_IN_MEMORY = ("tmpfs", "ramfs")
_OVER_NETWORKS = ("nfs", "cifs", "smb", "fuse.", "lustre", "ceph", "9p", "gpfs", "beegfs", "afs", "virtiofs")
_NAME = "cache"


def cache_check(config: LoaderConfig | None, timeout_s: float) -> Check:
    """Returns the check of `cache_config`."""
    if config is None or not config.cache_config.is_on:
        return Check.none(_NAME, "cache_config has no path: nothing that is downloaded is kept")
    settings = config.cache_config
    try:
        path = config.absolute(settings.path)
        return run_within(timeout_s, partial(_look, path, int((settings.size_gb or 0) * 2**30)))
    except TimeoutError as error:
        return Check.fail(_NAME, f"{settings.path}: {error}", "set cache_config.path to a folder on a local disk")
    except ConfigError as error:
        return Check.fail(_NAME, str(error), "correct cache_config.path")
    except OSError as error:
        found = f"{path} cannot be written ({error.strerror}): payloads are downloaded, and not kept"
        return Check.warn(_NAME, found, "set cache_config.path to a folder that this user may write")


def _look(path: str, capacity: int) -> Check:
    """Looks at the folder, or at the one in which it will be made. Raises OSError if it cannot be written."""
    place = path
    while not os.path.exists(place):
        place = os.path.dirname(place)
    with tempfile.TemporaryFile(dir=place):
        pass
    used, free, disk = used_bytes(os.path.join(path, FORM_FOLDER)), shutil.disk_usage(place).free, kind_of_disk(place)
    found = f"{path} ({disk or 'unknown'} file system) holds {mib(used)} of {mib(capacity)}; {mib(free)} are free"
    if disk in _IN_MEMORY:
        return Check.warn(_NAME, f"{found}: this is no disk, but memory", "set cache_config.path to a local disk")
    if disk.startswith(_OVER_NETWORKS):
        remedy = "set cache_config.path to a local disk, if that is faster than downloading"
        return Check.warn(_NAME, f"{found}; it is on another machine", remedy)
    if capacity - used > free:
        remedy = f"lower cache_config.size_gb to {(used + free) // 2**30}, or provide space"
        return Check.warn(_NAME, f"{found}: the disk will be full before the cache is", remedy)
    return Check.ok(_NAME, found)


def kind_of_disk(path: str) -> str:
    """Returns the type of the file system of a path, such as "ext4"; "" if unknown."""
    try:
        mounts = [line.split(" ") for line in MOUNTS.read_text().splitlines()]
    except OSError:
        return ""
    real, best, kind = os.path.realpath(path) + "/", "", ""
    for fields in mounts:
        at = fields[4].encode().decode("unicode_escape")
        if real.startswith(at.rstrip("/") + "/") and len(at) >= len(best):
            best, kind = at, fields[fields.index("-") + 1]
    return kind
