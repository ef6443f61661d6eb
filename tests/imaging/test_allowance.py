"""The memory that decoding takes at once: what is counted, and that no more is taken."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datago_gpu.config import DecodeConfig, ImageConfig, LoaderConfig
from datago_gpu.config.limits import Limits
from datago_gpu.decoders.decoder import EncodedImages
from datago_gpu.decoders.pillow import PillowDecoder
from datago_gpu.feeder.admit import Admission
from datago_gpu.imaging.allowance import Allowance
from datago_gpu.imaging.costs import decoding_bytes
from datago_gpu.sources.reference import SampleRef
from datago_gpu.sources.sample_info import SampleInfo
from tests.support.bounds import MiB, peak_of


@settings(max_examples=40)
@given(st.lists(st.integers(0, 150), max_size=40), st.integers(1, 6))
def test_no_more_is_held_than_there_is_but_by_one_alone(sizes: list[int], threads: int) -> None:
    allowance, held, lock = Allowance(100), list[int](), threading.Lock()

    def work(size: int) -> bool:
        with allowance.take(size):
            with lock:
                held.append(size)
                within = sum(held) <= 100 or sum(map(bool, held)) == 1
            with lock:
                held.remove(size)
        return within

    with ThreadPoolExecutor(threads) as pool:
        assert all(pool.map(work, sizes))
    with allowance.take(100):
        assert not held


def test_a_large_one_is_not_overtaken() -> None:
    allowance, order = Allowance(10), list[str]()

    def late(name: str, size: int) -> None:
        with allowance.take(size):
            order.append(name)

    with allowance.take(5):
        waiting = [threading.Thread(target=late, args=("large", 10))]
        waiting[0].start()
        while not allowance._waiting:
            pass
        waiting.append(threading.Thread(target=late, args=("small", 1)))
        waiting[1].start()
        while len(allowance._waiting) < 2:
            pass
    for thread in waiting:
        thread.join(10)
    assert order == ["large", "small"]


def test_what_fails_gives_its_memory_back() -> None:
    allowance = Allowance(10)
    for _ in range(3):
        with pytest.raises(KeyError), allowance.take(10):
            raise KeyError
    with allowance.take(10):
        pass


def test_the_default_goes_by_the_threads() -> None:
    def of(**decode: int) -> int:
        config = {"source_type": "file", "source_config": {"root_path": "/"}, "decode_config": decode}
        return Limits.of(LoaderConfig.load(config)).decoding // MiB

    assert of(threads=2) == 1024
    assert of(threads=16) == 4096
    assert of(threads=16, memory_mb=5) == 5
    assert of() >= 1024


PEAKS = """
import io, json, sys
from contextlib import suppress
from pathlib import Path
import numpy as np
from PIL import Image
from datago_gpu.imaging.costs import decoding_bytes
from datago_gpu.imaging.own_channels import render_own
from datago_gpu.imaging.pixels import render_array, to_ppm

HEIGHT, WIDTH = 1200, 1600
across = np.broadcast_to(np.linspace(0, 255, WIDTH, dtype=np.uint8), (HEIGHT, WIDTH))
deep = np.ascontiguousarray(across.astype(np.uint16) * 257)
pictures = {
    mode: Image.fromarray(np.dstack([across] * len(mode)), mode) for mode in ("RGB", "RGBA", "LA", "CMYK")
}
pictures |= {"L": Image.fromarray(across), "I;16": Image.fromarray(deep), "F": Image.fromarray(deep.astype(np.float32))}
pictures |= {"P": pictures["L"].convert("P"), "I": Image.fromarray(deep.astype(np.int32))}
region = (0.0, 0.0, float(HEIGHT), float(WIDTH))


def memory(name):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def peak(work):
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    result = work()
    return memory("VmHWM") - before


def encoded(mode, form, options):
    file = io.BytesIO()
    pictures[mode].save(file, form, **options)
    return file.getvalue()


for mode, form, options in json.loads(sys.argv[1]):
    payload = encoded(mode, form, options)
    for target in (None, (64, 64)):
        for own in (False, True):
            def array():
                view = memoryview(payload)
                if own:
                    return render_own(view, region, 1, target, draft=False, max_pixels=10**9)
                return render_array(view, region, 1, target, draft=False, max_pixels=10**9)

            def ppm():
                return to_ppm(payload, lambda height, width: [(region, target)], 10**9)

            need = decoding_bytes(payload, HEIGHT, WIDTH, whole=target is None, own=own)
            works = [array] if own else [array, ppm]
            Image.init()
            with suppress(Exception):
                render_array(memoryview(payload), (0.0, 0.0, 8.0, 8.0), 1, (8, 8), draft=False, max_pixels=10**9)
            most = max(map(peak, works))
            print(json.dumps([mode, form, own, target is None, most, need]))
"""
FAST = {"compress_level": 1}
KINDS = [
    *(("RGB", "JPEG", {}), ("RGB", "JPEG", {"progressive": True}), ("CMYK", "JPEG", {"progressive": True})),
    *(("RGB", "PNG", FAST), ("RGBA", "PNG", FAST), ("LA", "PNG", FAST), ("P", "PNG", {**FAST, "transparency": 3})),
    *(("I;16", "PNG", FAST), ("RGBA", "WEBP", {"method": 0, "quality": 30}), ("RGB", "WEBP", {"method": 0})),
    *(("RGBA", "TIFF", {}), ("I", "TIFF", {}), ("F", "TIFF", {}), ("RGB", "PPM", {}), ("RGBA", "BMP", {})),
]


def test_decoding_takes_no_more_than_was_counted() -> None:
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PEAKS, json.dumps(KINDS)], capture_output=True, text=True, env=environment, check=True
    )
    figures = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(figures) == 4 * len(KINDS)
    slack = 4 * MiB
    assert [each for each in figures if each[4] > each[5] + slack] == []


def png(mode: str, height: int, width: int) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def batch(payloads: list[bytes], height: int, width: int) -> EncodedImages:
    count = len(payloads)
    return EncodedImages(
        payloads=[np.frombuffer(payload, np.uint8) for payload in payloads],
        sizes=np.array([[height, width]] * count, np.int32),
        regions=np.array([[0, 0, height, width]] * count, np.float32),
        orientations=np.ones(count, np.uint8),
        target=(32, 32),
    )


SMALL = {"crop_and_resize": True, "default_image_size": 32, "downsampling_ratio": 8}


def decode_two_batches(memory_mb: int) -> None:
    images = batch([png("RGB", 3000, 3000)] * 8, 3000, 3000)
    decoder = PillowDecoder(ImageConfig(**SMALL), DecodeConfig(threads=4, memory_mb=memory_mb))
    decoder.submit(images)
    decoder.submit(images)
    decoded = [decoder.collect(), decoder.collect()]
    decoder.close()
    assert all(not each.failures and each.image.shape == (8, 32, 32, 3) for each in decoded)


def test_large_pictures_are_decoded_one_after_the_other() -> None:
    """Each takes 37 MB, and is counted with 81; four threads would take 147."""
    assert peak_of(decode_two_batches, 100) < 80
    assert peak_of(decode_two_batches, 2000) > 100


@pytest.mark.parametrize(
    ("capacity", "threads", "size", "goes_back"),
    [(1024, 4, 63, False), (1024, 4, 64, True), (100, 4, 24, False), (100, 4, 25, True), (100, 1, 63, False)],
)
def test_what_heaps_keep_is_bounded(
    monkeypatch: pytest.MonkeyPatch, capacity: int, threads: int, size: int, goes_back: bool
) -> None:
    calls: list[int] = []
    monkeypatch.setattr("datago_gpu.imaging.allowance.give_memory_back", lambda: calls.append(1))
    with Allowance(capacity * MiB, threads).take(size * MiB):
        assert not calls
    assert bool(calls) == goes_back


def decode_one_by_one(count: int) -> None:
    images = batch([png("RGB", 4200, 4200)] * count, 4200, 4200)
    decoder = PillowDecoder(ImageConfig(**SMALL), DecodeConfig(threads=4, memory_mb=100))
    decoder.submit(images)
    assert not decoder.collect().failures
    decoder.close()


def test_what_one_thread_has_freed_is_there_for_the_others() -> None:
    """The heap of each thread kept the 70 MB of the picture before."""
    assert peak_of(decode_one_by_one, 8, usual_heap=True) < 150


def test_closing_does_not_wait_for_memory() -> None:
    memory = Allowance(10)
    decoder = PillowDecoder(ImageConfig(**SMALL), DecodeConfig(threads=2), memory=memory)
    with memory.take(10):
        decoder.submit(batch([png("RGB", 3000, 3000)] * 4, 3000, 3000))
        while len(memory._waiting) < 2:
            pass
        decoder._closed.set()
    decoder.close()
    assert not memory._waiting


def admit_eight(memory_mb: int) -> None:
    payload = png("RGBA", 3000, 3000)
    config = {"source_type": "file", "source_config": {"root_path": "/"}, "image_config": SMALL}
    admission = Admission(LoaderConfig.load(config), Allowance(memory_mb * MiB))
    with ThreadPoolExecutor(4) as pool:
        refs = [SampleRef(number, SampleInfo(str(number))) for number in range(8)]
        found = list(pool.map(lambda ref: admission.thorough(ref, payload), refs))
    assert all(each.size == (32, 32) for each in found)  # type: ignore[union-attr]


def test_the_feeder_counts_what_it_decodes_itself() -> None:
    """Each takes 75 MB; four at once would take 300."""
    assert peak_of(admit_eight, 10) < 130
    assert peak_of(admit_eight, 2000) > 150


def test_a_jpeg_that_shrinks_takes_less_unless_it_is_progressive() -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "JPEG", progressive=True)
    progressive = file.getvalue()
    plain = progressive.replace(b"\xff\xc2", b"\xff\xc0")
    side = 3000
    whole = decoding_bytes(plain, side, side)
    assert decoding_bytes(plain, side, side, divisor=8) < whole / 50
    assert whole / 4 < decoding_bytes(progressive, side, side, divisor=8) < whole
