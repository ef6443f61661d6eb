"""What a loader costs a training loop: a transformer's step in bf16 alone, with ours, and with others.

The step is sized to about STEP_MS by its number of blocks. Inflation is of the time of a step, start to start; the idle
share is of the time between the end of one step on the GPU and the start of the next, by CUDA events.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from benchmarks.common import NotHere
from benchmarks.suite.peers import PROGRAMS
from tools.gpu_report.context import Context
from tools.gpu_report.findings import Findings
from tools.gpu_report.loading import over_files

STEP_MS = 20.0
BATCH, SMALL_BATCH = 64, 2
SIZE = "500px"
INFLATION = "<= 0.03"
PATCH = 16
LOADS = (0.65, 1.0)
"""With DALI's default a third of the images is decoded on the multiprocessors, which the step wants."""


def run(context: Context, findings: Findings) -> None:
    trainer = _trainer(context, findings)
    for load in LOADS if context.on_gpu else (None,):
        findings.part(f"our loader, {_named(load)}", _ours, context, findings, trainer, load)
    findings.part("the step alone, again", trainer.measure, findings, "alone, again", trainer.constant)


def others(context: Context, findings: Findings) -> None:
    """What synthetic data and a torch DataLoader cost."""
    trainer = _trainer(context, findings)
    findings.part("synthetic data", trainer.measure, findings, "synthetic data from the host", trainer.synthetic)
    findings.part("torch DataLoader", _torch, context, findings, trainer)


def _trainer(context: Context, findings: Findings) -> Trainer:
    import torch

    if context.on_gpu and not torch.cuda.is_available():
        raise NotHere("this torch was built without CUDA, or sees no GPU")
    trainer = Trainer(context, torch)
    findings.part("the step alone", _alone, findings, trainer)
    if not trainer.alone_s:
        raise NotHere("without the step alone there is nothing to compare with")
    return trainer


def _alone(findings: Findings, trainer: Trainer) -> None:
    trainer.calibrate()
    findings.add("blocks of the model", trainer.blocks)
    trainer.measure(findings, "alone", trainer.constant)


def _named(load: float | None) -> str:
    return "DALI's default" if load is None else f"hw_decoder_load {load:g}"


def _ours(context: Context, findings: Findings, trainer: Trainer, load: float | None) -> None:
    name = f"our loader, {_named(load)}"
    with over_files(context, SIZE, batch_size=trainer.batch_size, decode={"hw_decoder_load": load}) as loader:
        gate = "" if context.small else INFLATION
        trainer.measure(findings, name, lambda: (trainer.torch.from_dlpack(batch.image) for batch in loader), gate)
        findings.add(f"{name}: the slowest stage", loader.stats().slowest)


def _torch(context: Context, findings: Findings, trainer: Trainer) -> None:
    sys.path.insert(0, str(PROGRAMS))  # contestants are scripts
    from harness import Spec
    from torch_peer import files

    spec = Spec("files", 10_000_000, context.target(SIZE)[0], trainer.batch_size, str(context.material / SIZE),
                threads=context.amount(0, 1), device=context.device)  # fmt: skip
    # Not forked: CUDA and DALI run in this process already.
    trainer.measure(findings, "torch DataLoader, Pillow", lambda: files(spec, multiprocessing_context="spawn"))


class Trainer:
    """A model, its optimiser and a step, and what the step takes."""

    def __init__(self, context: Context, torch: Any) -> None:
        self.torch, self._context = torch, context
        self._gpu = context.on_gpu
        self._device = torch.device(context.device)
        self._side = context.target(SIZE)[0]
        self.batch_size = context.amount(BATCH, SMALL_BATCH)
        self._width = context.amount(1024, 32)
        self.blocks = 0
        self.alone_s = 0.0

    def calibrate(self) -> None:
        """Choose the number of blocks from what 4 take."""
        self._build(4)
        rounds = self._context.amount(10, 1)
        self._loop(self.constant(), rounds)
        four_s = statistics.median(self._loop(self.constant(), rounds)[0])
        self._build(self._context.amount(max(1, min(64, round(4 * STEP_MS / 1e3 / four_s))), 1))

    def _build(self, blocks: int) -> None:
        nn = self.torch.nn
        layer = nn.TransformerEncoderLayer(
            self._width, max(1, self._width // 64), 4 * self._width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.torch.manual_seed(0)
        self._model = nn.Sequential(
            nn.Linear(3 * PATCH * PATCH, self._width),
            nn.TransformerEncoder(layer, blocks, enable_nested_tensor=False),
            nn.Linear(self._width, 16),
        ).to(self._device, self.torch.bfloat16)
        self._optimizer = self.torch.optim.AdamW(self._model.parameters(), 1e-4)
        self.blocks = blocks

    def step(self, images: Any) -> None:
        """From uint8 pixels, NHWC, to updated weights."""
        x = images.to(self._device, non_blocking=True).to(self.torch.bfloat16) / 127.5 - 1
        count, side = len(x), self._side // PATCH
        patches = x.reshape(count, side, PATCH, side, PATCH, 3).transpose(2, 3).reshape(count, side * side, -1)
        loss = self._model(patches).float().square().mean()
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()

    def constant(self) -> Iterator[Any]:
        shape = (self.batch_size, self._side, self._side, 3)
        return itertools.repeat(self.torch.randint(256, shape, dtype=self.torch.uint8, device=self._device))

    def synthetic(self) -> Iterator[Any]:
        """Made beforehand, pinned, copied in each step: the least that any loader on the host costs."""
        shape = (self.batch_size, self._side, self._side, 3)
        made = [self.torch.randint(256, shape, dtype=self.torch.uint8) for _ in range(8)]
        return itertools.cycle([each.pin_memory() for each in made] if self._gpu else made)

    def measure(self, findings: Findings, name: str, data: Callable[[], Iterable[Any]], gate: str = "") -> None:
        """Step time, its inflation over the step alone, and the GPU's idle share."""
        steps = self._context.amount(200, 3)
        source = iter(data())
        self._loop(source, self._context.amount(30, 1))
        seconds, idle = self._loop(source, steps)
        mean = statistics.fmean(seconds)
        worst = statistics.quantiles(seconds, n=100)[-1] if len(seconds) > 1 else mean
        findings.add(f"{name}: step", round(mean * 1e3, 3), f"ms (p99 {worst * 1e3:.2f}, {steps} steps)")
        if not self.alone_s:
            self.alone_s = mean
        else:
            findings.add(f"{name}: inflation of the step", round(mean / self.alone_s - 1, 4), gate=gate)
        if idle is not None:
            findings.add(f"{name}: the GPU waits for the next step", round(idle, 4), "of the time")

    def _loop(self, source: Iterator[Any], steps: int) -> tuple[list[float], float | None]:
        """Seconds of each step, start to start, and the share of the time for which the GPU had none."""
        cuda, marks, times = self.torch.cuda, [], []
        self._wait()
        times.append(time.perf_counter())
        for images in itertools.islice(source, steps):
            if self._gpu:
                start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
                start.record()
                self.step(images)
                end.record()
                marks.append((start, end))
                # At most two steps ahead of the GPU, as a loop that reads its loss now and then is.
                if len(marks) > 2:
                    marks[-3][1].synchronize()
            else:
                self.step(images)
            times.append(time.perf_counter())
        self._wait()
        times[-1] = time.perf_counter()
        if not marks:
            return [after - before for before, after in itertools.pairwise(times)], None
        ends_ms = [marks[0][0].elapsed_time(end) for _, end in marks]
        gaps_ms = [end.elapsed_time(start) for (_, end), (start, _) in itertools.pairwise(marks)]
        seconds = [(after - before) / 1e3 for before, after in itertools.pairwise([0.0, *ends_ms])]
        return seconds, sum(max(0.0, gap) for gap in gaps_ms) / ends_ms[-1]

    def _wait(self) -> None:
        if self._gpu:
            self.torch.cuda.synchronize()
