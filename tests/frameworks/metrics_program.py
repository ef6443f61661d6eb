"""A program that trains with Lightning and with transformers, and notes what the callbacks of `metrics` log, and which
passes a Trainer of Lightning shows that trains a second time."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["CALLBACKS"]

_PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
_LIGHTNING, _HUGGINGFACE = (
    block for block in re.findall(r"```python\n(.*?)```", _PAGE.read_text(), re.DOTALL) if "Callback(" in block
)

_PREPARED = """
import warnings
import lightning, torch, transformers
from lightning.pytorch.loggers.logger import DummyLogger
from datago_gpu import ConfigError
from datago_gpu.lightning import DataModule
from datago_gpu.torch import LoaderDataset

warnings.simplefilter("ignore")  # Lightning's own
images = {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 16}
images |= {"layout": "CHW", "dtype": "float32", "min_aspect_ratio": 1.0, "max_aspect_ratio": 1.0}
config = {"source_type": "file", "source_config": {"root_path": "/data/photos", "random_sampling": True}, "limit": 16,
          "image_config": images, "batch_size": 4, "epochs": None, "decode_config": {"processes": 0}}

def means(batch):
    return {"image": batch["image"].mean((1, 2, 3))[:, None]}

def dataset_of_four_batches():
    return LoaderDataset(config, device="cpu", transform=means)

logged = []

class Kept(DummyLogger):
    def log_metrics(self, metrics, step=None):
        logged.append((step, metrics))

class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, _):
        return self.layer(batch["image"]).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-3)

dataset = dataset_of_four_batches()
quiet = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "logger": Kept(),
         "enable_checkpointing": False}
"""
_TRANSFORMERS = """
trainer.fit(Module(), dataset)
try:
    LightningCallback(dataset, every_n_steps=0)
except ConfigError as error:
    refused = str(error)

epochs = []

def noted_means(batch):
    epochs.append(batch["epoch"])
    return means(batch)

data = DataModule(config | {"epochs": 1}, device="cpu", transform=noted_means)
again = Trainer(max_epochs=1, **quiet)
again.fit(Module(), datamodule=data)
again.fit_loop.max_epochs = 2
again.fit(Module(), datamodule=data)

reported = []

class Reporter(transformers.TrainerCallback):
    def on_log(self, args, state, control, logs=None, **_):
        reported.append((state.global_step, dict(logs)))

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, image):
        return {"loss": self.layer(image).mean()}

class Trainer(transformers.Trainer):
    def get_train_dataloader(self):
        return dataset

dataset = dataset_of_four_batches()
options = transformers.TrainingArguments("out", max_steps=6, report_to=[], save_strategy="no", disable_tqdm=True,
                                         logging_strategy="no", use_cpu=True)
trainer = Trainer(model=Model(), args=options, train_dataset=dataset, callbacks=[Reporter()])
"""
_NOTED = """
trainer.train()
note({"lightning": logged, "transformers": reported, "refused": refused, "epochs": epochs})
"""

CALLBACKS = "".join(
    (
        _PREPARED,
        _LIGHTNING.replace("max_epochs=1", "**quiet, max_epochs=2").replace("every_n_steps=50", "every_n_steps=3"),
        _TRANSFORMERS,
        _HUGGINGFACE.replace("every_n_steps=50", "every_n_steps=3"),
        _NOTED,
    )
)
"""Four batches a pass, and a log after each three steps."""
