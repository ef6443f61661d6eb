"""Object storage: shards and folders in a real S3 server (moto's), and one that misbehaves."""

from __future__ import annotations

import asyncio
import builtins
import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datago_gpu import Loader
from datago_gpu.config import HttpConfig, LoaderConfig
from datago_gpu.errors import ConfigError, SourceError, TooManyErrors
from datago_gpu.sources import open_source
from datago_gpu.sources.http.failure import HttpFailure
from datago_gpu.sources.object_store.stores import Stores
from datago_gpu.sources.reference import Position, SampleRef, Skipped
from tests.support.images import file_config
from tests.support.moto_s3 import KEY, SECRET, s3_client, s3_server
from tests.support.servers import Answer, MisbehavingServer, Request
from tests.support.shards import keys, listed, pictures, tar_bytes

QUICK = HttpConfig(max_tries=3, max_backoff_s=0.02, stall_timeout_s=2, total_timeout_s=5)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The endpoint of an S3 server with a bucket of shards and pictures."""
    shards = [(f"train/a-{number}.tar", tar_bytes(pictures(number * 10, number * 10 + 10))) for number in range(3)]
    big = ("big.tar", tar_bytes(pictures(0, 30, size=500_000)))
    with s3_server("mine", [*shards, big, *((name, name.encode()) for name in NAMES)]) as endpoint:
        yield endpoint


NAMES = [
    "photos/0 blank+plus%20.JPG",
    "photos/B.png",
    "photos/a.jpg",
    "photos/a/1.jpg",
    "photos/caf\N{LATIN SMALL LETTER E WITH ACUTE}?x#y.webp",
    "photos/notes.txt",
    "photos/.ipynb_checkpoints/a-checkpoint.jpg",
    "photos/a/._1.jpg",
    "photosandmore/a.jpg",
]
IDS = [name.removeprefix("photos/") for name in NAMES[:5]]


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Those of the machine that runs the tests."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def options(endpoint: str) -> dict[str, str]:
    return {"endpoint": endpoint, "access_key_id": KEY, "secret_access_key": SECRET, "region": "us-east-1"}


def files(root: str, endpoint: str, start: Position | None = None, **more: Any) -> list[SampleRef | Skipped]:
    config = LoaderConfig.load(
        {
            "source_type": "file",
            "seed": more.pop("seed", 0),
            "source_config": {"root_path": root, "storage_options": options(endpoint), **more},
        }
    )

    async def read() -> list[SampleRef | Skipped]:
        return [ref async for ref in open_source(config, None).refs(start or Position())]

    return asyncio.run(read())


def using(endpoint: str, work: Callable[[Stores], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        return await work(Stores(QUICK, options(endpoint)))

    return asyncio.run(main())


def failing(endpoint: str, work: Callable[[Stores], Awaitable[Any]]) -> HttpFailure:
    with pytest.raises(HttpFailure) as caught:
        using(endpoint, work)
    assert caught.value.__cause__ is None
    assert SECRET not in repr(caught.value)
    return caught.value


async def gathered(stores: Stores, url: str) -> bytes:
    blocks: list[bytes] = []

    async def sink(block: bytes) -> None:
        blocks.append(block)

    await stores.stream(url, sink)
    return b"".join(blocks)


def test_shards_of_a_bucket_by_name_and_by_prefix(s3: str) -> None:
    expected = [f"{number:04}" for number in range(30)]
    for url in ("s3://mine/train/a-{0..2}.tar", "s3://mine/train", "s3://mine/train/"):
        assert keys(url, storage_options=options(s3)) == expected
    shuffled = keys("s3://mine/train", storage_options=options(s3), random_sampling=True, shuffle_buffer=5)
    assert sorted(shuffled) == expected != shuffled


def test_a_shard_of_several_parts_comes_in_order(s3: str) -> None:
    found = listed("s3://mine/big.tar", storage_options=options(s3))
    assert [ref.id for ref in found] == [f"{number:04}" for number in range(30)]
    assert all(isinstance(ref, SampleRef) and ref.payload == int(ref.id).to_bytes(4, "big") * 125_000 for ref in found)
    assert found[3].where == "s3://mine/big.tar!0003.jpg"


def test_credentials_and_endpoint_may_come_from_the_environment(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in options(s3).items():
        monkeypatch.setenv({"endpoint": "AWS_ENDPOINT_URL"}.get(name, f"AWS_{name.upper()}"), value)
    assert len(keys("s3://mine/train")) == 30


def test_credentials_may_come_from_the_files_of_the_aws_command_line(
    s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text(f"[other]\naws_access_key_id={KEY}\naws_secret_access_key={SECRET}\n")
    monkeypatch.setenv("AWS_PROFILE", "other")
    assert len(keys("s3://mine/train", storage_options={"endpoint": s3, "region": "us-east-1"})) == 30


def test_a_missing_object_costs_itself_and_an_empty_prefix_is_an_error(s3: str) -> None:
    found = listed("s3://mine/nowhere.tar::s3://mine/train/a-0.tar", storage_options=options(s3))
    assert found[0] == Skipped(-1, "", "s3://mine/nowhere.tar", "http-404", "no such object")
    assert len(found) == 11
    with pytest.raises(SourceError, match="no shards in s3://mine/none"):
        listed("s3://mine/none", storage_options=options(s3))


def test_the_images_below_a_prefix_are_listed_in_the_stores_order(s3: str) -> None:
    for root in ("s3://mine/photos", "s3://mine/photos/"):
        found = files(root, s3)
        assert [(ref.index, ref.id) for ref in found] == list(enumerate(IDS))
        assert [ref.url for ref in found if isinstance(ref, SampleRef)] == [f"s3://mine/{name}" for name in NAMES[:5]]
    assert len(files("s3://mine", s3)) == 6


def test_each_listed_object_can_be_had(s3: str) -> None:
    async def work(stores: Stores) -> list[bytes]:
        return [await stores.get(f"s3://mine/{name}", 100) for name in NAMES]

    assert using(s3, work) == [name.encode() for name in NAMES]


@pytest.mark.parametrize("shuffled", [False, True])
def test_ranks_and_starts_in_a_bucket(s3: str, shuffled: bool) -> None:
    whole = [ref.id for ref in files("s3://mine/photos", s3, random_sampling=shuffled, seed=4)]
    assert sorted(whole) == sorted(IDS)
    for rank in range(2):
        more: dict[str, Any] = {"random_sampling": shuffled, "rank": rank, "world_size": 2, "seed": 4}
        mine = files("s3://mine/photos", s3, **more)
        assert [ref.id for ref in mine] == whole[rank::2]
        for start, ref in enumerate(mine):
            assert isinstance(ref, SampleRef)
            for cursor in ("", ref.cursor):
                assert files("s3://mine/photos", s3, Position(0, start, cursor), **more) == mine[start:]


def test_a_place_in_a_bucket_is_one_in_a_copy_of_it(s3: str) -> None:
    """And a cursor that an older package wrote is one in the same bucket."""
    client = s3_client(s3)
    for name in NAMES[:5]:
        client.put_object(Bucket="mine", Key=f"zz/copy/{name}", Body=b"x")
    client.close()
    whole = files("s3://mine/photos", s3)
    for start, ref in enumerate(whole):
        assert isinstance(ref, SampleRef)
        found = files("s3://mine/zz/copy/photos", s3, Position(0, start, ref.cursor))
        assert [(each.index, each.id) for each in found] == [(each.index, each.id) for each in whole[start:]]
        older = f"{start}:{NAMES[start - 1]}" if start else ""
        assert [each.id for each in files("s3://mine/photos", s3, Position(0, start, older))] == IDS[start:]


C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LISTS = """
import asyncio, json, os, sys
from datago_gpu import LoaderConfig
from datago_gpu.sources import open_source
from datago_gpu.sources.reference import Position

async def ids():
    source = open_source(LoaderConfig.load(json.loads(sys.argv[1])), None)
    return [[ref.id, ref.url] async for ref in source.refs(Position())]

assert sys.getfilesystemencoding() == "ascii"
print(json.dumps(asyncio.run(ids())), flush=True)
os._exit(0)  # as a feeder does: a thread of obstore may abort an interpreter that is being taken down
"""


@pytest.mark.parametrize("shuffled", [False, True])
def test_keys_are_utf_8_whatever_the_locale_of_the_process_that_lists_them(s3: str, shuffled: bool) -> None:
    source = {"root_path": "s3://mine/photos", "random_sampling": shuffled, "storage_options": options(s3)}
    config = json.dumps({"source_type": "file", "source_config": source})
    found = subprocess.run([sys.executable, "-c", LISTS, config], env={**os.environ, **C_LOCALE},
                           stdout=subprocess.PIPE, timeout=50, check=True)  # fmt: skip
    assert sorted(json.loads(found.stdout)) == sorted([key, f"s3://mine/photos/{key}"] for key in IDS)


def test_a_prefix_that_begins_with_a_slash_lists_whole_keys(s3: str) -> None:
    found = files("s3://mine//photos", s3)
    assert [ref.id for ref in found] == NAMES[:5]
    for start, ref in enumerate(found):
        assert isinstance(ref, SampleRef)
        assert ref.url == f"s3://mine/{ref.id}"
        assert files("s3://mine//photos", s3, Position(0, start, ref.cursor)) == found[start:]


def test_a_prefix_without_images_or_bucket_is_a_source_error(s3: str) -> None:
    with pytest.raises(SourceError, match="no images under s3://mine/train: looked for jpg"):
        files("s3://mine/train", s3)
    with pytest.raises(SourceError, match="cannot list s3://nobucket/x: http-404"):
        files("s3://nobucket/x", s3)


def test_hidden_objects_are_left_out_and_counted(s3: str, caplog: pytest.LogCaptureFixture) -> None:
    hidden = [".ipynb_checkpoints/a-checkpoint.jpg", "a/._1.jpg"]
    with Loader(file_config("s3://mine/photos", source={"storage_options": options(s3)}), device="cpu") as loader:
        with pytest.raises(TooManyErrors):  # the objects are no pictures
            list(loader)
        assert loader.stats().passed_over == {"hidden": 2, "extension": 1}
    (message,) = (each for each in caplog.messages if each.startswith("passed over"))
    assert message.startswith(f"passed over below s3://mine/photos: 2 hidden, such as {hidden[0]!r} (")
    every = [ref.id for ref in files("s3://mine/photos", s3, hidden=True)]
    assert sorted(every) == sorted([*IDS, *hidden])
    assert [ref.id for ref in files("s3://mine/photos/.ipynb_checkpoints", s3)] == ["a-checkpoint.jpg"]
    assert [ref.id for ref in files("s3://mine/photos", s3, extensions="txt")] == ["notes.txt"]


def test_failures_have_the_reasons_of_http(s3: str) -> None:
    assert failing(s3, lambda stores: stores.get("s3://mine/none.jpg", 9)).status == 404
    failure = failing(s3, lambda stores: stores.get("s3://mine/big.tar", 1000))
    assert (failure.reason, failure.url) == ("too-large", "s3://mine/big.tar")
    assert failing("http://127.0.0.1:1", lambda stores: stores.get("s3://mine/a", 9)).reason == "connection"


@pytest.mark.parametrize(
    ("status", "reason"), [(403, "http-403"), (401, "http-401"), (503, "http-503"), (400, "http-400")]
)
def test_a_store_that_refuses_is_told_by_its_status(server: MisbehavingServer, status: int, reason: str) -> None:
    server.script("/mine/refused", Answer(status, b"<Error><Code>No</Code></Error>"))
    failure = failing(server.url, lambda stores: stores.get("s3://mine/refused", 9))
    assert (failure.reason, failure.status) == (reason, status)
    assert server.count("/mine/refused") >= (3 if status == 503 else 1)


HEADERS = {"ETag": '"one"', "Last-Modified": "Sun, 06 Nov 1994 08:49:37 GMT"}
BODY = bytes(range(256)) * 40_000  # 10 MB, three parts


def part_of(body: bytes, request: Request, tag: str = '"one"') -> Answer:
    """What S3 answers to a range with If-Match."""
    if request.headers.get("if-match", tag) != tag:
        return Answer(412)
    first, last = map(int, request.headers["range"].removeprefix("bytes=").split("-"))
    headers = HEADERS | {"ETag": tag, "Content-Range": f"bytes {first}-{min(last, len(body) - 1)}/{len(body)}"}
    return Answer(206, body[first : last + 1], headers)


def test_parts_that_fail_are_asked_for_again(server: MisbehavingServer) -> None:
    failed: set[str] = set()

    def answer(request: Request) -> Answer:
        part = request.headers["range"]
        if part not in failed:
            failed.add(part)
            return Answer(503)
        return part_of(BODY, request)

    server.route("/mine/flaky.tar", answer)
    assert using(server.url, lambda stores: gathered(stores, "s3://mine/flaky.tar")) == BODY


def test_an_object_that_is_replaced_meanwhile_is_not_mixed_with_the_new_one(server: MisbehavingServer) -> None:
    answers = iter(['"one"'])
    server.route("/mine/new.tar", lambda request: part_of(BODY, request, next(answers, '"two"')))
    assert failing(server.url, lambda stores: gathered(stores, "s3://mine/new.tar")).reason == "changed"


def test_what_obstore_does_not_take_is_a_config_error_without_its_value() -> None:
    async def main() -> None:
        await Stores(QUICK, {"no_such_option": SECRET}).get("s3://mine/a", 9)

    with pytest.raises(ConfigError, match="given: no_such_option") as caught:
        asyncio.run(main())
    assert SECRET not in str(caught.value)


class Panic(BaseException):
    """As obstore's own, which is no Exception."""


def test_options_of_the_client_are_taken_like_those_of_the_store(s3: str) -> None:
    more = {"allow_http": "true", "AWS_TIMEOUT": "20s", "connect_timeout": "5s", "user_agent": "me"}
    assert len(keys("s3://mine/train", storage_options={**options(s3), **more})) == 30


@pytest.mark.parametrize("wrong", [{"allow_http": SECRET}, {"timeout": SECRET}, {"no_such_option": SECRET}])
def test_an_option_that_obstore_refuses_is_told_without_its_value(s3: str, wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"^s3://mine cannot be opened \(.+\): .* \(given: ") as caught:
        keys("s3://mine/train", storage_options={**options(s3), **wrong})
    assert SECRET not in str(caught.value)


def test_a_panic_of_obstore_is_an_error_with_its_words(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def panic(*_: object, **__: object) -> None:
        raise Panic(f"at {SECRET}\nand more")

    monkeypatch.setattr("obstore.get_async", panic)
    failure = failing(s3, lambda stores: stores.get("s3://mine/a", 9))
    assert failure.reason == "store-failed"
    assert failure.detail.startswith("obstore has failed, Panic: at ***: does the endpoint in storage_options")
    monkeypatch.setattr("obstore.store.from_url", panic)
    with pytest.raises(ConfigError, match=r"cannot be opened \(Panic: at \*\*\*\)"):
        using(s3, lambda stores: stores.get("s3://mine/a", 9))


@pytest.mark.parametrize("name", ["endpoint", "AWS_ENDPOINT_URL"])
def test_an_endpoint_without_a_scheme_is_a_config_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As MinIO's own clients want it."""
    given = {name: "minio:9000", "access_key_id": KEY, "secret_access_key": SECRET}
    for kind, place in (("webdataset", "url"), ("file", "root_path")):
        source = {place: "s3://mine/a.tar", "storage_options": given}
        with pytest.raises(ConfigError, match=rf"storage_options: {name} must begin with http:// or https://"):
            LoaderConfig.load({"source_type": kind, "source_config": source})
    monkeypatch.setenv("AWS_ENDPOINT_URL", "minio:9000")
    source = {"url": "s3://mine/a.tar"}
    loader = Loader({"source_type": "webdataset", "source_config": source}, device="cpu", backend="pillow")
    with (
        loader,
        pytest.raises(
            ConfigError, match="the environment variable AWS_ENDPOINT_URL must begin with http:// or https://"
        ),
    ):
        list(loader)


def test_without_obstore_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(name: str, *arguments: Any) -> Any:
        if name.startswith("obstore"):
            raise ImportError(name)
        return original(name, *arguments)

    original = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'datago_gpu\[cloud\]'"):
        files("s3://mine/photos", "http://127.0.0.1:1")


def test_the_options_of_a_folder_are_shown_in_no_text() -> None:
    config = LoaderConfig.load(
        {"source_type": "file", "source_config": {"root_path": "s3://mine/x", "storage_options": {"key": SECRET}}}
    )
    assert repr(config.source_config) == "FileSource(root_path='s3://mine/x', storage_options={'key': '***'})"
    assert config.redacted(f"a {SECRET}") == "a ***"
    with pytest.raises(ConfigError, match="root_path begins with http://, which is not supported"):
        LoaderConfig.load({"source_type": "file", "source_config": {"root_path": "http://mine/x"}})


def test_a_folder_in_a_bucket_goes_through_the_loader(s3: str) -> None:
    client = s3_client(s3)
    for number in range(10):
        file = io.BytesIO()
        Image.new("RGB", (60, 40), (number * 20, 0, 0)).save(file, "PNG")
        client.put_object(Bucket="mine", Key=f"real/{number}.png", Body=file.getvalue())
    client.put_object(Bucket="mine", Key="real/5.png", Body=b"no picture")
    client.close()
    settings = {
        "source_type": "file",
        "source_config": {"root_path": "s3://mine/real", "storage_options": options(s3)},
        "image_config": {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 16},
        "batch_size": 4,
    }
    with Loader(settings, device="cpu", backend="pillow") as loader:
        samples = {sample.id: int(sample.image[5, 5, 0]) for sample in loader.samples()}
    assert samples == {f"{number}.png": number * 20 for number in range(10) if number != 5}
    assert loader.stats().skipped == {"unknown-format": 1}


def test_a_store_that_is_down_is_told_from_an_object_that_is_bad() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        stores = Stores(QUICK, options(f"http://127.0.0.1:{taken.getsockname()[1]}"))

        async def verdicts() -> list[bool]:
            found = []
            for number in range(5):
                with pytest.raises(HttpFailure) as caught:
                    await stores.get(f"s3://mine/{number}.jpg", 100)
                found.append(caught.value.down)
            return found

        assert asyncio.run(verdicts()) == [False, False, False, True, True]
