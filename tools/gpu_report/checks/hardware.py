"""Is the hardware used: how many JPEG engines there are, how busy they get, and which decoder takes which image."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from contextlib import nullcontext

from benchmarks.common import NotHere
from tools.gpu_report.context import Context
from tools.gpu_report.findings import Findings
from tools.gpu_report.graph import decode_all
from tools.gpu_report.material import KINDS
from tools.gpu_report.nvml import Gpu, Sampler
from tools.gpu_report.ram import batches, encoded, read, timed

LOG = {"DALI_NVIMGCODEC_LOG_LEVEL": "3"}
"""From this level on nvImageCodec names the decoder of each image, as in "0: libjpeg_turbo_decoder process #3"."""


def run(context: Context, findings: Findings) -> None:
    findings.part("engines", _engines, context, findings)
    for load in (0.0, 1.0) if context.on_gpu else (None,):
        findings.part(f"utilisation, hw_decoder_load {_named(load)}", _utilisation, context, findings, load)


def by_kind(context: Context, findings: Findings) -> None:
    """Which decoder takes what, for each load; and which back end can decode each kind at all."""
    for load in (0.0, 1.0) if context.on_gpu else ():
        findings.part(f"decoders, hw_decoder_load {_named(load)}", _shares, context, findings, load)
    for kind in KINDS:
        findings.part(f"backends for {kind}", _backends, context, findings, kind)


def _named(load: float | None) -> str:
    return "default" if load is None else f"{load:g}"


def _engines(context: Context, findings: Findings) -> None:
    log = _probe(context, None)
    _count_shares(findings, log, None)
    found = re.search(r"num_hw_engines=(\d+)(?:.*?num_cores_per_hw_engine=(\d+))?", log)
    if found:
        findings.add("hardware JPEG engines", int(found[1]), gate=">= 1")
        findings.add("cores of an engine", found[2] or "not said")
    elif context.on_gpu:
        said = re.search(r"HW decoder not supported[^\n]*|nvjpegGetHardwareDecoderInfo[^\n]*", log)
        findings.add("hardware JPEG engines", 0, said[0][:100] if said else "(nothing in the log)", ">= 1")
    else:
        raise NotHere("not on this device")


def _shares(context: Context, findings: Findings, load: float | None) -> None:
    _count_shares(findings, _probe(context, load), load)


def _count_shares(findings: Findings, log: str, load: float | None) -> None:
    """Counted from what nvImageCodec logs, for a full batch of 4:2:0 and one of every kind."""
    counts = Counter(re.findall(r"(\w+_decoder) process #", log))
    single = sum(map(int, re.findall(r"HW batch-single decode path for batch of (\d+)", log)))
    total = sum(counts.values())
    for name, count in counts.most_common():
        findings.add(f"hw_decoder_load {_named(load)}: {name}", round(count / total, 3), f"of {total} images logged")
    if single:
        findings.add(f"hw_decoder_load {_named(load)}: in the hardware's batches", single, "images")
    if not total and not single:
        findings.skipped(f"hw_decoder_load {_named(load)}: which decoder", "the log does not name decoders")


def _probe(context: Context, load: float | None) -> str:
    """What nvImageCodec logs while a process of its own decodes: the level is read when DALI is loaded."""
    arguments = (str(context.material), context.device, str(load))
    command = [sys.executable, "-m", "tools.gpu_report.checks.hardware", *arguments]
    done = subprocess.run(command, env=os.environ | LOG, capture_output=True, text=True, timeout=60, errors="replace")
    if done.returncode:
        raise RuntimeError(f"the probe ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout + done.stderr


def _decode_for_the_log(material: str, device: str, load: str) -> None:
    from pathlib import Path

    context = Context(device, Path(material), 60)
    baseline = read(context.material / "500px")[:64]
    options = {"hw_decoder_load": None if load == "None" else float(load), "device_id": context.device_id}
    decode_all([encoded(baseline, None)] * 2, crop=False, threads=2, **options)
    kinds = [payload for kind in KINDS for payload in read(context.material / "kinds" / "500px", f"{kind}-0*")]
    decode_all([encoded(kinds, None)], crop=False, threads=2, **options)


def _backends(context: Context, findings: Findings, kind: str) -> None:
    """Which of nvImageCodec's back ends can decode a kind at all, each asked alone."""
    from nvidia import nvimgcodec

    payloads = [payload.tobytes() for payload in read(context.material / "kinds" / "500px", f"{kind}-*")]
    names = ["HW_GPU_ONLY", "GPU_ONLY", "HYBRID_CPU_GPU", "CPU_ONLY"] if context.on_gpu else ["CPU_ONLY"]
    device = nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY if context.device_id is None else context.device_id
    able = []
    for name in names:
        backend = nvimgcodec.Backend(getattr(nvimgcodec.BackendKind, name))
        try:
            decoder = nvimgcodec.Decoder(device_id=device, backends=[backend], max_num_cpu_threads=1)
        except RuntimeError:  # the platform has none of it
            able.append(f"{name} not there")
            continue
        images = decoder.decode([nvimgcodec.CodeStream(payload) for payload in payloads])
        able.append(f"{name} {sum(image is not None for image in images)}")
    findings.add(f"{kind}: decoded by", ", ".join(able), f"of {len(payloads)}")


def _utilisation(context: Context, findings: Findings, load: float | None) -> None:
    target = context.target("1mp")
    todo = batches(read(context.material / context.amount("1mp", "500px")), context.amount(64, 4), target)
    decoder = context.decoder(len(todo[0].images), hw_decoder_load=load, prefetch=3)
    name = f"hw_decoder_load {_named(load)}"
    try:
        with Sampler(Gpu(context.device_id)) if context.device_id is not None else nullcontext() as sampler:
            rate = timed(decoder, todo, context.amount(3.0, 0.2))
    finally:
        decoder.close()
    findings.add(f"{name}: speed", str(rate))
    if sampler is None:
        raise NotHere("not on this device: no NVML")
    # The first samples are of the time before: the counters lag by up to a second.
    kernels, jpeg = (samples[len(samples) // 3 :] for samples in (sampler.kernels, sampler.jpeg))
    if kernels:
        findings.add(f"{name}: time with a kernel running", round(sum(kernels) / len(kernels)), "%")
    if not jpeg:
        raise NotHere(sampler.missing or "no samples of the JPEG engines")
    findings.add(f"{name}: JPEG engines busy", round(sum(jpeg) / len(jpeg)), f"% (up to {max(jpeg)})")
    if load:
        findings.add(f"{name}: JPEG engines busy at all", max(jpeg), "%", ">= 1")


if __name__ == "__main__":
    _decode_for_the_log(*sys.argv[1:])
