"""LoaderDataset as torch uses it, on real files; and the training example, run small."""

from __future__ import annotations

import gc
import json
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest

from datago_gpu import Batch, ConfigError, Loader, LoaderConfig, SourceError
from tests.support.images import SHAPES, add_pictures, file_config
from tests.support.needs import needs

torch = needs("torch")

from torch.utils.data import DataLoader  # noqa: E402

from datago_gpu.torch import Bucket, LoaderDataset, StateOfAllRanks, TensorBatch, as_tensors  # noqa: E402
from datago_gpu.torch.first_pass import FirstPass  # noqa: E402

EXAMPLE = Path(__file__).parents[2] / "examples" / "train.py"
COUNT = 23


@pytest.fixture
def config(tmp_path: Path) -> LoaderConfig:
    """Shuffled pictures that go to three buckets: 7 batches or so a pass, some of them short."""
    add_pictures(tmp_path, [SHAPES[number % 3] for number in range(COUNT)])
    return file_config(tmp_path, source={"random_sampling": True})


def dataset_of(config: LoaderConfig, **more: Any) -> LoaderDataset:
    return LoaderDataset(config, device="cpu", backend="pillow", **more)


def ids(batches: Any) -> list[list[str]]:
    return [list(batch["ids"]) for batch in batches]


def passes(config: LoaderConfig, count: int) -> list[list[list[str]]]:
    """What a Loader gives in so many passes: the ids of the batches of each."""
    result: list[list[list[str]]] = [[] for _ in range(count)]
    with Loader(changed(config, epochs=count), device="cpu", backend="pillow") as loader:
        for batch in loader:
            result[batch.epoch].append(batch.ids)
    return result


def changed(config: LoaderConfig, **values: Any) -> LoaderConfig:
    return msgspec.structs.replace(config, **values)


def is_closed(dataset: LoaderDataset) -> bool:
    assert dataset.loader is not None
    threads = [thread for thread in threading.enumerate() if thread.name == "datago-decode"]
    return not threads and not psutil.pid_exists(dataset.loader.feeder_pid)


@pytest.mark.parametrize("backend", ["pillow", "dali"])
def test_it_yields_tensors_of_what_a_loader_yields(config: LoaderConfig, backend: str) -> None:
    with Loader(config, device="cpu", backend=backend) as loader:
        expected = list(loader)
    found = list(LoaderDataset(config, device="cpu", backend=backend))
    assert ids(found) == [batch.ids for batch in expected]
    for tensors, batch in zip(found, expected, strict=True):
        assert tensors["image"].dtype == torch.uint8
        assert np.array_equal(tensors["image"].numpy(), batch.image)
        assert np.array_equal(tensors["crops"].numpy(), batch.crops)
        assert tensors["original_sizes"].tolist() == batch.original_sizes.tolist()
        assert tensors["bucket"] == batch.bucket
        assert tensors.keys() == set(Batch.__slots__) - {"further_views"}


def test_without_crop_and_resize_images_are_a_list_of_tensors(config: LoaderConfig, tmp_path: Path) -> None:
    batch = next(iter(dataset_of(file_config(tmp_path, image={"crop_and_resize": False}))))
    assert [image.shape for image in batch["image"]] == [(*shape, 3) for shape in [*SHAPES, SHAPES[0]]]
    assert batch["bucket"] is None


def test_tensors_share_the_memory_of_a_batch(config: LoaderConfig) -> None:
    with Loader(config, device="cpu", backend="pillow") as loader:
        batch = next(loader)
    assert as_tensors(batch)["image"].data_ptr() == batch.image.ctypes.data


def test_what_torch_cannot_hold_stays_as_it_is() -> None:
    frozen = np.arange(6, dtype=np.float32).reshape(2, 3)
    frozen.flags.writeable = False
    unknown = np.zeros(2, "V2")
    attributes = [{"caption": "a"}, {"caption": "b"}]
    batch = Batch(
        ids=["a", "b"],
        sources=["", ""],
        image=None,
        original_sizes=np.ones((2, 2), np.int32),
        crops=np.ones((2, 4), np.float32),
        bucket=(8, 16),
        attributes=attributes,
        embeddings=frozen,
        latents={"frozen": frozen, "odd": [unknown, None], "bytes": [b"x", b"y"], "single": [np.float16(2), frozen]},
        masks={"none": None, "one": np.ones((2, 8, 16, 1), np.uint8)},
        present={"one": np.array([True, True])},
    )
    tensors = as_tensors(batch)
    assert tensors["image"] is None
    assert tensors["attributes"] is attributes
    assert tensors["embeddings"].tolist() == frozen.tolist()
    tensors["embeddings"][:] = 0  # a copy, since the array must not be written
    assert frozen[1, 2] == 5
    assert tensors["latents"]["odd"][0].dtype == unknown.dtype
    assert tensors["latents"]["odd"][1] is None
    assert tensors["latents"]["bytes"] == [b"x", b"y"]
    assert tensors["latents"]["single"][0].item() == 2
    assert tensors["masks"]["none"] is None
    assert tensors["masks"]["one"].shape == (2, 8, 16, 1)
    assert tensors["present"]["one"].dtype == torch.bool
    assert tensors["bucket"] == (8, 16)


def test_it_goes_through_a_data_loader_unchanged(config: LoaderConfig) -> None:
    batches = list(DataLoader(dataset_of(config), batch_size=None))
    assert ids(batches) == passes(config, 1)[0]
    for batch in batches:
        assert isinstance(batch, TensorBatch)
        assert isinstance(batch["bucket"], Bucket)
        assert batch["image"].shape == (len(batch["ids"]), batch["bucket"].height, batch["bucket"].width, 3)


def test_a_data_loader_with_workers_is_refused(config: LoaderConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)  # 5 s for each worker that failed
    with pytest.raises(ConfigError, match="num_workers must be 0 in a DataLoader of a LoaderDataset, got 2"):
        next(iter(DataLoader(dataset_of(config), batch_size=None, num_workers=2)))
    gc.collect()  # ends them


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_data_loader_that_batches_again_is_refused(config: LoaderConfig, batch_size: int) -> None:
    with pytest.raises(ConfigError, match="batch_size=None"):
        next(iter(DataLoader(dataset_of(config), batch_size=batch_size)))


def test_each_iteration_is_the_next_pass(config: LoaderConfig) -> None:
    dataset = dataset_of(config)
    found = [ids(dataset) for _ in range(3)]
    assert found == passes(config, 3)
    assert found[0] != found[1]
    assert is_closed(dataset)


def test_one_that_is_left_early_closes_and_the_next_pass_follows(config: LoaderConfig) -> None:
    dataset = dataset_of(config)
    for _ in DataLoader(dataset, batch_size=None):
        break
    assert is_closed(dataset)
    assert ids(dataset) == passes(config, 2)[1]


def test_without_end_one_iteration_goes_through_the_passes(config: LoaderConfig) -> None:
    endless = changed(config, epochs=None)
    dataset, expected = dataset_of(endless), passes(config, 3)
    stream = iter(dataset)
    first = [next(stream)["ids"] for _ in range(len(expected[0]) + 2)]
    assert first == expected[0] + expected[1][:2]
    stream.close()
    again = iter(dataset)
    assert next(again)["ids"] == expected[2][0]
    again.close()


@pytest.mark.parametrize("taken_ahead", [0, 1])
@pytest.mark.parametrize("behind", ["a pass", "nothing"])
def test_a_state_goes_on_with_exactly_the_rest(config: LoaderConfig, behind: str, taken_ahead: int) -> None:
    dataset, expected, done = dataset_of(config, taken_ahead=taken_ahead), passes(config, 3), int(behind == "a pass")
    for _ in range(done):
        assert ids(dataset) == expected[done - 1]
    stream = iter(dataset)
    assert [next(stream)["ids"] for _ in range(3)] == expected[done][:3]
    state = dataset.state_dict()
    stream.close()
    assert dataset.state_dict() == state, "left early, it still stands there"

    other = dataset_of(config)
    other.load_state_dict(json.loads(json.dumps(state)))
    assert other.state_dict() == state
    assert ids(other) == expected[done][3 - taken_ahead :]
    assert ids(other) == expected[done + 1]


def test_a_state_between_passes_is_the_start_of_the_next(config: LoaderConfig) -> None:
    dataset, expected = dataset_of(config), passes(config, 2)
    fresh = dataset.state_dict()
    assert ids(dataset) == expected[0]
    other = dataset_of(config)
    other.load_state_dict(dataset.state_dict())
    assert ids(other) == expected[1]
    other.load_state_dict(fresh)
    assert ids(other) == expected[0]


def test_a_loader_takes_the_state_too(config: LoaderConfig) -> None:
    dataset = dataset_of(config)
    stream = iter(dataset)
    next(stream)
    with Loader(config, device="cpu", backend="pillow", state=dataset.state_dict()) as loader:
        assert [batch.ids for batch in loader] == passes(config, 1)[0][1:]
    stream.close()


def test_a_state_of_another_order_is_refused_when_it_is_loaded(config: LoaderConfig) -> None:
    state = dataset_of(changed(config, seed=7)).state_dict()
    with pytest.raises(ConfigError, match=r"another order of samples: seed is 7 in the state, 0 here\."):
        dataset_of(config).load_state_dict(state)
    with pytest.raises(ConfigError, match="not the state of a Loader"):
        dataset_of(config).load_state_dict({})


def test_set_epoch_chooses_the_pass_and_keeps_a_state_within_it(config: LoaderConfig) -> None:
    expected, dataset = passes(config, 3), dataset_of(config)
    dataset.set_epoch(2)
    assert ids(dataset) == expected[2]
    dataset.set_epoch(1)
    stream = iter(dataset)
    next(stream)
    state = dataset.state_dict()
    stream.close()
    dataset.load_state_dict(state)
    dataset.set_epoch(1)
    stream = iter(dataset)
    assert ids([next(stream)]) == expected[1][1:2]
    stream.close()
    dataset.set_epoch(2)  # the pass that was left counts no more, also in a state
    dataset.load_state_dict(dataset.state_dict())
    assert ids(dataset) == expected[2]
    dataset.load_state_dict(state)
    dataset.set_epoch(0)
    assert ids(dataset) == expected[0]


def test_limit_holds_for_each_pass(config: LoaderConfig) -> None:
    dataset = dataset_of(changed(config, limit=6))
    assert [sum(len(batch["ids"]) for batch in dataset) for _ in range(2)] == [6, 6]


def test_a_transform_makes_what_is_yielded_and_its_error_closes(config: LoaderConfig) -> None:
    dataset = dataset_of(config, transform=lambda batch: batch["image"].float().mean().item())
    assert all(isinstance(value, float) for value in dataset)

    expected, seen = passes(config, 1)[0], []

    def fail_once(batch: TensorBatch) -> TensorBatch:
        seen.append(batch)
        if len(seen) == 2:
            raise ValueError("no")
        return batch

    failing = dataset_of(config, transform=fail_once)
    with pytest.raises(ValueError, match="no"):
        list(failing)
    assert is_closed(failing)
    failing.load_state_dict(failing.state_dict())
    assert ids(failing) == expected[1:], "the batch of the error was not yielded"


def test_an_error_of_the_source_arrives_and_closes(tmp_path: Path) -> None:
    dataset = dataset_of(file_config(tmp_path / "nowhere"))
    with pytest.raises(SourceError, match="nowhere"):
        list(dataset)
    assert is_closed(dataset)


@pytest.mark.parametrize(
    ("settings", "more", "message"),
    [({"epochs": 3}, {}, "epochs is 3, .*max_epochs"), ({}, {"taken_ahead": -1}, "taken_ahead must be 0 or more")],
)
def test_settings_that_cannot_work(tmp_path: Path, settings: Any, more: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataset_of(file_config(tmp_path, **settings), **more)


def test_it_can_be_sent_to_another_process_in_the_middle_of_a_pass(config: LoaderConfig) -> None:
    dataset = dataset_of(config)
    stream = iter(dataset)
    next(stream)
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.state_dict() == dataset.state_dict()
    stream.close()


RANK = """
import json, logging, sys
import torch.distributed as dist
from datago_gpu.torch import LoaderDataset
rank, store, settings = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
dataset = LoaderDataset(settings, device="cpu", backend="pillow")
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
logging.basicConfig(format="%(message)s")
passes = [[batch["ids"] for batch in dataset] for _ in range(2)]
print(json.dumps(passes))
dist.destroy_process_group()
"""


def run_ranks(config: LoaderConfig, store: Path) -> tuple[list[list[list[list[str]]]], list[str]]:
    """Has two ranks iterate twice. Returns their passes, each a list of batches of ids, and what each has logged."""
    settings = msgspec.json.encode(config).decode()
    environment = {**os.environ, "WORLD_SIZE": "5", "GLOO_SOCKET_IFNAME": "lo"}  # what is initialised comes first
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(store), settings],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        printed = [rank.communicate(timeout=100) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert [rank.returncode for rank in ranks] == [0, 0], printed
    return [json.loads(out) for out, _ in printed], [errors for _, errors in printed]


@pytest.mark.timeout(200)
def test_ranks_come_from_torch_distributed(config: LoaderConfig, tmp_path_factory: pytest.TempPathFactory) -> None:
    passes, logged = run_ranks(config, tmp_path_factory.mktemp("store") / "store")
    first, second = ([name for batch in rank[0] for name in batch] for rank in passes)
    assert sorted(first + second) == [f"{number:04}.jpg" for number in range(COUNT)]
    assert abs(len(first) - len(second)) == 1
    assert [log.count("ranks may yield different numbers of batches") for log in logged] == [1, 1]
    assert [log.count("of 2 by torch.distributed, but rank 0 of 5 by RANK and WORLD_SIZE") for log in logged] == [1, 1]


@pytest.mark.timeout(200)
def test_ranks_with_a_limit_yield_as_many_batches(
    config: LoaderConfig, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The way that the warning names. One rank has fewer samples than the limit, and takes some of them twice."""
    limit = 2 * config.batch_size
    even = msgspec.structs.replace(config, epochs=None, limit=limit, drop_last=True)
    passes, logged = run_ranks(even, tmp_path_factory.mktemp("store") / "store")
    assert [[[len(batch) for batch in batches] for batches in rank] for rank in passes] == 2 * [
        2 * [2 * [config.batch_size]]
    ]
    assert not any("different numbers" in log for log in logged)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata's call
def test_torchdata_keeps_its_state(config: LoaderConfig) -> None:
    stateful = needs("torchdata.stateful_dataloader")
    loader = stateful.StatefulDataLoader(dataset_of(config), batch_size=None)
    stream = iter(loader)
    for _ in range(2):
        next(stream)
    state = loader.state_dict()
    other = stateful.StatefulDataLoader(dataset_of(config), batch_size=None)
    other.load_state_dict(state)
    assert ids(other) == passes(config, 1)[0][2:]


def losses(printed: str) -> dict[int, float]:
    """Step -> loss, from the lines that the example prints."""
    lines = [line.split() for line in printed.splitlines() if line.startswith("pass")]
    return {int(words[3]): float(words[5]) for words in lines}


@pytest.mark.timeout(180)
def test_the_training_example_lowers_its_loss_and_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    # One thread: where tests share the cores, the two of torch wait for each other by spinning, 20 times as long.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def run(*arguments: str) -> str:
        command = [sys.executable, str(EXAMPLE), "--device", "cpu", "--folder", str(tmp_path), "--pictures", "320"]
        done = subprocess.run(
            [*command, *arguments], env=environment, capture_output=True, text=True, timeout=85, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    first = losses(run("--steps", "40"))
    assert list(first) == [20, 40]
    assert first[40] < 0.85 * first[20]
    resumed = run("--steps", "60", "--resume")
    assert "going on after step 40" in resumed
    assert losses(resumed)[60] < first[40]


CLASSES = """
class Outer:
    def __init__(self, data):
        self.data = data
    def __iter__(self):
        return iter(self.data)
    def set_epoch(self, epoch):
        self.data.set_epoch(epoch)
    def _state_dicts(self):
        return [self.data.state_dict()]
"""


@pytest.mark.parametrize("name", ["DataLoaderDispatcher", "DataLoaderShard", "IterableDatasetShard"])
def test_accelerate_must_not_come_between(config: LoaderConfig, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """It would train on one share only, or lose a batch at a resume. tests/frameworks does this with accelerate."""
    theirs = ModuleType("accelerate.data_loader")
    exec(CLASSES.replace("Outer", name), theirs.__dict__)
    monkeypatch.setitem(sys.modules, "accelerate.data_loader", theirs)  # type: ignore[misc]
    dataset = dataset_of(config)
    for world_size in ("2", "1"):
        monkeypatch.setenv("WORLD_SIZE", world_size)
        for data in (dataset, DataLoader(dataset, batch_size=None)):
            with pytest.raises(
                ConfigError, match=rf"its {name} around .* \(here 0 of {world_size}\).*huggingface.Trainer"
            ):
                iter(getattr(theirs, name)(data))
        with pytest.raises(ConfigError, match=r"Pass the LoaderDataset itself to accelerator\.prepare"):
            getattr(theirs, name)(dataset).set_epoch(0)


@pytest.mark.parametrize("taken_ahead", [0, 1])
def test_a_warning_says_once_that_lightning_saves_the_state_too_late(
    config: LoaderConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, taken_ahead: int
) -> None:
    theirs = ModuleType("lightning.pytorch.utilities.combined_loader")
    exec(CLASSES, theirs.__dict__)
    monkeypatch.setitem(sys.modules, theirs.__name__, theirs)  # type: ignore[misc]
    combined = theirs.Outer(dataset_of(config, taken_ahead=taken_ahead))
    for _ in range(2):
        combined._state_dicts()
    assert caplog.text.count("Pass datago_gpu.lightning.DataModule(config) to the Trainer") == 1 - taken_ahead


def test_a_stream_without_end_needs_no_warning_of_uneven_ranks(
    config: LoaderConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("datago_gpu.torch.loader_dataset._is_distributed", lambda: True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for more, warnings in ({"epochs": None}, 0), ({"epochs": None, "limit": 4}, 1), ({}, 1):
        caplog.clear()
        dataset_of(changed(config, **more))._warn_of_uneven_ranks(changed(config, **more).with_ranks())
        assert caplog.text.count("ranks may yield different numbers") == warnings


def test_the_state_of_all_ranks_is_that_of_one_process(config: LoaderConfig) -> None:
    dataset, other = dataset_of(config), dataset_of(config)
    dataset.set_epoch(2)
    state = json.loads(json.dumps(StateOfAllRanks(dataset).state_dict()))
    StateOfAllRanks(other).load_state_dict(state)
    assert other.state_dict() == dataset.state_dict()
    with pytest.raises(ConfigError, match=r"the state is of 3 ranks, but here are 1: only .* lockstep"):
        StateOfAllRanks(other).load_state_dict({"ranks": state["ranks"] * 3})
    with pytest.raises(ConfigError, match="not the state of all ranks"):
        StateOfAllRanks(other).load_state_dict(dataset.state_dict())
    with pytest.raises(ConfigError, match="not the state of all ranks of a LoaderDataset: it is a NoneType"):
        StateOfAllRanks(other).load_state_dict(None)  # type: ignore[arg-type]


def test_the_first_pass_is_the_same_each_time(config: LoaderConfig) -> None:
    first, expected = FirstPass(dataset_of(config)), passes(config, 1)[0]
    next(iter(first))
    assert ids(first) == ids(first) == expected


def test_the_first_pass_of_data_that_is_trained_on_leaves_its_position(config: LoaderConfig) -> None:
    dataset, expected = dataset_of(config), passes(config, 2)
    dataset.set_epoch(1)
    stream = iter(dataset)
    next(stream)
    assert ids(FirstPass(dataset, dataset)) == expected[0]
    assert dataset.stats().epoch == 1
    next(stream)
    dataset.load_state_dict(dataset.state_dict())
    assert ids(dataset) == expected[1][2:]


def test_the_counts_of_a_dataset_go_on_over_its_passes(config: LoaderConfig, tmp_path: Path) -> None:
    (tmp_path / "0000.jpg").write_bytes(b"no image")
    dataset = dataset_of(config)
    assert (dataset.stats().delivered, dataset.stats().source, dataset.stats().skipped) == (0, "file", {})
    for number in (1, 2):
        for _ in dataset:
            assert dataset.stats().delivered > (number - 1) * (COUNT - 1)
        stats = dataset.stats()
        assert (stats.delivered, sum(stats.skipped.values())) == (number * (COUNT - 1), number)
        assert (stats.epoch, stats.epoch_done, stats.epoch_total) == (number - 1, COUNT, COUNT)
    before = dataset.stats()
    left = iter(dataset)
    next(left)
    left.close()
    late = dataset.stats().since(before)
    assert 0 < late.delivered < COUNT
    assert late.data_wait.count == 1
    assert pickle.loads(pickle.dumps(dataset)).stats().delivered == 0
