"""Whole Loaders on rows of the program's own: pixels, mixed places, errors, hanging code, a feeder that dies."""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datago_gpu import Batch, ConfigError, FeederError, Loader, Row, SourceError
from tests.support.images import SHAPES, add_picture, add_pictures
from tests.support.needs import needs
from tests.support.patience import quickest
from tests.support.servers import Answer, MisbehavingServer

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_source.py"
CONFIG: dict[str, Any] = {
    "image_config": {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 16},
    "decode_config": {"processes": 0},
    "batch_size": 4,
}


def load(source: object, **more: Any) -> list[Batch]:
    with Loader({**CONFIG, **more}, device="cpu", source=source) as loader:
        return list(loader)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    add_pictures(tmp_path, SHAPES * 4)
    return tmp_path


def rows_in(folder: Path) -> list[Row]:
    return [Row(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]


def test_rows_by_bytes_path_and_address_give_the_batches_of_the_folder(folder: Path) -> None:
    paths = sorted(folder.iterdir())
    wanted = load_folder(folder)
    with MisbehavingServer() as server:
        for path in paths:
            server.script(f"/{path.name}", Answer(body=path.read_bytes()))
        places = [lambda path: path.read_bytes(), str, lambda path: f"{server.url}/{path.name}"]
        rows = [
            Row(path.name, places[number % 3](path), masks={"m": paths[0], "n": paths[0].read_bytes()})
            for number, path in enumerate(paths)
        ]
        found = load(rows)
    assert [batch.ids for batch in found] == [batch.ids for batch in wanted]
    for batch, other in zip(found, wanted, strict=True):
        assert np.array_equal(batch.image, other.image)
        assert batch.masks["m"].shape == batch.masks["n"].shape == (len(batch), *batch.bucket, 1)


@pytest.mark.parametrize("processes", [0, 1])
def test_rows_may_have_any_number_of_parts(folder: Path, processes: int) -> None:
    """The settings name none of them, so the decode processes do not know of them before the first batch."""
    paths = sorted(folder.iterdir())
    names = [f"mask{number}" for number in range(5)]
    rows = [Row(path.name, path, masks=dict.fromkeys(names, path)) for path in paths]
    rows[3] = Row("bad", paths[3], masks={**dict.fromkeys(names, paths[3]), "mask4": b"no picture"})
    found = load(rows, decode_config={"processes": processes, "prefetch": 1}, samples_buffer_size=4)
    assert sum(map(len, found)) == len(rows) - 1
    for batch in found:
        assert [batch.masks[name].shape for name in names] == [(len(batch), *batch.bucket, 1)] * len(names)


def load_folder(folder: Path) -> list[Batch]:
    config = {**CONFIG, "source_type": "file", "source_config": {"root_path": str(folder)}}
    with Loader(config, device="cpu") as loader:
        return list(loader)


def test_bad_rows_are_skipped_and_counted(folder: Path) -> None:
    rows = [*rows_in(folder), Row("none", folder / "none.jpg"), Row("no image", b"text"), Row("empty", b"")]
    rows.append(Row("mask", folder / "0000.jpg", masks={"m": folder / "none.png"}))
    with Loader(CONFIG, device="cpu", source=rows) as loader:
        assert sum(map(len, loader)) == len(SHAPES) * 4
        assert loader.stats().skipped == {"missing": 2, "unknown-format": 1, "empty": 1}


def test_a_shuffled_sequence_resumes_and_each_epoch_has_each_row(folder: Path) -> None:
    config = {**CONFIG, "source_config": {"random_sampling": True}, "epochs": 2, "seed": 3}
    rows = rows_in(folder)
    with Loader(config, device="cpu", source=rows) as loader:
        first = [next(loader).ids for _ in range(3)]
        state = loader.state_dict()
        rest = [batch.ids for batch in loader]
    assert sorted(name for ids in first + rest for name in ids) == sorted(2 * [row.id for row in rows])
    with Loader(config, device="cpu", source=rows, state=state) as loader:
        assert [batch.ids for batch in loader] == rest
    with pytest.raises(ConfigError, match="the data has changed since the state was saved: there are 11 rows"):
        next(Loader(config, device="cpu", source=rows[1:], state=state))


def test_a_function_resumes_by_leaving_out_as_many_rows_as_are_done(folder: Path) -> None:
    rows = rows_in(folder)
    with Loader(CONFIG, device="cpu", source=lambda epoch: iter(rows)) as loader:
        next(loader)
        state = loader.state_dict()
        rest = [batch.ids for batch in loader]
        loader.load_state_dict(state)
        assert [batch.ids for batch in loader] == rest


def test_an_error_of_the_program_is_the_cause_of_a_source_error_after_all_rows_before_it(folder: Path) -> None:
    rows, problem = rows_in(folder), KeyError("lmdb")

    def breaks(epoch: int) -> Iterator[Row]:
        yield from rows[:6]
        raise problem

    seen: list[str] = []
    loader = Loader(CONFIG, device="cpu", source=breaks)
    with pytest.raises(SourceError, match="row 6 of the source cannot be read: KeyError: 'lmdb'") as caught:
        seen.extend(sample.id for sample in loader.samples())
    assert caught.value.__cause__ is problem
    assert sorted(seen) == [row.id for row in rows[:6]]


def test_a_program_that_hangs_holds_up_neither_the_rows_before_nor_close(folder: Path) -> None:
    rows = rows_in(folder)
    release = threading.Event()

    def hangs(epoch: int) -> Iterator[Row]:
        yield from rows[:2]
        release.wait()

    def close_after_two() -> float:
        loader = Loader({**CONFIG, "batch_size": 1}, device="cpu", source=hangs)
        assert [next(loader).ids, next(loader).ids] == [[rows[0].id], [rows[1].id]]
        clock = time.perf_counter()
        loader.close()
        return time.perf_counter() - clock

    assert quickest(close_after_two, 1.0) < 1.0
    release.set()


def test_rows_without_end_stop_at_the_limit(folder: Path) -> None:
    row = rows_in(folder)[0]
    taken: list[int] = []

    def endless(epoch: int) -> Iterator[Row]:
        while True:
            taken.append(1)
            yield row

    assert sum(map(len, load(endless, limit=10, prefetch_buffer_size=16))) == 10
    assert len(taken) < 200


def test_a_feeder_that_dies_is_replaced_and_orders_the_rows_again(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = rows_in(folder)[0].image
    rows = [Row(f"{number:03}", image) for number in range(60)]
    small = {**CONFIG, "batch_size": 1, "samples_buffer_size": 1, "prefetch_buffer_size": 1}
    for source in (rows, lambda epoch: iter(rows)):
        with Loader(small, device="cpu", source=source) as loader:
            ids = list(next(loader).ids)
            os.kill(loader.feeder_pid, signal.SIGKILL)
            ids += [sample.id for batch in loader for sample in batch]
            assert "a new one continues from there" in caplog.text
            caplog.clear()
        assert ids == [row.id for row in rows]


def test_a_feeder_that_dies_cannot_walk_an_iterator_again(folder: Path) -> None:
    rows = rows_in(folder)
    wait = threading.Event()

    def walked() -> Iterator[Row]:
        yield from rows[:4]
        wait.wait()
        yield from rows[4:]

    with Loader({**CONFIG, "batch_size": 1}, device="cpu", source=walked()) as loader:
        next(loader)
        os.kill(loader.feeder_pid, signal.SIGKILL)
        with pytest.raises(FeederError, match="the source is an iterator, which cannot start again"):
            list(loader)
        wait.set()


def test_a_dataset_reads_the_rows_of_each_pass(folder: Path) -> None:
    needs("torch")
    from datago_gpu.torch import LoaderDataset

    rows = rows_in(folder)
    epochs: list[int] = []

    def function(epoch: int) -> list[Row]:
        epochs.append(epoch)
        return rows

    dataset = LoaderDataset(CONFIG, device="cpu", source=function)
    for _ in range(2):
        assert sum(len(batch["ids"]) for batch in dataset) == len(rows)
    assert epochs == [0, 1]
    once = LoaderDataset(CONFIG, device="cpu", source=iter(rows))
    assert sum(len(batch["ids"]) for batch in once) == len(rows)
    with pytest.raises(ConfigError, match="another Loader or pass has begun to use it up"):
        list(once)


def test_a_picture_that_is_added_to_a_sequence_meanwhile_is_not_seen(folder: Path) -> None:
    rows = rows_in(folder)
    with Loader({**CONFIG, "epochs": 2}, device="cpu", source=rows) as loader:
        rows.append(Row("late", add_picture(folder / "late.jpg")))
        assert sum(map(len, loader)) == 2 * (len(rows) - 1)


def test_two_passes_that_are_open_at_once_take_turns(folder: Path) -> None:
    needs("torch")
    from datago_gpu.torch import LoaderDataset

    rows = [row for _ in range(8) for row in rows_in(folder)]
    dataset = LoaderDataset({**CONFIG, "prefetch_buffer_size": 4}, device="cpu", source=rows)
    one = iter(dataset)
    begun = len(next(one)["ids"])
    assert sum(len(batch["ids"]) for batch in dataset) == len(rows)
    assert begun + sum(len(batch["ids"]) for batch in one) == len(rows)


def test_ranks_in_lockstep_share_a_sequence_that_has_its_sizes_at_hand(folder: Path) -> None:
    class Sized(list[Row]):
        def sizes(self) -> Any:
            return np.array(SHAPES * 4)

    rows = Sized(rows_in(folder))
    ranks = []
    for rank in range(2):
        source = {"rank": rank, "world_size": 2, "random_sampling": True}
        config = {**CONFIG, "lockstep": True, "batch_size": 2, "source_config": source}
        with Loader(config, device="cpu", source=rows) as loader:
            ranks.append(list(loader))
            assert len(loader) == len(ranks[-1])
    for one, other in zip(*ranks, strict=True):
        assert one.bucket == other.bucket
        assert one.image.shape == other.image.shape == (2, *one.bucket, 3)
    assert sorted(sample.id for batch in sum(ranks, []) for sample in batch) == [row.id for row in rows]  # noqa: RUF017


@pytest.mark.parametrize("way", ["", "--datasets"])
def test_the_example_runs(way: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if way:
        needs("datasets")
    monkeypatch.setattr(sys, "argv", ["own_source.py", "--device", "cpu", *filter(None, [way])])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    *batches, total = capsys.readouterr().out.splitlines()
    assert total == "32 images"
    assert all("a photograph: " in batch for batch in batches)
