"""WebDataset shards through the whole loader: the feeder process, decoding, resuming."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datago_gpu import ConfigError, Loader, SourceError
from tests.support.images import small_jpeg
from tests.support.servers import Answer, MisbehavingServer
from tests.support.shards import tar_bytes

TOKEN = "hf_S3cr3tT0kenOfMine"


def shard(begin: int, end: int) -> bytes:
    files = []
    for number in range(begin, end):
        files += [
            (f"d/{number:03}.jpg", small_jpeg(number * 4)),
            (f"d/{number:03}.json", b'{"number": %d}' % number),
        ]
    return tar_bytes(files)


def config(url: str | Path, **source: Any) -> dict[str, Any]:
    return {
        "source_type": "webdataset",
        "source_config": {"url": str(url), **source},
        "image_config": {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 16},
        "http_config": {"max_payload_mb": 1, "max_tries": 2, "max_backoff_s": 0.02},
        "arena_mb": 2,
        "batch_size": 4,
    }


@pytest.fixture
def url(tmp_path: Path) -> str:
    for number in range(4):
        (tmp_path / f"{number}.tar").write_bytes(shard(number * 5, number * 5 + 5))
    return f"{tmp_path}/{{0..3}}.tar"


def test_batches_hold_the_samples_of_the_shards_in_order(url: str) -> None:
    with Loader(config(url), device="cpu", backend="pillow") as loader:
        batches = list(loader)
    assert [name for batch in batches for name in batch.ids] == [f"d/{number:03}" for number in range(20)]
    assert [each for batch in batches for each in batch.attributes] == [{"number": number} for number in range(20)]
    reds = np.concatenate([np.asarray(batch.image)[:, 20, 20, 0] for batch in batches]).astype(int)
    assert np.abs(reds - np.arange(20) * 4).max() <= 4


@pytest.mark.parametrize("interleave", [1, 3])
@pytest.mark.parametrize("shuffled", [False, True])
def test_a_state_goes_on_with_exactly_the_rest(url: str, shuffled: bool, interleave: int) -> None:
    settings = config(url, random_sampling=shuffled, shuffle_buffer=6, interleave=interleave)
    with Loader(settings, device="cpu", backend="pillow") as loader:
        whole = [batch.ids for batch in loader]
    with Loader(settings, device="cpu", backend="pillow") as loader:
        begun = [next(loader).ids for _ in range(2)]
        state = json.loads(json.dumps(loader.state_dict()))
    loader = Loader(settings, device="cpu", backend="pillow")
    loader.load_state_dict(state)
    with loader:
        assert begun + [batch.ids for batch in loader] == whole


def test_a_state_of_other_turns_is_refused(url: str) -> None:
    with Loader(config(url, interleave=2), device="cpu", backend="pillow") as loader:
        next(loader)
        state = loader.state_dict()
    with pytest.raises(ConfigError, match=r"source_config.interleave is 2 in the state, 1 here\."):
        Loader(config(url), device="cpu", backend="pillow", state=state)


def test_a_bad_shard_and_a_bad_picture_are_counted_and_cost_themselves(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(shard(0, 3)[:-5000] + b"x" * 3000)
    (tmp_path / "1.tar").write_bytes(
        tar_bytes([("no.jpg", b"no picture"), ("yes.jpg", small_jpeg(3)), ("none.txt", b"")])
    )
    with Loader(config(tmp_path), device="cpu", backend="pillow") as loader:
        ids = [name for batch in loader for name in batch.ids]
        skipped = loader.stats().skipped
    assert ids[-1] == "yes"
    assert skipped["bad-shard"] == skipped["no-image"] == 1
    assert sum(skipped.values()) == 3


def test_the_token_is_in_no_state_and_no_error() -> None:
    with MisbehavingServer() as server:
        server.script("/0.tar", Answer(200, shard(0, 8)))
        server.script("/1.tar", Answer(403, TOKEN.encode()))
        with Loader(config(f"{server.url}/0.tar?sig=5ec2e7", auth_token=TOKEN), device="cpu") as loader:
            assert len(next(loader)) == 4
            state = json.dumps(loader.state_dict())
            assert TOKEN not in state + repr(loader)
            assert "5ec2e7" not in state + repr(loader)
        with Loader(config(f"{server.url}/1.tar", auth_token=TOKEN), device="cpu") as loader:
            with pytest.raises(SourceError, match=r"check source_config\.auth_token") as caught:
                next(loader)
            assert TOKEN not in str(caught.value)


def npy(descr: str, shape: str, data: bytes = b"") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


ODD_ARRAYS = {
    "no bytes an element": npy("|S0", "(5,)"),
    "huge, and empty": npy("<f4", f"(0, {2**62})"),
    "beyond 64 bits": npy("<f4", f"(0, {2**70})"),
    "empty, until stacked": npy("<f4", f"(0, {2**40}, {2**20})"),
    "65 axes": npy("|u1", f"({'1,' * 65})", b"x"),
    "64 axes, of which a batch has 65": npy("|u1", f"({'1,' * 64})", b"x"),
    "True for a length": npy("<f4", "(True,)", b"abcd"),
    "parentheses": npy("<f4", "(" * 3000),
    "minus signs": npy("<f4", "-" * 9000),
}


def test_odd_arrays_cost_their_samples_and_not_the_run(tmp_path: Path) -> None:
    good = npy("<f4", "(1,)", b"abcd")
    latents = {f"{number:02}": odd for number, odd in enumerate(ODD_ARRAYS.values(), 2)}
    files = [
        file
        for key in ("00", "01", *latents, "98", "99")
        for file in ((f"{key}.jpg", small_jpeg(9)), (f"{key}.vae.npy", latents.get(key, good)))
    ]
    (tmp_path / "a.tar").write_bytes(tar_bytes(files))
    with Loader(config(tmp_path / "a.tar", latents="vae.npy"), device="cpu", backend="pillow") as loader:
        batches = list(loader)
    assert [name for batch in batches for name in batch.ids] == ["00", "01", "98", "99"]
    assert batches[0].latents["vae.npy"].shape == (4, 1)
    assert loader.stats().skipped == {"undecodable": len(ODD_ARRAYS)}
