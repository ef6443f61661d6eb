"""Does a batch reach the frameworks as it is: no copy, on any stream and thread, and intact while it is kept."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

from benchmarks.common import NotHere
from datago_gpu import Loader
from tools.gpu_report.arrays import Arrays
from tools.gpu_report.context import Context
from tools.gpu_report.findings import Findings
from tools.gpu_report.loading import over_files

GROWTH_MIB = 64


def run(context: Context, findings: Findings) -> None:
    arrays = Arrays(context.device_id)
    with over_files(context, "500px", batch_size=context.amount(32, 4)) as loader:
        for name, do in {
            "numpy or cupy": _native,
            "torch": _torch,
            "another stream": _stream,
            "another thread": _thread,
            "kept for 100 batches": _kept,
            "memory given back": _given_back,
        }.items():
            findings.part(name, do, context, findings, arrays, loader)


def _native(_: Context, findings: Findings, arrays: Arrays, loader: Loader) -> None:
    image = next(loader).image
    name = "cupy.from_dlpack" if arrays.on_gpu else "numpy.from_dlpack"
    view = arrays.xp.from_dlpack(image)
    findings.add(f"{name}: the same memory", int(_pointer(view) == _pointer(image)), gate="== 1")
    findings.add(f"{name}: shape and dtype", f"{view.shape} {view.dtype}")


def _torch(context: Context, findings: Findings, arrays: Arrays, loader: Loader) -> None:
    torch = _import_torch(context)
    image = next(loader).image
    tensor = torch.from_dlpack(image)
    findings.add("torch.from_dlpack: the same memory", int(tensor.data_ptr() == _pointer(image)), gate="== 1")
    findings.add("torch.from_dlpack: on the device", int(tensor.is_cuda == context.on_gpu), gate="== 1")
    same = int(tensor.to(torch.int64).sum()) == int(arrays.host(arrays.view(image).astype("int64").sum()))
    findings.add("torch.from_dlpack: the same pixels", int(same), gate="== 1")
    single = torch.from_dlpack(image[1])
    findings.add("torch.from_dlpack of one image: its pixels", int(bool((single == tensor[1]).all())), gate="== 1")


def _stream(context: Context, findings: Findings, arrays: Arrays, loader: Loader) -> None:
    if not context.on_gpu:
        raise NotHere("not on this device: the CPU has no streams")
    wrong = 0
    for stream, _ in zip(itertools.cycle(arrays.streams(2)), range(context.amount(50, 4)), strict=False):
        image = next(loader).image
        expected = arrays.checksum(arrays.view(image))
        with arrays.on(stream):
            wrong += arrays.checksum(arrays.view(image)) != expected
    findings.add("cupy on streams of its own: batches read wrongly", wrong, gate="== 0")
    torch = _import_torch(context)
    image = next(loader).image
    expected = int(torch.from_dlpack(image).to(torch.int64).sum())
    with torch.cuda.stream(torch.cuda.Stream()):
        tensor = torch.from_dlpack(image)
        same = tensor.data_ptr() == _pointer(image) and int(tensor.to(torch.int64).sum()) == expected
    findings.add("torch on a stream of its own: same memory, same pixels", int(same), gate="== 1")


def _thread(_: Context, findings: Findings, arrays: Arrays, loader: Loader) -> None:
    image = next(loader).image
    expected = arrays.checksum(arrays.view(image))
    found: list[int] = []
    _on_thread(lambda: found.append(arrays.checksum(arrays.view(image))))
    findings.add("another thread: the same pixels", int(found == [expected]), gate="== 1")
    _on_thread(lambda: found.append(len(next(loader).image)))
    findings.add("another thread takes a batch", int(len(found) == 2), gate="== 1")


def _kept(context: Context, findings: Findings, arrays: Arrays, loader: Loader) -> None:
    kept = [next(loader).image for _ in range(3)]
    views = [arrays.view(image) for image in kept]
    before = [arrays.checksum(view) for view in views]
    rounds = context.amount(100, 10)
    for _ in range(rounds):
        arrays.view(next(loader).image)  # and dropped, so that its memory is taken again
    changed = sum(now != then for now, then in zip(map(arrays.checksum, views), before, strict=True))
    findings.add(f"kept for {rounds} batches: changed", changed, f"of {len(kept)} batches", "== 0")


def _given_back(context: Context, findings: Findings, arrays: Arrays, loader: Loader) -> None:
    def drop(count: int) -> float:
        for _ in range(count):
            arrays.view(next(loader).image)
        return arrays.used_mib()

    hold, peaks = context.amount(40, 4), []
    level = drop(context.amount(50, 10))
    for _ in range(3):
        held = [next(loader).image for _ in range(hold)]
        peaks.append(arrays.used_mib())
        del held
        drop(2 * hold)
    findings.add("memory while batches are dropped", round(level), "MiB in use")
    findings.add(f"memory with {hold} batches held", round(peaks[0]), "MiB in use")
    # DALI's pool does not shrink: what must not happen is that it grows again.
    findings.add("growth when as many are held a third time", round(peaks[-1] - peaks[0], 1), "MiB", f"<= {GROWTH_MIB}")


def _pointer(image: Any) -> int:
    if hasattr(image, "__cuda_array_interface__"):
        return int(image.__cuda_array_interface__["data"][0])
    return int(image.__array_interface__["data"][0])


def _import_torch(context: Context) -> Any:
    import torch

    if context.on_gpu and not torch.cuda.is_available():
        raise NotHere("this torch was built without CUDA, or sees no GPU")
    return torch


def _on_thread(do: Callable[[], object]) -> None:
    thread = threading.Thread(target=do)
    thread.start()
    thread.join(30)
