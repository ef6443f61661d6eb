"""Decodes one image with the back end that a Loader would choose, and with DALI if it is installed.

Each trial runs in its own process (trial.py), because DALI may crash or hang.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec

from datago_gpu.decoders.select import Backend, choose
from datago_gpu.doctor.check import Check
from datago_gpu.errors import ConfigError, FeederError
from datago_gpu.interpreter import WANTED, command

__all__ = ["checks"]

_ENGINES = re.compile(r"HW decoder available num_hw_engines=\s*(\d+)")
_VIDEO = "A100, A30, H100 and newer data centre GPUs have one; a container needs NVIDIA_DRIVER_CAPABILITIES=...,video"


def checks(device: str, backend: str, timeout_s: float) -> Iterator[Check]:
    """Tries the back end that a Loader would choose, and DALI on the CPU if it is installed but not chosen."""
    try:
        chosen = choose(device, backend)
    except ConfigError as error:
        yield Check.fail("back end", str(error), "correct this, or leave out --device and --backend")
        return
    check, log = _try_decoding(chosen, timeout_s)
    yield check
    if chosen.device_id is not None:
        yield hardware_decoder(log)
    elif chosen.name != "dali" and _has_dali():
        yield _try_decoding(Backend("dali", "cpu", reason="installed, but not requested"), timeout_s)[0]


def hardware_decoder(log: str) -> Check:
    """Checks for a hardware JPEG decoder. log: nvImageCodec's log of a decoding at level 3."""
    engines = _ENGINES.search(log)
    if engines:
        return Check.ok("hardware decoder", f"{engines[1]} JPEG engines")
    if "HW decoder not supported" in log:
        return Check.warn("hardware decoder", "not supported here: CUDA decodes JPEGs instead, which is slower", _VIDEO)
    return Check.warn("hardware decoder", "nvImageCodec did not report whether there is one", _VIDEO)


def _has_dali() -> bool:
    try:
        return find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:  # the parent package is missing
        return False


def _try_decoding(backend: Backend, timeout_s: float) -> tuple[Check, str]:
    """Decodes in a new process. Returns the check and all output of the process."""
    name = f"decoding ({backend.name})"
    environment = {**os.environ, "DALI_NVIMGCODEC_LOG_LEVEL": "3"}
    try:
        arguments = command("datago_gpu.doctor.trial", backend.device, backend.name)
    except FeederError as error:
        return Check.fail(name, str(error), WANTED), ""
    remedy = "pip install --force-reinstall " + (
        "pillow cykooz-resizer" if backend.name == "pillow" else "'datago_gpu[cuda12]' (or [cuda13])"
    )
    try:
        done = subprocess.run(
            arguments, env=environment, capture_output=True, text=True, timeout=max(timeout_s, 10.0), check=False
        )
    except subprocess.TimeoutExpired:
        return Check.fail(name, f"an image was not decoded within {timeout_s:g} s", "check dmesg and nvidia-smi"), ""
    log = done.stdout + done.stderr
    last = (done.stdout if done.returncode == 0 else done.stderr or done.stdout).strip().rpartition("\n")[2]
    if done.returncode:
        return Check.fail(name, f"exit code {done.returncode}: {last or 'no output'}", remedy), log
    return Check.ok(name, f"on {backend.device} ({backend.reason}): {last}"), log
