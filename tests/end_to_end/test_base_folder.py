"""Relative paths belong to the folder in which the Loader was made, wherever the program goes later."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datago_gpu import ConfigError, Loader, LoaderConfig
from datago_gpu.compat import DatagoClient
from datago_gpu.preview import gather
from datago_gpu.sources.webdataset.addresses import list_addresses
from tests.support.images import add_picture
from tests.support.needs import needs
from tests.support.shards import tar_bytes

COUNT = 30
Config = dict[str, Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders, A and B: other pictures in folders and shards of the same names."""
    root = tmp_path_factory.mktemp("made")
    for name in "AB":
        for number in range(COUNT):
            add_picture(root / name / "data" / f"{name}{number:02}.jpg")
        (root / name / "data" / "bad.jpg").write_bytes(b"no picture")
        pictures = sorted((root / name / "data").glob(f"{name}*"))
        for number in range(3):
            content = [(path.name, path.read_bytes()) for path in pictures[number::3]]
            (root / name / f"{number}.tar").write_bytes(tar_bytes(content))
        (root / name / "list.txt").write_text("0.tar\n{1..2}.tar\n")
    return root


@pytest.fixture
def here(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder A, where the test begins."""
    monkeypatch.chdir(made / "A")
    return made / "A"


SOURCES: dict[str, Config] = {
    "folder": {"source_type": "file", "source_config": {"root_path": "data"}},
    "dots": {"source_type": "file", "source_config": {"root_path": "./../A/data/"}},
    "shuffled": {"source_type": "file", "source_config": {"root_path": "data", "random_sampling": True}},
    "shards": {"source_type": "webdataset", "source_config": {"url": "{0..2}.tar"}},
    "wildcards": {"source_type": "webdataset", "source_config": {"url": "?.tar"}},
    "folder of shards": {"source_type": "webdataset", "source_config": {"url": "."}},
    "list": {"source_type": "webdataset", "source_config": {"url": "@list.txt"}},
}


@pytest.fixture(params=SOURCES)
def config(request: pytest.FixtureRequest) -> Config:
    return {**SOURCES[request.param], "batch_size": 4, "samples_buffer_size": 4, "prefetch_buffer_size": 8}


def sources_of(names: list[str]) -> set[str]:
    return {os.path.basename(name.strip('"'))[0] for name in names}


def test_a_feeder_that_is_started_again_reads_the_same_folder(
    here: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    with Loader(config, device="cpu") as loader:
        for number, batch in enumerate(loader):
            names += batch.ids
            if number == 1:
                monkeypatch.chdir(here.parent / "B")
                os.kill(loader.feeder_pid, signal.SIGKILL)
    assert (len(names), sources_of(names)) == (COUNT, {"A"})


def test_the_next_pass_of_a_dataset_reads_the_same_folder(
    here: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = needs("datago_gpu.torch").LoaderDataset(config, device="cpu")
    for folder in ("A", "B"):
        monkeypatch.chdir(here.parent / folder)
        names = [name for batch in dataset for name in batch["ids"]]
        assert (len(names), sources_of(names)) == (COUNT, {"A"})


def test_a_client_reads_the_folder_in_which_it_was_made(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its ids are the paths as they were given, as datago's are."""
    config = {"source_type": "file", "source_config": {"root_path": "data"}, "limit": 100, "samples_buffer_size": 8}
    client = DatagoClient(json.dumps(config), device="cpu")
    monkeypatch.chdir(here.parent / "B")
    for _ in range(2):
        client.start()
        names = [sample.id for sample in iter(client.get_sample, None)]
        assert names == [f'"data/A{number:02}.jpg"' for number in range(COUNT)]


def test_a_state_is_loaded_into_the_same_folder(here: Path, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    with Loader(config, device="cpu") as loader:
        start = loader.state_dict()
        monkeypatch.chdir(here.parent / "B")
        loader.load_state_dict(start)
        assert sources_of(next(loader).ids) == {"A"}


def test_skipped_samples_are_listed_in_the_same_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {**SOURCES["folder"], "skipped_file": "skipped.jsonl"}
    dataset = needs("datago_gpu.torch").LoaderDataset(config, device="cpu")
    for folder in ("A", "B"):
        monkeypatch.chdir(here.parent / folder)
        list(dataset)
    assert (here / "skipped.jsonl").read_text().count("bad.jpg") == 4  # as id and as path
    assert not (here.parent / "B" / "skipped.jsonl").exists()


def test_paths_may_begin_in_a_folder_of_the_config(made: Path, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    for base in ("A", made / "A"):
        monkeypatch.chdir(made)
        with Loader({**config, "base_folder": base}, device="cpu") as loader:
            monkeypatch.chdir(made / "B")
            assert sources_of(next(loader).ids) == {"A"}


def test_rank_and_world_size_are_those_at_the_start(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with Loader({**SOURCES["folder"], "batch_size": 4, "samples_buffer_size": 4}, device="cpu") as loader:
        names = next(loader).ids
        monkeypatch.setenv("RANK", "0")
        os.kill(loader.feeder_pid, signal.SIGKILL)
        names += [name for batch in loader for name in batch.ids]
        assert loader.state_dict()["order"]["rank"] == 1
    assert names == [f"A{number:02}.jpg" for number in range(1, COUNT, 2)]


def test_a_preview_reads_one_folder(here: Path) -> None:
    overview = gather({**SOURCES["folder"], "image_config": {"crop_and_resize": True}}, batches=1, samples=2)
    assert [shown.id for shown in overview.batches[0].samples] == ["A00.jpg", "A01.jpg"]


def test_wildcards_in_the_name_of_the_folder_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run[1]*"
    folder.mkdir()
    (folder / "a.tar").touch()
    (folder / "list").write_text("*.tar\n")
    monkeypatch.chdir(folder)
    config = LoaderConfig.load(SOURCES["shards"]).anchor_paths()
    monkeypatch.chdir(tmp_path)
    for url in ("*.tar", "./*.tar", "a.tar", ".", "@list", "file://a.tar", f"{folder}"):
        assert list_addresses(url, config.absolute) == [str(folder / "a.tar")]


def gone(folder: Path) -> None:
    folder.rmdir()


def renamed(folder: Path) -> None:
    folder.rename(os.fsdecode(os.fsencode(folder) + b"\xff"))


@pytest.mark.parametrize("what", [gone, renamed])
def test_where_the_working_folder_cannot_be_told_paths_have_to_be_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: Callable[[Path], None]
) -> None:
    add_picture(tmp_path / "data" / "a.jpg")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    what(tmp_path / "here")
    with Loader(
        {"source_type": "file", "source_config": {"root_path": str(tmp_path / "data")}}, device="cpu"
    ) as loader:
        assert next(loader).ids == ["a.jpg"]
    relative = {"source_type": "file", "source_config": {"root_path": "../data"}}
    with (
        Loader(relative, device="cpu") as loader,
        pytest.raises(
            ConfigError, match=r"^'../data' is relative, and the working folder was removed, or its name is not "
        ),
    ):
        next(loader)
    with pytest.raises(ConfigError, match="is relative"):
        Loader({**relative, "skipped_file": "x"}, device="cpu")
