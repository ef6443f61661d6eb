"""The programs of docs/frameworks.md on small data, and a few programs of the tests' own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.frameworks.lightning_programs import LIMITS, OLDER_PACKAGE
from tests.frameworks.metrics_program import CALLBACKS

__all__ = ["HEADINGS", "PAGE", "jobs_in", "program"]

PAGE = Path(__file__).parents[2] / "docs" / "frameworks.md"
_SECTIONS = re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.DOTALL | re.MULTILINE)
_BLOCKS = {heading: re.findall(r"```python\n(.*?)```", text, re.DOTALL) for heading, text in _SECTIONS}
HEADINGS = [heading for heading, blocks in _BLOCKS.items() if blocks]

_LITTLE = '"arena_mb": 2, "http_config": {"max_payload_mb": 1}, "decode_config": {"processes": 0}'
_SMALL = {
    '"default_image_size": 512': '"default_image_size": 64, "downsampling_ratio": 16',
    '"batch_size": 32': f'"batch_size": 2, {_LITTLE}',
}
_FILES = '"source_type": "file",\n    "source_config": {"root_path": "/data/photos", "random_sampling": True}'
_TABLE = '"source_type": "table",\n    "source_config": {"path": "index.arrow", "random_sampling": True}'
_STREAM = {_TABLE: _FILES, '"lockstep": True': '"epochs": None'}

_QUIET = ', logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu"'
_LIGHTNING = {
    'devices="auto"': 'devices=2, strategy="ddp"' + _QUIET,
    "every_n_train_steps=100": "every_n_train_steps=4",
    "max_epochs=2": "max_epochs=2, check_val_every_n_epoch=2, num_sanity_val_steps=0",
}
_LIGHTNING_STREAM = {
    **_LIGHTNING,
    **_STREAM,
    "max_epochs=2": "max_epochs=3, limit_train_batches=5",
    "train, val)": "train)",
}
_LIGHTNING_AHEAD = {
    _TABLE: _FILES,
    '"batch_size": 32,\n    "lockstep": True': f'"batch_size": 8, {_LITTLE}',
    'devices="auto"': "devices=1" + _QUIET,
    "n_train_steps=100": "n_train_steps=4",
    "max_epochs=2": "max_epochs=2, val_check_interval=3",
    "DataModule(train, val)": "DataModule(data := LoaderDataset(train), data)",
    "import DataModule": "import DataModule\nfrom datago_gpu.torch import LoaderDataset",
}
"""In one process, and without a length: then Lightning takes a batch ahead. A pass has five batches. In the middle of
it, the data of the training are shown for validation."""
_LIGHTNING_AT_END = {**_LIGHTNING_AHEAD, "n_train_steps=100": "n_train_steps=5"}
_ACCELERATE = {"10_001": "11", "step % 1000": "step % 4"}
_QUIET_TRAINER = 'disable_tqdm=True, logging_strategy="no", use_cpu=True'
_HUGGINGFACE = {
    "save_steps=100": "gradient_accumulation_steps=3, save_steps=1, eval_strategy='steps', eval_steps=4, "
    + _QUIET_TRAINER,
    "pixel_values):": "pixel_values, return_loss=True):",
    ".square().mean()}": ".square().mean() if self.training else pixel_values[:, 0].mean()}",
    "train_dataset=dataset": "train_dataset=dataset, eval_dataset=dataset",
}
"""A pass has eight batches on each rank: steps of 3, 3 and 2. An evaluation is shown the data of the training, and its
loss is the mean of the pixels."""
_HUGGINGFACE_STREAM = {
    **_STREAM,
    "num_train_epochs=2, save_steps=100": f"max_steps=6, gradient_accumulation_steps=2, save_steps=2, {_QUIET_TRAINER}",
}
_DCP = {"step % 100 == 0": "step == 4", '["epoch"] < 2': '["epoch"] < 1'}
_COMPILED = {"dynamic=False": "dynamic=False, backend=backend"}

_TITAN = '''
import sys, types
from abc import ABC, abstractmethod
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.stateful import Stateful

class BaseDataLoader(Stateful, ABC):
    """As in torchtitan: what yields pairs, and has a state."""

    @abstractmethod
    def __iter__(self): ...

for name in ("torchtitan", "torchtitan.components", "torchtitan.components.dataloader"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["torchtitan.components.dataloader"].BaseDataLoader = BaseDataLoader
'''
_TITAN_TRAINER = """
import os
config = {
    "source_type": "file",
    "source_config": {"root_path": "/data/photos", "random_sampling": True},
    "image_config": {"crop_and_resize": True, "default_image_size": 512, "layout": "CHW", "dtype": "float32"},
    "batch_size": 32,
}
dist.init_process_group()
loader = Images(config, dist.get_rank(), dist.get_world_size(), "cpu")
model = torch.nn.Conv2d(3, 1, 3)
done = max([int(name) for name in os.listdir("checkpoints")], default=0) if os.path.isdir("checkpoints") else 0
if done:
    dcp.load({"dataloader": loader}, checkpoint_id=f"checkpoints/{done}")
else:
    loader.load_state_dict({})
batches = iter(loader)
for step in range(done + 1, 11):
    inputs, _ = next(batches)
    model(inputs["input"])
    if step == 4:
        dcp.save({"dataloader": loader}, checkpoint_id=f"checkpoints/{step}")
"""
_RANKS_OF_METRICS = """
import urllib.request
from datago_gpu.cli.top_source import open_scrapes
from datago_gpu.metrics import listen, prometheus
with prometheus(dataset, 0) as served, listen(dataset, f"socket-{accelerator.process_index}") as local:
    scrapes = [open_scrapes(where)[0]().lines for where in (f"127.0.0.1:{served.port}", local.path)]
told = [{line.labels["rank"] for line in lines} for lines in scrapes]
counted = [line.value for lines in scrapes for line in lines if line.name == "datago_gpu_samples_total"]
note({"ranks": [sorted(each) for each in told], "samples": counted})
"""
_COUNTING = """
compiled = []
def backend(graph, inputs):
    compiled.append(tuple(inputs[-1].shape))
    return graph.forward
"""
_COUNTED = "    counts.append(len(compiled))\nnote({'counts': counts, 'shapes': shapes})\n"

_REFUSED = """
import os
import lightning, torch, torch.distributed as dist
from accelerate import Accelerator, DataLoaderConfiguration
from torch.utils.data import DataLoader
from datago_gpu import ConfigError
from datago_gpu.lightning import DataModule
from datago_gpu.huggingface import Trainer
from datago_gpu.torch import LoaderDataset
from transformers import TrainingArguments

config = {"source_type": "file", "source_config": {"root_path": "/data/photos"}, "batch_size": 2}
said = {}
def refused(name, action):
    try:
        action()
    except ConfigError as error:
        said[name] = str(error)

dataset = LoaderDataset(config, device="cpu")
for dispatch in (None, False):
    accelerator = Accelerator(dataloader_config=DataLoaderConfiguration(dispatch_batches=dispatch))
    loader = accelerator.prepare(DataLoader(dataset, batch_size=None))
    refused(f"accelerate {dispatch}", lambda: next(iter(loader)))
arguments = TrainingArguments("checkpoints", max_steps=3, report_to="none", use_cpu=True)
trainer = Trainer(torch.nn.Linear(1, 1), arguments, train_dataset=dataset, eval_dataset=dataset)
refused("trainer", trainer.train)
refused("evaluation", trainer.evaluate)
refused("no position", lambda: trainer.train("nowhere"))
os.makedirs("cut", exist_ok=True)
open(f"cut/datago_{dist.get_rank()}.json", "w").close()
refused("cut position", lambda: trainer.train("cut"))
refused("other state", lambda: DataModule(config, device="cpu").load_state_dict({"ranks": [dataset.state_dict()]}))
module = DataModule(config, device="cpu")
module.trainer = lightning.Trainer(devices=2, strategy="ddp", accelerator="cpu", logger=False)
refused("lightning", lambda: iter(module.train_dataloader()))
refused("validation", module.val_dataloader)
module.trainer = lightning.Trainer(devices=1, strategy="auto", accelerator="cpu", logger=False)
refused("alone", lambda: module.setup("fit"))
refused("taken ahead", lambda: DataModule(LoaderDataset(config, taken_ahead=1)))
note(said)
"""


def program(heading: str, changes: dict[str, str]) -> str:
    """Returns the program of a section, with these changes, each of which must occur."""
    (text,) = _BLOCKS[heading]
    for there, here in changes.items():
        assert there in text, f"{there!r} is not in the program of {heading!r}"
        text = text.replace(there, here)
    return text


def jobs_in(folder: Path) -> list[dict[str, Any]]:
    """Returns the jobs. folder: has photos/ and index.arrow; each job runs in a folder of its own there."""
    titan = _TITAN + program("torchtitan", {}) + _TITAN_TRAINER
    compiled = program("torch.compile", _COMPILED).replace("network.zero_grad()", "counts = [len(compiled)]") + _COUNTED
    programs = {
        "lightning": program("Lightning", _LIGHTNING),
        "lightning-stream": program("Lightning", _LIGHTNING_STREAM),
        "lightning-ahead": program("Lightning", _LIGHTNING_AHEAD),
        "lightning-at-end": program("Lightning", _LIGHTNING_AT_END),
        "accelerate": program("accelerate", _ACCELERATE) + _RANKS_OF_METRICS,
        "huggingface": program("Hugging Face Trainer", _HUGGINGFACE) + "note(trainer.state.log_history)\n",
        "huggingface-stream": program("Hugging Face Trainer", _HUGGINGFACE_STREAM),
        "torchtitan": titan,
        "dcp": program("Checkpoints of torch.distributed", _DCP),
    }
    jobs = []
    for name, text in programs.items():
        jobs += [
            {"name": f"{name}-killed", "program": text, "kill_at": 7},
            {"name": f"{name}-resumed", "program": text},
        ]
    jobs[-1]["ranks"] = 1  # of "dcp": another number of ranks resumes
    for job in jobs:
        if job["name"].startswith(("lightning-ahead", "lightning-at-end")):
            job["ranks"] = 1
    jobs.append({"name": "compiled", "program": _COUNTING + compiled, "ranks": 1, "is_watched": False})
    jobs.append({"name": "limits", "program": LIMITS, "ranks": 1, "is_watched": False})
    jobs.append({"name": "older-package", "program": OLDER_PACKAGE, "ranks": 1, "is_watched": False})
    jobs.append({"name": "callbacks", "program": CALLBACKS, "ranks": 1, "is_watched": False})
    jobs.append({"name": "refused", "program": _REFUSED, "is_watched": False})
    for job in jobs:
        own = folder / job["name"].removesuffix("-killed").removesuffix("-resumed")
        own.mkdir(exist_ok=True)
        job |= {"folder": str(own), "ranks": job.get("ranks", 2)}
        for there, here in _SMALL.items():
            job["program"] = job["program"].replace(there, here)
        for name in ("index.arrow", "val.arrow"):
            job["program"] = job["program"].replace(f'"{name}"', repr(str(folder / "index.arrow")))
        job["program"] = job["program"].replace('"/data/photos"', repr(str(folder / "photos")))
    return jobs
