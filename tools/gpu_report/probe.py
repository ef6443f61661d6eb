"""Asks a GPU machine, in half a minute, what the design leans on. Wants torch and cupy only, none of this project.

    python3 tools/gpu_report/probe.py [--out FOLDER]

Each answer is a line, printed at once and appended to probe.txt in --out. Each question that may crash is asked in a
process of its own. Run it first, while everything else is still on its way to the machine.
"""

from __future__ import annotations

import argparse
import ctypes
import glob
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

SECONDS = 45
"""For one question, most of which import torch and compile a kernel."""

QUESTIONS = {
    "events can be recorded on the default streams by their handles": """
        import cupy
        for handle in (1, 2):
            event = cupy.cuda.Event(disable_timing=True)
            cupy.cuda.runtime.eventRecord(event.ptr, handle)
            event.synchronize()
            assert event.done
        print("yes")
    """,
    "an event on a stream that was destroyed": """
        import cupy
        stream = cupy.cuda.Stream(non_blocking=True)
        handle = stream.ptr
        del stream
        event = cupy.cuda.Event(disable_timing=True)
        try:
            cupy.cuda.runtime.eventRecord(event.ptr, handle)
            print("is accepted")
        except cupy.cuda.runtime.CUDARuntimeError as error:
            print("is refused:", error)
    """,
    "a sum on a side stream, with 60 ms of work queued on the default stream, takes how many ms": """
        import time, torch, cupy
        array = cupy.zeros(1 << 20, cupy.uint8)
        cupy.cuda.Device().synchronize()

        class Lent:
            def __init__(self, stream): self.stream = stream
            def __dlpack_device__(self): return 2, 0
            def __dlpack__(self, *, stream=None, **options):
                return array.__dlpack__(stream=self.stream or stream, **options)

        x = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
        x @ x
        torch.cuda.synchronize()
        took = {}
        for name, stream in (("ordered by cupy", 0), ("without an order, as ours", -1)):
            side = torch.cuda.Stream()
            for _ in range(40):
                x @ x
            began = time.perf_counter()
            with torch.cuda.stream(side):
                torch.from_dlpack(Lent(stream)).sum()
            side.synchronize()
            took[name] = round((time.perf_counter() - began) * 1e3, 1)
            torch.cuda.synchronize()
        print(took)
    """,
    "waiting for an event takes which share of a core": """
        import time, torch, cupy
        x = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
        x @ x
        torch.cuda.synchronize()
        found = {}
        for block in (False, True):
            event = cupy.cuda.Event(block=block, disable_timing=True)
            for _ in range(200):
                x @ x
            cupy.cuda.runtime.eventRecord(event.ptr, 1)
            wall, cpu = time.perf_counter(), time.thread_time()
            event.synchronize()
            share = (time.thread_time() - cpu) / (time.perf_counter() - wall)
            found["blocking" if block else "spinning, as DALI's"] = f"{share:.0%}"
        print(found)
    """,
    "jax lets memory go before its kernels have read it": """
        import gc, time, cupy
        try:
            import jax, jax.numpy as jnp
        except ImportError as error:
            print("not known, no jax:", error)
            raise SystemExit
        let_go = []

        class Owner:
            def __del__(self): let_go.append(time.perf_counter())

        memory = cupy.zeros(1 << 24, cupy.float32)
        cupy.cuda.Device().synchronize()

        def lend():
            unowned = cupy.cuda.UnownedMemory(memory.data.ptr, memory.nbytes, Owner(), 0)
            return cupy.ndarray(memory.shape, memory.dtype, cupy.cuda.MemoryPointer(unowned, 0))

        weights = jnp.ones((8192, 8192), jnp.bfloat16)

        @jax.jit
        def slow(v, w):
            for _ in range(40):
                w = w @ w * 0.0001
            return v.sum() + w.sum().astype(jnp.float32)

        slow(jnp.zeros(1 << 24), weights).block_until_ready()
        array = jax.dlpack.from_dlpack(lend())
        result = slow(array, weights)
        del array
        gc.collect()
        early = bool(let_go)
        result.block_until_ready()
        end = time.perf_counter()
        gc.collect()
        print(early, f"({(end - let_go[0]) * 1e3:.0f} ms before their end)" if early else "")
    """,
    "a second context on the same GPU takes how many MiB": """
        import subprocess, sys, cupy
        free, _ = cupy.cuda.runtime.memGetInfo()
        text = "import cupy; cupy.zeros(1); cupy.cuda.Device().synchronize(); print(flush=True); input()"
        other = subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        other.stdout.readline()
        print(round((free - cupy.cuda.runtime.memGetInfo()[0]) / 2**20))
        other.communicate(b"\\n")
    """,
}


def ask(text: str) -> str:
    """The last line that a question's process prints, and how it ended where that was not well."""
    command = [sys.executable, "-c", textwrap.dedent(text)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, errors="replace")
    except subprocess.TimeoutExpired:
        return f"no answer within {SECONDS} s"
    lines = done.stdout.strip().splitlines()
    if not done.returncode and lines:
        return lines[-1]
    return f"exit status {done.returncode}: {done.stderr.strip()[-300:]}"


def gpu() -> str:
    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nvidia-smi does not run: {error}"


def nvcuvid() -> str:
    """The hardware's JPEG decoder is reached through it."""
    try:
        ctypes.CDLL("libnvcuvid.so.1")
    except OSError as error:
        there = glob.glob("/usr/local/nvidia/**/*cuvid*", recursive=True)[:3]
        return f"MISSING: {error}; {there}"
    return "loads"


def answers() -> Iterator[tuple[str, str]]:
    """Each question with its answer, as soon as that is known."""
    at_once: dict[str, Callable[[], object]] = {
        "GPU, driver, memory": gpu,
        "libnvcuvid.so.1": nvcuvid,
        "CPUs": lambda: len(os.sched_getaffinity(0)),
        "Python": lambda: sys.version.split()[0],
    }
    for question, answer in at_once.items():
        yield question, str(answer())
    for question, text in QUESTIONS.items():
        yield question, ask(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="a folder for probe.txt")
    args = parser.parse_args()
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
    for question, answer in answers():
        line = f"{question}: {' '.join(answer.split())}"
        print(line, flush=True)
        if args.out:
            with (args.out / "probe.txt").open("a") as file:
                file.write(line + "\n")


if __name__ == "__main__":
    main()
