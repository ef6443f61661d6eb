"""Decode processes give what decoding threads give, through the same Loader, and end and restart with the feeder."""

from __future__ import annotations

import gc
import io
import logging
import os
import select
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from datago_gpu import Batch, ConfigError, FeederError, Loader, LoaderConfig
from datago_gpu.config.limits import decode_processes
from datago_gpu.feeder import arena
from tests.support.images import SHAPES, add_pictures, file_config
from tests.support.made.png import png
from tests.support.needs import needs
from tests.support.pictures import encode, oriented_jpeg, picture
from tests.support.shards import tar_bytes

WAIT_S = 20
SIZES = [(40, 50), (64, 90), (120, 33), (70, 70), (31, 90), (200, 80)]


def files_of(number: int) -> dict[str, bytes]:
    """A sample: a picture of one of many kinds, a mask (every fifth sample has labels of 16 bits), another picture."""
    height, width = SIZES[number % len(SIZES)]
    pixels = picture(height, width, seed=number)
    kinds = [
        encode(pixels, "JPEG", quality=90),
        encode(pixels),
        oriented_jpeg(pixels, 1 + number % 8),
        encode(Image.fromarray(pixels).convert("L"), "JPEG"),
        encode(np.dstack([pixels, pixels[:, :, :1]])),
        encode(pixels, "WEBP", lossless=True),
        png(pixels[:, :, :1].astype(np.uint16) * 257, 16),
    ]
    labels = (pixels[:, :, :1] // 40).astype(np.uint16) + (1000 if number % 5 == 0 else 0)
    mask = png(labels, 16) if number % 5 == 0 else encode(labels[:, :, 0].astype(np.uint8))
    return {"jpg": kinds[number % len(kinds)], "seg.png": mask, "other.jpg": encode(pixels[::-1], "JPEG")}


def damaged(data: bytes) -> bytes:
    """A PNG of which only a decoder finds out that it is none."""
    at = data.index(b"IDAT") + 4
    return data[:at] + bytes(8) + data[at + 8 :]


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """42 samples, of which six are damaged, each in another way, and one lacks the other picture."""
    files = []
    for number in range(42):
        sample = files_of(number)
        if number in (7, 21):
            sample["jpg"] = damaged(encode(picture(50, 50)))
        if number in (9, 35):
            sample["seg.png"] = damaged(encode(picture(50, 50)[:, :, 0]))
        if number in (12, 41):
            sample["other.jpg"] = sample["other.jpg"][:300]
        if number == 15:
            del sample["other.jpg"]
        files += [(f"{number:02}.{name}", data) for name, data in sample.items()]
    path = tmp_path_factory.mktemp("shards") / "0.tar"
    path.write_bytes(tar_bytes(files))
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    add_pictures(root, [SHAPES[number % 3] for number in range(48)])
    return root


def of_shard(shard: Path, image: dict[str, Any], **more: Any) -> LoaderConfig:
    parts = {"masks": "seg.png", "additional_images": "other.jpg", "optional": "other.jpg"}
    return LoaderConfig.load(
        {
            "source_type": "webdataset",
            "source_config": {"url": str(shard), **parts},
            "image_config": {"default_image_size": 64, "downsampling_ratio": 16, **image},
            "batch_size": 5,
            "arena_mb": 8,
            "http_config": {"max_payload_mb": 1},
            **more,
        }
    )


def told(value: Any) -> Any:
    """Values that can be compared: type, form and bytes of arrays."""
    if isinstance(value, list):
        return [told(each) for each in value]
    return (value.shape, str(value.dtype), value.tobytes()) if isinstance(value, np.ndarray) else value


def contents(batch: Batch) -> tuple[Any, ...]:
    named = (batch.masks, batch.additional_images, batch.present)
    parts = [{name: told(value) for name, value in each.items()} for each in named]
    return batch.ids, batch.bucket, told(batch.image), parts


def delivered(config: LoaderConfig, processes: int) -> tuple[list[tuple[Any, ...]], Any, list[str]]:
    """What is delivered, skipped, and told of the skips."""
    listed = io.StringIO()
    handler, log = logging.StreamHandler(listed), logging.getLogger("datago_gpu")
    level, decode = log.level, {"decode_config": {"processes": processes}}
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        with Loader(LoaderConfig.load({**as_dict(config), **decode}), device="cpu") as loader:
            found = list(map(contents, loader))
            return found, loader.stats().skipped, sorted(listed.getvalue().splitlines())
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def as_dict(config: LoaderConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.__struct_fields__ if name != "decode_config"}


FORMS: dict[str, dict[str, Any]] = {
    "dense": {"crop_and_resize": True},
    "normalised": {"crop_and_resize": True, "layout": "CHW", "dtype": "float16", "mean": [0.5] * 3, "std": [0.2] * 3},
    "bfloat16": {"crop_and_resize": True, "dtype": "bfloat16", "mean": [0.5] * 3},
    "int32 masks": {"crop_and_resize": True, "mask_dtype": "int32", "layout": "CHW"},
    "lanczos masks": {"crop_and_resize": True, "mask_interpolation": "lanczos", "dtype": "float32"},
    "whole": {},
    "mixed": {"crop_and_resize": True, "mixed_buckets": True},
    "own": {"crop_and_resize": True, "image_to_rgb8": False},
    "own, whole": {"image_to_rgb8": False, "mask_interpolation": "lanczos"},
    "jpeg": {"crop_and_resize": True, "pre_encode_images": True, "encode_format": "jpeg", "jpeg_quality": 100},
    "png, own, whole": {"pre_encode_images": True, "image_to_rgb8": False},
}


@pytest.mark.parametrize("form", FORMS)
def test_what_comes_is_what_threads_give_to_the_byte(shard: Path, form: str) -> None:
    """Images, masks, further images, mirrored or not, and the words about the samples that are skipped."""
    config = of_shard(shard, FORMS[form] | {"flip": 0.5})
    of_threads, of_processes = delivered(config, 0), delivered(config, 2)
    assert of_threads == of_processes
    batches, skipped, _ = of_threads
    assert sum(len(batch[0]) for batch in batches) + sum(skipped.values()) == 42
    assert skipped["undecodable"] >= 2


def test_arrays_are_writable_and_belong_to_the_trainer(root: Path) -> None:
    torch = needs("torch")
    with Loader(file_config(root, decode_config={"processes": 1}), device="cpu") as loader:
        batch = next(loader)
        assert batch.image.flags.writeable
        assert not batch.image.flags.owndata
        tensor = torch.from_dlpack(batch.image)
        tensor.fill_(3)
        assert (batch.image == 3).all()
        del batch
        others = [other.image.copy() for other in loader]
    gc.collect()
    assert (tensor == 3).all()
    assert len(others) == 11


@pytest.mark.parametrize("image", [{}, {"crop_and_resize": False}], ids=["dense", "whole"])
def test_batches_that_are_kept_stay_as_they_are_and_stop_nothing(root: Path, image: dict[str, Any]) -> None:
    """All batches of a run are many more than the memory that is shared holds: the others are copies."""
    config = file_config(root, image=image, epochs=20, samples_buffer_size=1, samples_buffer_mb=1)
    with Loader(config, device="cpu") as loader:
        expected = [told(batch.image) for batch in loader]
    config = file_config(
        root, image=image, epochs=20, samples_buffer_size=1, samples_buffer_mb=1, decode_config={"processes": 2}
    )
    with Loader(config, device="cpu") as loader:
        kept = [batch.image for batch in loader]
        assert [told(image) for image in kept] == expected
    gc.collect()
    assert [told(image) for image in kept] == expected


def test_memory_that_is_given_back_is_used_again(root: Path) -> None:
    """A run of many batches touches few pages of the shared memory."""
    config = file_config(root, image={"default_image_size": 256}, epochs=12, decode_config={"processes": 1})
    with Loader(config, device="cpu") as loader:
        assert loader._pool
        for _ in range(140):
            next(loader)
        written = os.fstat(loader._pool.descriptor).st_blocks * 512
    assert 0 < written < 24 * 4 * 256 * 256 * 3


def processes_of(loader: Loader) -> list[int]:
    """The decode processes, once all have started. The loader must not end before: one process may decode all."""
    end = time.monotonic() + WAIT_S
    while len(loader.decode_pids) < loader.stats().decode_processes:
        assert time.monotonic() < end
        time.sleep(0.005)
    return loader.decode_pids


def wait_for_end(*pids: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            ended = os.pidfd_open(pid)
            try:
                assert select.select([ended], [], [], WAIT_S)[0], f"process {pid} goes on"
            finally:
                os.close(ended)


def test_stats_name_the_processes(root: Path) -> None:
    config = file_config(root, samples_buffer_size=1, decode_config={"processes": 2})
    with Loader(config, device="cpu") as loader:
        first, second = processes_of(loader)
        server = psutil.Process(first).parent()
        assert server == psutil.Process(second).parent()
        assert server.parent() == psutil.Process(loader.feeder_pid)
        list(loader)
        stats = loader.stats()
    assert stats.decode_processes == 2
    assert stats.decode_cores > 0
    assert "2 decode processes" in str(stats)
    assert loader.decode_pids == []
    wait_for_end(first, second, server.pid)


@pytest.mark.parametrize("processes", [None, 0, 1, 3])
def test_the_number_of_processes(processes: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = LoaderConfig.load(
        {"source_type": "file", "source_config": {"root_path": "/"}, "decode_config": {"processes": processes}}
    ).decode_config
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert decode_processes(decode) == (2 if processes is None else processes)


@pytest.mark.parametrize("processes", [-1, 1.5, "two", 5000])
def test_a_wrong_number_is_refused(processes: Any) -> None:
    with pytest.raises(ConfigError, match=r"decode_config\.processes must be a whole number from 0 to 1024 or None"):
        file_config("/", decode_config={"processes": processes})


def run(config: LoaderConfig, kill_after: int, signal_number: int = signal.SIGKILL) -> tuple[list[Any], dict[str, int]]:
    found = []
    with Loader(config, device="cpu") as loader:
        pids = processes_of(loader)
        for batch in loader:
            found.append(contents(batch))
            if len(found) == kill_after:
                os.kill(pids[-1], signal_number)
        return found, loader.stats().skipped


@pytest.mark.parametrize("kill_after", [1, 4, 20])
@pytest.mark.parametrize("parts", [False, True])
def test_what_is_delivered_does_not_depend_on_a_decode_process_that_is_killed(
    root: Path, shard: Path, kill_after: int, parts: bool, caplog: pytest.LogCaptureFixture
) -> None:
    small = {"samples_buffer_size": 1, "prefetch_buffer_size": 16, "epochs": 4, "decode_config": {"processes": 2}}
    config = of_shard(shard, FORMS["dense"], **small) if parts else file_config(root, **small)
    whole = run(config, 0)
    assert kill_after < len(whole[0])
    assert run(config, kill_after) == whole
    assert any("a decode process has ended by signal 9 (SIGKILL)" in text for text in caplog.messages)


def test_decode_processes_that_are_killed_twice_are_an_error_that_says_so(root: Path) -> None:
    config = file_config(root, samples_buffer_size=1, epochs=None, decode_config={"processes": 1})
    with Loader(config, device="cpu") as loader:
        (first,) = processes_of(loader)
        os.kill(first, signal.SIGKILL)
        while loader.decode_pids in ([first], []):
            next(loader)
        os.kill(loader.decode_pids[0], signal.SIGSEGV)
        with pytest.raises(FeederError) as caught:
            list(loader)
    assert "a decode process has ended by signal 11 (SIGSEGV)" in str(caught.value)
    assert "a decode process has ended by signal 9 (SIGKILL)" in str(caught.value)
    assert "ended with status 139" in str(caught.value)


@pytest.mark.parametrize("which", ["feeder", "fork server", "decode process", "stopped feeder", "stopped fork server"])
def test_close_leaves_no_process_whatever_has_died(root: Path, which: str) -> None:
    loader = Loader(file_config(root, epochs=None, decode_config={"processes": 2}), device="cpu")
    pids = processes_of(loader)
    server = psutil.Process(pids[0]).ppid()
    how = signal.SIGSTOP if which.startswith("stopped") else signal.SIGKILL
    victim = {"feeder": loader.feeder_pid, "server": server, "process": pids[0]}[which.split()[-1]]
    next(loader)
    os.kill(victim, how)
    loader.close()
    assert list(loader) == []
    wait_for_end(loader.feeder_pid, server, *pids)


def test_a_feeder_that_is_closed_leaves_no_zombie(root: Path) -> None:
    """It waits for its decode processes: whoever they fall to, when it is killed, may not."""
    config = file_config(root, samples_buffer_size=1, decode_config={"processes": 2})
    with Loader(config, device="cpu") as loader:
        pids = processes_of(loader)
        server = psutil.Process(pids[0]).ppid()
        next(loader)
    assert not any(psutil.pid_exists(pid) for pid in (server, *pids))


def test_memory_that_cannot_be_had_leaves_it_to_threads(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    unnamed = arena.unnamed_file
    monkeypatch.setattr(
        arena, "unnamed_file", lambda name: unnamed(name) if "pixels" not in name else (unnamed(name)[0], "refused")
    )
    with Loader(file_config(root, decode_config={"processes": 2}), device="cpu") as loader:
        assert sum(map(len, loader)) == 48
        assert loader.stats().decode_processes == 0
    assert "threads decode in place of 2 processes: refused" in caplog.text


def test_more_bad_images_than_a_socket_holds_are_all_told(tmp_path: Path) -> None:
    bad = damaged(encode(picture(40, 40)))
    for number in range(700):
        (tmp_path / f"{number:03}.png").write_bytes(bad)
    config = file_config(tmp_path, batch_size=700, decode_config={"processes": 2}, max_failures=None)
    with Loader(config, device="cpu") as loader, suppress(Exception):
        list(loader)
    assert loader.stats().skipped == {"undecodable": 700}
