"""Tables behind addresses: over http by Range, from Hugging Face with a token, from a bucket."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from datago_gpu import Loader, SourceError
from datago_gpu.sources.reference import SampleRef
from datago_gpu.sources.table import remote_file
from tests.support.moto_s3 import KEY, SECRET, s3_server
from tests.support.pictures import encode
from tests.support.servers import Answer, MisbehavingServer, Request, json_answer
from tests.support.tables import ids_of, samples_of, table_config

NAMES = [f"{number}.jpg" for number in range(12)]
HASTY = {"http_config": {"max_tries": 2, "max_backoff_s": 0.01}}


@pytest.fixture
def server() -> Iterator[MisbehavingServer]:
    with MisbehavingServer() as running:
        yield running


def parquet(rows: dict[str, Any], **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(rows), file, **options)
    return file.getvalue()


def of_bytes(names: list[str] = NAMES, size: int = 100) -> bytes:
    images = [{"bytes": name.encode().ljust(size), "path": name} for name in names]
    return parquet({"image": images, "width": list(range(len(names)))}, row_group_size=5, compression="none")


@pytest.mark.parametrize("shuffled", [False, True])
def test_parquet_over_http_is_read_by_range(
    server: MisbehavingServer, monkeypatch: pytest.MonkeyPatch, shuffled: bool
) -> None:
    monkeypatch.setattr(remote_file, "_BLOCK", 10_000)  # many blocks
    body = of_bytes(size=20_000)
    url = server.script("/t.parquet", Answer(body=body, ranges=True, headers={"ETag": '"1"'}))
    samples = samples_of(table_config(f"{url}?sig=x", random_sampling=shuffled, shuffle_buffer=4, filter="width > 2"))
    assert sorted(sample.id for sample in samples) == sorted(NAMES[3:])
    for sample in samples:
        assert isinstance(sample, SampleRef)
        assert sample.payload == sample.id.encode().ljust(20_000)
        assert sample.where == url
    assert all("range" in request.headers for request in server.requests)


def test_other_formats_over_http_are_copied(server: MisbehavingServer) -> None:
    body = b"\n".join(json.dumps({"image_path": name}).encode() for name in NAMES)
    url = server.script("/data/t.jsonl", Answer(body=body))
    samples = samples_of(table_config(url, random_sampling=True))
    assert sorted(sample.id for sample in samples) == sorted(NAMES)
    assert {sample.url for sample in samples if isinstance(sample, SampleRef)} == {
        f"{server.url}/data/{name}" for name in NAMES
    }


def test_what_is_wrong_with_a_remote_table(server: MisbehavingServer) -> None:
    body = of_bytes(size=20_000)
    tags = iter(['"1"', '"1"', '"1"', '"2"'])
    server.route("/changed.parquet", lambda _: Answer(body=body, ranges=True, headers={"ETag": next(tags, '"3"')}))
    server.script("/whole.parquet", Answer(body=bytes(9_000_000)))
    server.script("/refused.parquet", Answer(403))
    for path, words in (
        ("/gone.parquet", "http-404"),
        ("/refused.parquet", "the token or the credentials"),
        ("/whole.parquet", "/whole.parquet"),
        ("/changed.parquet", "replaced while"),
        ("/page.html", "names no file that ends in"),
    ):
        with pytest.raises(SourceError) as caught:
            samples_of(table_config(f"{server.url}{path}?sig=secret", top=HASTY))
        assert words in str(caught.value)
        assert "secret" not in str(caught.value)


@pytest.fixture
def hub(server: MisbehavingServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[MisbehavingServer]:
    """A server in the place of Hugging Face, and behind it a CDN, which is yielded."""
    tree, files = "/api/datasets/me/set/tree", "/datasets/me/set/resolve"
    paths = ["data/train-0.parquet", "data/train-1.parquet", "data/test-0.parquet", "data/.gitattributes", "README.md"]
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    with MisbehavingServer() as cdn:
        for revision in ("main", "refs%2Fconvert%2Fparquet"):
            entries = [{"type": "file", "path": path, "size": 9, "oid": "x"} for path in paths]
            entries.append({"type": "directory", "path": "data", "size": 0, "oid": "y"})
            second = f'<{server.url}{tree}/{revision}/more?cursor=x>; rel="next"'
            server.script(f"{tree}/{revision}/data", json_answer(entries[:2], headers={"Link": second}))
            server.script(f"{tree}/{revision}/more", json_answer(entries[2:]))
            for number, path in enumerate(paths[:3]):
                cdn.script(f"/{path}", Answer(body=of_bytes(NAMES[4 * number : 4 * number + 4]), ranges=True))
                target = Answer(302, headers={"Location": f"{cdn.url}/{path}"})
                server.script(f"{files}/{revision}/{path}", target)
        yield cdn


@pytest.mark.parametrize(
    ("path", "count"),
    [
        ("hf://datasets/me/set/data/train-*.parquet", 8),
        ("hf://datasets/me/set@~parquet/data", 12),
        ("hf://datasets/me/set/data/test-0.parquet", 4),
    ],
)
@pytest.mark.parametrize("given", ["environment", "file", "setting", "none"])
def test_a_dataset_of_hugging_face(
    server: MisbehavingServer, hub: MisbehavingServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    path: str, count: int, given: str,
) -> None:  # fmt: skip
    """The token goes to the hub, and not on to the servers that it redirects to."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    if given == "environment":
        monkeypatch.setenv("HF_TOKEN", "hf_t0ken")
    elif given == "file":
        (tmp_path / "token").write_text("hf_t0ken\n")
    config = table_config(path, **({"auth_token": "hf_t0ken"} if given == "setting" else {}))
    found = ids_of(config)
    names = NAMES[:8] if "train" in path else NAMES[8:] if "test" in path else [*NAMES[8:], *NAMES[:8]]
    assert found == names
    assert len(found) == count
    wanted = None if given == "none" else "Bearer hf_t0ken"
    assert {request.headers.get("authorization") for request in server.requests} == {wanted}
    assert {request.headers.get("authorization") for request in hub.requests} == {None}


def test_a_token_goes_to_the_origin_of_the_table_only(server: MisbehavingServer) -> None:
    """Also for images and for parts of files, which are asked for by Range."""
    picture = encode(Image.new("RGB", (40, 30), (90, 120, 30)), "JPEG")

    def answer(request: Request) -> Answer:
        if request.headers.get("authorization") != "Bearer t0ken":
            return Answer(401)
        return Answer(body=b"x" * 512 + picture + b"x" * 99, ranges=True)

    with MisbehavingServer() as other:
        other.script("/a.jpg", Answer(body=picture))
        server.route("/shard.tar", answer)
        rows = [
            {"url": f"{other.url}/a.jpg", "offset": None, "length": None},
            {"url": "shard.tar", "offset": 512, "length": len(picture)},
            {"url": "shard.tar", "offset": 512 + 99, "length": len(picture)},
        ]
        body = b"\n".join(json.dumps(row).encode() for row in rows)
        server.script("/t.jsonl", Answer(body=body))
        config = table_config(f"{server.url}/t.jsonl", auth_token="t0ken", top={"decode_config": {"processes": 0}})
        with Loader(config, device="cpu", backend="pillow") as loader:
            assert [name for batch in loader for name in batch.ids] == [f"{other.url}/a.jpg", "shard.tar@512"]
            assert sum(loader.stats().skipped.values()) == 1  # it begins within the picture
            assert "t0ken" not in repr(loader)
        assert [request.headers.get("authorization") for request in other.requests] == [None]


def test_tables_and_parts_of_files_in_a_bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    picture = encode(Image.new("RGB", (40, 30), (90, 120, 30)), "JPEG")
    places = {"url": ["s3://mine/a.tar", "b.jpg"], "offset": [100, None], "length": [len(picture), None]}
    objects = [
        ("t/year=2024/0.parquet", parquet(places)),
        ("t/year=2025/0.parquet", parquet({"url": ["gone.jpg"], "offset": [0], "length": [9]})),
        ("t/_SUCCESS", b""),
        ("a.tar", b"x" * 100 + picture),
        ("t/year=2024/b.jpg", picture),
    ]
    with s3_server("mine", objects) as endpoint:
        options = {"endpoint": endpoint, "access_key_id": KEY, "secret_access_key": SECRET, "region": "us-east-1"}
        top = {"decode_config": {"processes": 0}, **HASTY}
        config = table_config("s3://mine/t/", storage_options=options, top=top)
        with Loader(config, device="cpu", backend="pillow") as loader:
            (batch,) = loader
            assert sum(loader.stats().skipped.values()) == 1
        assert batch.ids == ["s3://mine/a.tar@100", "b.jpg"]
        assert [each["year"] for each in batch.attributes] == [2024, 2024]
        assert ids_of(table_config("s3://mine/t/year=2024/*.parquet", storage_options=options)) == batch.ids


def test_lockstep_over_a_remote_table_that_holds_bytes(server: MisbehavingServer) -> None:
    shapes = [(60, 40), (40, 60), (60, 40)] * 4
    pictures = [encode(Image.new("RGB", (width, height)), "JPEG") for height, width in shapes]
    columns = {"image": pictures, "id": NAMES, "height": [h for h, _ in shapes], "width": [w for _, w in shapes]}
    url = server.script("/t.parquet", Answer(body=parquet(columns, row_group_size=5), ranges=True))
    top = {
        "batch_size": 2,
        "lockstep": True,
        "decode_config": {"processes": 0},
        "image_config": {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 8},
    }
    found = []
    for rank in range(2):
        config = table_config(url, random_sampling=True, rank=rank, world_size=2, top=top)
        with Loader(config, device="cpu", backend="pillow") as loader:
            found.append([(batch.bucket, batch.ids, batch.real.tolist()) for batch in loader])
            assert loader.stats().skipped == {}
    assert [bucket for bucket, *_ in found[0]] == [bucket for bucket, *_ in found[1]]
    once = [
        name
        for batches in found
        for _, ids, real in batches
        for name, is_real in zip(ids, real, strict=True)
        if is_real
    ]
    assert sorted(once) == sorted(NAMES)
