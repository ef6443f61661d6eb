"""The callbacks log the flat statistics with the real trainers of Lightning and transformers, as in docs/metrics.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from datago_gpu import ConfigError
from datago_gpu.loader.flat import FLAT_NAMES
from tests.metrics.test_documents import BLOCKS
from tests.support.images import SHAPES, add_pictures, file_config
from tests.support.needs import needs

torch = needs("torch")

from datago_gpu.torch import LoaderDataset  # noqa: E402

NAMES = {f"data/{name}" for name in FLAT_NAMES if "STAGE" not in name and "REASON" not in name}


@pytest.fixture
def dataset(tmp_path: Path) -> LoaderDataset:
    """Four batches a pass."""
    add_pictures(tmp_path / "pictures", [SHAPES[0]] * 16)
    image, source = {"dtype": "float32", "layout": "CHW"}, {"random_sampling": True}
    config = file_config(tmp_path / "pictures", image=image, source=source, decode_config={"processes": 0})
    return LoaderDataset(config, device="cpu", transform=lambda batch: {"image": means(batch["image"])})


def means(image: Any) -> Any:
    """The mean of each picture, (N, 1)."""
    return image.mean((1, 2, 3))[:, None]


def block_with(name: str) -> str:
    (block,) = [block for block in BLOCKS if name in block]
    return block


@pytest.mark.filterwarnings("ignore")  # Lightning's own
def test_lightning_logs_them_every_n_steps(dataset: LoaderDataset, tmp_path: Path) -> None:
    lightning = needs("lightning.pytorch")
    loggers = needs("lightning.pytorch.loggers.logger")
    logged: list[tuple[int, dict[str, float]]] = []

    class Kept(loggers.DummyLogger):  # type: ignore[misc,name-defined]
        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            logged.append((step or 0, metrics))

    class Model(lightning.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch: Any, _: int) -> Any:
            return self.layer(batch["image"]).mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 1e-3)

    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "logger": Kept()}
    quiet |= {"enable_checkpointing": False, "default_root_dir": tmp_path, "max_epochs": 2}
    found = {"dataset": dataset}
    exec(block_with("LightningCallback").replace("every_n_steps=50", "every_n_steps=3"), found)
    callbacks = [each for each in found["trainer"].callbacks if type(each).__name__ == "LightningCallback"]
    trainer = lightning.Trainer(**quiet, callbacks=callbacks)
    trainer.fit(Model(), dataset)
    ours = [(step, values) for step, values in logged if "data/samples" in values]
    assert [step for step, _ in ours] == [3, 6]
    assert all(NAMES - {"data/epoch_eta_seconds"} <= values.keys() for _, values in ours)
    # Since the start, and then since the log before, over the end of a pass. Lightning looks one batch ahead.
    assert [values["data/samples"] for _, values in ours] == [16, 12]
    with pytest.raises(ConfigError, match="every_n_steps must be at least 1, got 0"):
        type(callbacks[0])(dataset, every_n_steps=0)


def test_transformers_reports_them_every_n_steps(dataset: LoaderDataset, tmp_path: Path) -> None:
    transformers = needs("transformers")
    reported: list[tuple[int, dict[str, float]]] = []

    class Reporter(transformers.TrainerCallback):  # type: ignore[misc,name-defined]
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
            reported.append((state.global_step, dict(logs)))

    class Model(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def forward(self, image: Any) -> dict[str, Any]:
            return {"loss": self.layer(image).mean()}

    class Trainer(transformers.Trainer):  # type: ignore[misc,name-defined]
        def get_train_dataloader(self) -> Any:
            return dataset

    options = transformers.TrainingArguments(
        tmp_path / "out", max_steps=6, report_to=[], save_strategy="no", disable_tqdm=True, logging_strategy="no",
        use_cpu=True,
    )  # fmt: skip
    trainer = Trainer(model=Model(), args=options, train_dataset=dataset, callbacks=[Reporter()])
    block = block_with("HuggingFaceCallback").replace("every_n_steps=50", "every_n_steps=3")
    exec(block, {"trainer": trainer, "dataset": dataset})
    trainer.train()
    ours = [(step, values) for step, values in reported if "data/samples" in values]
    assert [step for step, _ in ours] == [3, 6]
    assert all(NAMES - {"data/epoch_eta_seconds"} <= values.keys() for _, values in ours)
    assert [values["data/samples"] for _, values in ours] == [12, 12]
