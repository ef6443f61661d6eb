"""Programs for Lightning: limits, data for tests and for predictions, and the older name of the package."""

from __future__ import annotations

__all__ = ["LIMITS", "OLDER_PACKAGE"]

_PREPARED = """
import torch, warnings
from datago_gpu import ConfigError
from datago_gpu.lightning import DataModule
from tests.frameworks.pictures import number_of

warnings.simplefilter("ignore")  # Lightning's own
images = {"crop_and_resize": True, "default_image_size": 512, "layout": "CHW", "dtype": "float32"}
base = {"image_config": images, "batch_size": 32}
files = {**base, "source_type": "file", "source_config": {"root_path": "/data/photos", "random_sampling": True}}
table = {**base, "source_type": "table", "lockstep": True,
         "source_config": {"path": "index.arrow", "random_sampling": True}}
stream = {**files, "epochs": None}

def numbers(batch):
    return sorted(number_of(float(value)) for value in batch["image"][:, 0, 0, 0])

def module():
    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer, self.seen = torch.nn.Linear(1, 1), []

        def training_step(self, batch, _):
            self.seen.append(numbers(batch))
            return self.layer(batch["image"].mean((1, 2, 3))[:, None]).mean()

        def validation_step(self, batch, _, dataloader_idx=0):
            self.seen.append([dataloader_idx, numbers(batch)])

        test_step = validation_step

        def predict_step(self, batch, _):
            return numbers(batch)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 1e-3)

    return Module()

def trainer(**limits):
    return pl.Trainer(accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
                      **{"enable_checkpointing": False, "logger": False, "max_epochs": 2, **limits})

def fitted(data, **limits):
    model = module()
    trainer(**limits).fit(model, datamodule=data)
    return model.seen

found, said = {}, {}
def refused(name, action):
    try:
        action()
    except ConfigError as error:
        said[name] = str(error)
"""

LIMITS = (
    _PREPARED
    + """
import lightning.pytorch as pl

found["share"] = fitted(DataModule(table, [files, files]), limit_train_batches=0.3, limit_val_batches=1, max_epochs=1)
found["overfit"] = fitted(DataModule(stream), overfit_batches=2)
model = module()
data = DataModule(test=files, predict=files)
trainer(limit_test_batches=2).test(model, datamodule=data)
found["test"], found["predict"] = model.seen, trainer().predict(model, datamodule=data)
for name, limits in {
    "limit_train_batches": {"limit_train_batches": 0.3},
    "overfit_batches": {"overfit_batches": 0.1},
    "limit_val_batches": {"limit_val_batches": 0.5},
}.items():
    refused(name, lambda: fitted(DataModule(files, files), **limits))
refused("no end", lambda: fitted(DataModule(files, stream), limit_train_batches=1))
note({"found": found, "said": said})
"""
)

OLDER_PACKAGE = (
    _PREPARED
    + """
import sys
import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers.logger import DummyLogger

refused("the newer one was imported", lambda: fitted(DataModule(table)))
for name in ("lightning.pytorch", "datago_gpu.lightning"):  # as in a program that imports the older one first
    del sys.modules[name]
from datago_gpu.lightning import DataModule
from datago_gpu.metrics import LightningCallback

logged = []
class Kept(DummyLogger):
    def log_metrics(self, metrics, step=None):
        logged.append([step, metrics["data/samples"]])

def data():
    made = DataModule(table)
    return made, [ModelCheckpoint(".", filename="{step}", every_n_train_steps=5, save_top_k=-1),
                  LightningCallback(made.train, every_n_steps=5)]

made, callbacks = data()
found["whole"] = fitted(made, max_epochs=1, logger=Kept(), callbacks=callbacks, enable_checkpointing=True)
model, (made, _) = module(), data()
trainer(max_epochs=1).fit(model, datamodule=made, ckpt_path="step=5.ckpt")
found["resumed"] = model.seen
note({"found": found, "said": said, "logged": logged})
"""
)
"""The processes of the tests have imported the newer package, as a program does that imports datago_gpu.lightning."""
