"""The front door: what `import datago_gpu` gives, and what it must not load."""

from __future__ import annotations

import subprocess
import sys

import datago_gpu


def test_the_public_names_are_these() -> None:
    assert datago_gpu.__all__ == [
        "Batch",
        "ConfigError",
        "DatagoError",
        "DecodeError",
        "FeederError",
        "Loader",
        "LoaderConfig",
        "Sample",
        "SourceError",
        "TooManyErrors",
    ]
    assert all(hasattr(datago_gpu, name) for name in datago_gpu.__all__)


def test_importing_the_package_loads_no_heavy_library_and_starts_nothing() -> None:
    script = """
import sys, threading, datago_gpu
heavy = {"nvidia.dali", "cupy", "torch", "jax", "PIL", "aiohttp", "uvloop", "rich", "asyncio", "cykooz_resizer"}
print(sorted(heavy & set(sys.modules)), threading.active_count())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "[] 1\n"


def test_the_feeder_loads_neither_pillow_nor_the_resizer_before_it_needs_them() -> None:
    """Its start is part of the time to the first batch."""
    script = """
import sys, datago_gpu.feeder.process
print(sorted({"PIL", "cykooz_resizer", "nvidia.dali", "cupy", "torch", "click", "rich"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "[]\n"
