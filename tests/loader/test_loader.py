"""The whole loader on real files: what it delivers, in which order, and how it ends."""

from __future__ import annotations

import gc
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

import datago_gpu
from datago_gpu import Batch, ConfigError, DatagoError, FeederError, Loader, SourceError, TooManyErrors
from datago_gpu.server import DataroomServer
from tests.support.needs import needs
from tests.support.patience import end_of_loaders

PHOTOS = Path(datago_gpu.__file__).parent / "photos"
NAMES = sorted(path.name for path in PHOTOS.glob("*.[jp][pn]g"))

Config = dict[str, Any]


@pytest.fixture(params=["pillow", "dali"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The shipped photographs, in a folder that a test may add to."""
    for name in NAMES:
        shutil.copy(PHOTOS / name, tmp_path / name)
    return tmp_path


def config(root: Path, size: int = 64, **more: Any) -> Config:
    image = {"crop_and_resize": True, "default_image_size": size, "downsampling_ratio": 16}
    source = {"root_path": str(root), **more.pop("source", {})}
    return {
        "source_type": "file",
        "source_config": source,
        "image_config": {**image, **more.pop("image", {})},
        "batch_size": 4,
        **more,
    }


def ids(batches: list[Batch]) -> list[list[str]]:
    return [batch.ids for batch in batches]


def load(settings: Config, backend: str = "pillow") -> list[Batch]:
    with Loader(settings, device="cpu", backend=backend) as loader:
        return list(loader)


def without_scan(jpeg: bytes) -> bytes:
    """A JPEG whose header is fine and ends as it should, with no pixels in it: only a decoder finds out."""
    return jpeg[: jpeg.index(b"\xff\xda")] + b"\xff\xd9"


def test_every_image_arrives_once_in_dense_batches_of_its_bucket(backend: str) -> None:
    batches = load(config(PHOTOS), backend)
    assert sorted(name for batch in batches for name in batch.ids) == NAMES
    for batch in batches:
        assert batch.bucket is not None
        assert batch.image.shape == (len(batch), *batch.bucket, 3)
        assert batch.image.dtype == np.uint8
        assert batch.original_sizes.shape == (len(batch), 2)
        assert batch.crops.shape == (len(batch), 4)
        assert 1 <= len(batch) <= 4


def test_a_rotated_photograph_stands_upright() -> None:
    batches = load(config(PHOTOS, size=256))
    sample = next(sample for batch in batches for sample in batch if sample.id == "heron.jpg")
    assert sample.original_size == (800, 640)
    assert sample.image.shape[0] > sample.image.shape[1]


def test_both_back_ends_show_the_same_pictures() -> None:
    of_pillow, of_dali = (load(config(PHOTOS, decode_config={"draft": False}), name) for name in ("pillow", "dali"))
    assert ids(of_pillow) == ids(of_dali)
    for ours, theirs in zip(of_pillow, of_dali, strict=True):
        np.testing.assert_array_equal(ours.crops, theirs.crops)
        assert np.abs(ours.image.astype(int) - theirs.image.astype(int)).mean() < 1.0


def test_the_order_does_not_depend_on_timing() -> None:
    one = load(config(PHOTOS, http_config={"concurrent_downloads": 1}, prefetch_buffer_size=1, samples_buffer_size=1))
    many = load(config(PHOTOS, http_config={"concurrent_downloads": 32}))
    assert ids(one) == ids(many)


def test_a_shuffle_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int) -> list[str]:
        settings = config(PHOTOS, batch_size=1, epochs=2, seed=seed, source={"random_sampling": True})
        return [name for batch in load(settings) for name in batch.ids]

    first = order(1)
    assert first == order(1)
    assert first != order(2)
    assert sorted(first[:16]) == sorted(first[16:]) == NAMES
    assert first[:16] != first[16:]


def test_ranks_share_the_images_without_overlap() -> None:
    shares = [load(config(PHOTOS, source={"rank": rank, "world_size": 3})) for rank in range(3)]
    assert sorted(name for batches in shares for batch in batches for name in batch.ids) == NAMES


@pytest.mark.parametrize("limit", [1, 3, 4, 5, 16, 17, 40])
def test_the_limit_counts_delivered_samples_exactly(limit: int) -> None:
    batches = load(config(PHOTOS, limit=limit, epochs=3))
    assert sum(map(len, batches)) == limit


def test_the_limit_is_reached_in_spite_of_images_that_cannot_be_decoded(folder: Path, backend: str) -> None:
    for name in ("a", "b", "c", "d", "e"):
        (folder / f"{name}.jpg").write_bytes(without_scan((PHOTOS / "cat.jpg").read_bytes()))
    with Loader(config(folder, limit=12), device="cpu", backend=backend) as loader:
        assert sum(len(batch) for batch in loader) == 12
        assert loader.stats().skipped == {"undecodable": 5}
        assert loader.stats().delivered == 12


def test_drop_last_delivers_full_batches_only() -> None:
    full = [batch.ids for batch in load(config(PHOTOS)) if len(batch) == 4]
    assert full
    assert ids(load(config(PHOTOS, drop_last=True))) == full
    assert ids(load(config(PHOTOS, drop_last=True, limit=7))) == full[:1]


def test_without_crop_and_resize_images_keep_their_sizes(backend: str) -> None:
    batches = load(config(PHOTOS, image={"crop_and_resize": False}, limit=6), backend)
    for batch in batches:
        assert isinstance(batch.image, list)
        assert batch.bucket is None
        for sample in batch:
            assert sample.image.shape == (*sample.original_size, 3)


def test_layout_and_normalisation_are_applied(backend: str) -> None:
    plain = load(config(PHOTOS, limit=4), backend)
    image = {"layout": "CHW", "dtype": "float32", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    formed = load(config(PHOTOS, limit=4, image=image), backend)
    for before, after in zip(plain, formed, strict=True):
        wanted = (before.image / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
        assert after.image.dtype == np.float32
        np.testing.assert_allclose(after.image, wanted.transpose(0, 3, 1, 2), atol=0.02)


def test_bad_files_cost_themselves_only_and_are_counted_by_reason(folder: Path, backend: str) -> None:
    whole = (PHOTOS / "otters.jpg").read_bytes()
    (folder / "x-cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "x-empty.png").write_bytes(b"")
    (folder / "x-page.jpg").write_bytes(b"<html>not found</html>")
    (folder / "x-scan.jpg").write_bytes(without_scan(whole))
    with Loader(config(folder), device="cpu", backend=backend) as loader:
        assert sorted(name for batch in loader for name in batch.ids) == NAMES
        skipped = loader.stats().skipped
    assert skipped == {"empty": 1, "unknown-format": 1, "undecodable": 2}


def test_too_many_bad_samples_end_the_run(folder: Path) -> None:
    for number in range(3):
        (folder / f"bad-{number}.jpg").write_bytes(b"no image")
    with (
        Loader(config(folder, max_failures=2), device="cpu") as loader,
        pytest.raises(
            TooManyErrors, match=r"3 of \d+ samples were bad \(3 unknown-format\); max_failures is 2"
        ) as caught,
    ):
        list(loader)
    assert [error.id for error in caught.value.last] == ["bad-0.jpg", "bad-1.jpg", "bad-2.jpg"]


def test_a_run_in_which_all_is_bad_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(TooManyErrors, match="1 of 1 samples were bad"):
        load(config(tmp_path))


@pytest.mark.parametrize("missing", ["nowhere", "empty"])
def test_a_source_without_images_is_an_error(tmp_path: Path, missing: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=missing):
        load(config(tmp_path / missing))


def test_cuda_without_a_gpu_says_what_is_missing() -> None:
    from datago_gpu.decoders.select import choose

    if choose().device_id is not None:
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match="CUDA driver"):
        Loader(config(PHOTOS), device="cuda")


def test_a_loop_that_was_left_goes_on_where_it_stopped() -> None:
    whole = ids(load(config(PHOTOS)))
    with Loader(config(PHOTOS), device="cpu") as loader:
        first = []
        for batch in loader:
            first.append(batch.ids)
            break
        assert first + ids(list(loader)) == whole
        assert next(loader, None) is None


def test_a_loop_over_epochs_is_an_error_that_names_the_setting() -> None:
    """In place of epochs without a batch. The iterator that has ended goes on to end."""
    with Loader(config(PHOTOS, limit=9), device="cpu") as loader:
        samples, batches = loader.samples(), iter(loader)
        start = loader.state_dict()
        assert len(list(samples)) == 9
        assert next(samples, None) is next(loader, None) is next(iter(batches), None) is None
        for again in (lambda: list(loader), lambda: next(loader.samples())):
            with pytest.raises(DatagoError, match=r"\(epochs is 1, limit is 9\): set epochs to the number of passes"):
                again()
        loader.load_state_dict(start)
        assert sum(map(len, loader)) == 9
    with pytest.raises(DatagoError, match="LoaderDataset"):  # also if each pass is in a `with`
        iter(loader)


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_state_resumes_with_the_very_rest(shuffled: bool) -> None:
    settings = config(PHOTOS, epochs=2, source={"random_sampling": shuffled}, batch_size=3)
    whole, states = [], []
    with Loader(settings, device="cpu") as loader:
        for batch in loader:
            whole.append(batch.ids)
            states.append(json.loads(json.dumps(loader.state_dict())))
    for taken in range(0, len(states), 3):
        with Loader(settings, device="cpu") as loader:
            loader.load_state_dict(states[taken])
            assert ids(list(loader)) == whole[taken + 1 :]


def test_a_state_within_a_batch_counts_the_samples_yielded() -> None:
    with Loader(config(PHOTOS), device="cpu") as loader:
        samples = loader.samples()
        seen = [next(samples).id for _ in range(6)]
        state = loader.state_dict()
        loader.load_state_dict(state)
        rest = [sample.id for sample in loader.samples()]
    assert sorted(seen + rest) == NAMES


def test_the_limit_counts_across_a_resume() -> None:
    settings = config(PHOTOS, limit=10)
    with Loader(settings, device="cpu") as loader:
        first = len(next(loader))
        state = loader.state_dict()
    with Loader(settings, device="cpu") as loader:
        loader.load_state_dict(state)
        assert sum(len(batch) for batch in loader) == 10 - first


def test_a_state_of_another_order_is_refused() -> None:
    source = {"random_sampling": True}
    with Loader(config(PHOTOS, source=source), device="cpu") as loader:
        state = loader.state_dict()
    with Loader(config(PHOTOS, source=source, seed=5), device="cpu") as loader:
        with pytest.raises(ConfigError, match=r"another order of samples: seed is 0 in the state, 5 here\."):
            loader.load_state_dict(state)
        with pytest.raises(ConfigError, match="not the state of a Loader"):
            loader.load_state_dict({"epoch": 3})


def test_a_second_feeder_that_is_killed_is_an_error_and_what_was_loaded_comes_first() -> None:
    with Loader(config(PHOTOS, epochs=None), device="cpu") as loader:
        first = loader.feeder_pid
        os.kill(first, 9)
        while loader.feeder_pid == first:
            next(loader)
        next(loader)
        os.kill(loader.feeder_pid, 9)
        with pytest.raises(FeederError, match=r"(?s)SIGKILL.*SIGKILL"):
            for _ in loader:
                pass


def test_close_from_another_thread_ends_the_iteration(backend: str) -> None:
    loader = Loader(config(PHOTOS, epochs=None), device="cpu", backend=backend)
    taken = threading.Event()

    def take() -> None:
        for _ in loader:
            taken.set()

    trainer = threading.Thread(target=take)
    trainer.start()
    assert taken.wait(20)
    loader.close()
    loader.close()
    trainer.join(5)
    assert not trainer.is_alive()


def test_nothing_is_left_behind(backend: str) -> None:
    """Threads, processes and descriptors after a loader was closed at once, half-way, at the end, or dropped."""
    load(config(PHOTOS), backend)  # what stays for the process's life comes into being here
    end_of_loaders()  # of other tests
    me = psutil.Process()

    def held() -> tuple[int, int, int]:
        gc.collect()
        ours = [thread for thread in threading.enumerate() if thread.name.startswith("datago")]
        return len(ours), len(me.children()), me.num_fds()

    before = held()
    Loader(config(PHOTOS), device="cpu", backend=backend).close()
    with Loader(config(PHOTOS), device="cpu", backend=backend) as loader:
        next(loader)
    load(config(PHOTOS), backend)
    dropped = Loader(config(PHOTOS), device="cpu", backend=backend)
    next(dropped)
    del dropped, loader
    assert held() == before


def test_batches_stay_valid_after_the_loader_is_closed(backend: str) -> None:
    with Loader(config(PHOTOS), device="cpu", backend=backend) as loader:
        batches = list(loader)
        sums = [int(batch.image.sum()) for batch in batches]
    del loader
    load(config(PHOTOS, epochs=3), backend)
    assert [int(batch.image.sum()) for batch in batches] == sums


def test_images_are_handed_over_without_a_copy(backend: str) -> None:
    batch = load(config(PHOTOS), backend)[0]
    view = np.from_dlpack(batch.image)
    assert view.__array_interface__["data"][0] == np.asarray(batch.image).__array_interface__["data"][0]
    torch = needs("torch")
    assert torch.from_dlpack(batch.image).data_ptr() == view.__array_interface__["data"][0]


def test_stats_name_every_stage() -> None:
    with Loader(config(PHOTOS), device="cpu") as loader:
        list(loader)
        stats = loader.stats()
    assert [stage.name for stage in stats.stages] == ["fetch", "pack", "decode", "trainer"]
    assert all(stage.items == 16 for stage in stats.stages)
    assert all(0 <= stage.waited_input <= 1 and 0 <= stage.waited_output <= 1 for stage in stats.stages)
    assert stats.bytes > 1_000_000
    assert stats.slowest in ("fetch", "pack", "decode", "trainer")


def test_stats_tell_what_the_feeder_takes_of_a_core() -> None:
    """By the kernel's own count, which is of ticks of 10 ms."""
    with Loader(config(PHOTOS, epochs=None), device="cpu", backend="pillow") as loader:
        process = psutil.Process(loader.feeder_pid)
        for _ in zip(loader, range(40), strict=False):
            stats = loader.stats()
        used = process.cpu_times()
    assert 0.01 < stats.feeder_cores * stats.seconds < used.user + used.system + 0.02


def test_repr_shows_shapes_and_no_pixels() -> None:
    batch = load(config(PHOTOS, batch_size=2))[0]
    assert repr(batch) == f"Batch(2 samples, image={batch.image.shape} uint8, bucket={batch.bucket}, epoch=0)"
    assert repr(batch[0]).startswith(
        f"Sample(id={batch.ids[0]!r}, image=({batch.bucket[0]}, {batch.bucket[1]}, 3) uint8"
    )


@pytest.fixture
def dataroom(folder: Path) -> Iterator[DataroomServer]:
    for number, name in enumerate(NAMES):
        about = {"id": f"id-{number:02d}", "source": "photos", "attributes": {"name": name}, "tags": ["shipped"]}
        (folder / name).with_suffix(".json").write_text(json.dumps(about))
    with DataroomServer(folder, payload_port=0) as server:
        yield server


def of_server(server: DataroomServer, **source: Any) -> Config:
    settings = config(Path("unused"), source_type="db")
    settings["source_config"] = {"api_url": server.url, "api_key": server.key, "page_size": 5, **source}
    return settings


def test_a_dataroom_streams_with_attributes_and_tags(dataroom: DataroomServer, backend: str) -> None:
    samples = [sample for batch in load(of_server(dataroom, sources="photos"), backend) for sample in batch]
    assert {sample.id: sample.attributes["name"] for sample in samples} == {
        f"id-{number:02d}": name for number, name in enumerate(NAMES)
    }
    assert all(sample.tags == ["shipped"] and sample.source == "photos" for sample in samples)


def test_a_dataroom_resumes(dataroom: DataroomServer) -> None:
    settings = of_server(dataroom)
    whole, states = [], []
    with Loader(settings, device="cpu") as loader:
        for batch in loader:
            whole.append(batch.ids)
            states.append(loader.state_dict())
    with Loader(settings, device="cpu") as loader:
        loader.load_state_dict(states[1])
        assert ids(list(loader)) == whole[2:]


def test_a_wrong_key_is_named_as_the_reason_and_not_shown(dataroom: DataroomServer) -> None:
    with pytest.raises(SourceError, match="key") as caught:
        load(of_server(dataroom, api_key="f" * 40))
    assert "ffff" not in str(caught.value)


def test_a_server_that_is_down_is_named(dataroom: DataroomServer) -> None:
    settings = of_server(dataroom)
    settings["http_config"] = {"max_tries": 2, "max_backoff_s": 0.01}
    url = dataroom.url
    dataroom.close()
    with pytest.raises(SourceError, match=url):
        load(settings)


def test_addresses_that_stay_expired_are_the_fault_of_the_source(folder: Path) -> None:
    with DataroomServer(folder, url_ttl_s=1e-6) as server, pytest.raises(SourceError, match=r"16 http-403.*renew it"):
        load(of_server(server))


def test_a_picture_is_the_part_that_crops_names(tmp_path: Path) -> None:
    """A picture that carries its coordinates: red grows to the right, green downwards."""
    across, down = np.meshgrid(np.linspace(0, 255, 900), np.linspace(0, 255, 300))
    Image.fromarray(np.dstack([across, down, across * 0]).round().astype(np.uint8)).save(tmp_path / "a.png")
    (sample,) = [sample for batch in load(config(tmp_path, size=128)) for sample in batch]
    top, left, height, width = sample.crop
    high, wide = sample.image.shape[:2]
    assert sample.original_size == (300, 900)
    assert (top, height) == (0, 300)
    assert left + width / 2 == pytest.approx(450)
    assert width / height == pytest.approx(wide / high, rel=1e-3)
    assert sample.image[:, 0, 0].mean() == pytest.approx(255 * left / 900, abs=4)
    assert sample.image[:, -1, 0].mean() == pytest.approx(255 * (left + width) / 900, abs=4)
