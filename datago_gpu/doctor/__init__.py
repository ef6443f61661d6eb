"""Checks what is missing or too small on this machine, and says what to do about it.

`machine.py` checks limits and packages, `gpu.py` the driver and the libraries of the GPU path, `back_ends.py` decodes
an image, `network.py` looks for proxies, `cache_place.py` looks at the folder of the cache, and `source_trial.py` tries
the source of a config. Each check returns a `Check`; no check raises or hangs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from datago_gpu.config import LoaderConfig
from datago_gpu.doctor import back_ends, gpu, machine, source_trial
from datago_gpu.doctor.cache_place import cache_check
from datago_gpu.doctor.check import Check
from datago_gpu.doctor.network import proxy_check
from datago_gpu.errors import ConfigError

__all__ = ["Check", "examine"]

_NOT_SETTINGS = "correct the config; docs/settings.md lists every setting"


def examine(
    file: Path | None, *, device: str = "auto", backend: str = "auto", timeout_s: float = 20.0
) -> Iterator[Check]:
    """Runs all checks and yields each result at once.

    file: a config whose settings and source are checked too. device, backend: as for a Loader. A missing GPU is a
    failure only if `device` requires one; a problem of a GPU is a failure only if the GPU would be used. timeout_s:
    time limit in seconds for each check that may have to wait.
    """
    config, problem = _load(file)
    yield from machine.checks(config)
    on_cpu = device == "cpu" or backend == "pillow"
    for check in gpu.checks(wanted=device.startswith("cuda")):
        yield replace(check, state="warn") if on_cpu and check.state == "fail" else check
    yield from back_ends.checks(device, backend, timeout_s)
    yield proxy_check(config)
    yield cache_check(config, timeout_s)
    if problem is not None:
        yield Check.fail("settings", problem, _NOT_SETTINGS)
    if config is not None:
        yield Check.ok("settings", f"source_type {config.source_type!r}, {_batch(config)}")
        yield from source_trial.checks(config, device, backend, timeout_s)


def _load(file: Path | None) -> tuple[LoaderConfig | None, str | None]:
    """Loads the config. Returns (config, None), or (None, what is wrong)."""
    if file is None:
        return None, None
    try:
        return LoaderConfig.load(file), None
    except ConfigError as error:
        return None, str(error)


def _batch(config: LoaderConfig) -> str:
    return f"batch_pixels {config.batch_pixels:,}" if config.batch_pixels else f"batch_size {config.batch_size}"
