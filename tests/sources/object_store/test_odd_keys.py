"""Keys of object storage with an empty part, ".", "..", or a control character: they cost themselves only."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datago_gpu import Loader, SourceError
from datago_gpu.sources.object_store.s3_listing import is_odd, odd_key_of
from datago_gpu.sources.reference import Position, SampleRef
from tests.sources.object_store.test_buckets import files, options
from tests.support.images import add_picture, file_config
from tests.support.moto_s3 import s3_server
from tests.support.needs import needs
from tests.support.servers import Answer, MisbehavingServer, Request
from tests.support.shards import keys, tar_bytes

GOOD = ["p/!.jpg", "p/0.jpg", "p/A/1.jpg", "p/a/-1.jpg", "p/a/0.jpg", "p/a/1.jpg", "p/b.jpg", "p/c/1.jpg", "p/z.jpg"]
ODD = ["p/a//x.jpg", "p/./x.jpg", "p/c/../x.jpg", "p/d\x01b.jpg", "p//y.jpg"]


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return add_picture(tmp_path_factory.mktemp("picture") / "a.jpg").read_bytes()


@pytest.fixture(scope="module")
def s3(picture: bytes) -> Iterator[str]:
    """The endpoint of an S3 server with good and odd keys."""
    pictures = [(name, picture) for name in (*GOOD, *ODD)]
    shards = [
        (name, tar_bytes([(f"{number}.jpg", picture)]))
        for number, name in enumerate(["s/0.tar", "s/1.tar", "s/a//2.tar", "s/b/3.tar"])
    ]
    others = [(name, b"no shard") for name in ("s/._0.tar", "s/.trash/0.tar")]
    with s3_server("odd", [*pictures, *shards, *others]) as endpoint:
        yield endpoint


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize("shuffled", [False, True])
def test_all_others_of_a_folder_are_delivered_and_odd_keys_are_named_and_counted(
    s3: str, shuffled: bool, caplog: pytest.LogCaptureFixture
) -> None:
    source = {"storage_options": options(s3), "random_sampling": shuffled}
    with Loader(file_config("s3://odd/p", source=source), device="cpu", backend="pillow") as loader:
        ids = [name for batch in loader for name in batch.ids]
        assert loader.stats().skipped == {"odd-key": len(ODD)}
    assert sorted(ids) == sorted(name.removeprefix("p/") for name in GOOD)
    (message,) = (each for each in caplog.messages if each.startswith("skipped"))
    assert (
        "odd-key: obstore does not support keys with an empty part, '.', '..' or a control character: rename" in message
    )
    assert message.isprintable()


def test_the_listing_is_in_order_and_goes_on_from_any_place(s3: str) -> None:
    whole = files("s3://odd/p", s3)
    assert [each.id for each in whole] == [name.removeprefix("p/") for name in sorted(GOOD + ODD)]
    for start, ref in enumerate(whole):
        assert isinstance(ref, SampleRef)
        behind_control = "\x01" in whole[start - 1].id  # of which this server's answers are no XML
        for cursor in ("",) if behind_control else ("", ref.cursor):
            found = files("s3://odd/p", s3, Position(0, start, cursor))
            assert [(each.index, each.id) for each in found] == [(each.index, each.id) for each in whole[start:]]


@pytest.mark.parametrize("url", ["s3://odd/s", "s3://odd/s/", "s3://odd/s/*/*.tar::s3://odd/s/?.tar"])
def test_all_other_shards_are_read_but_for_hidden_ones(s3: str, url: str) -> None:
    found = keys(url, storage_options=options(s3))
    assert sorted(set(found) - {"odd-key"}) == ["0", "1", "3"]


def test_without_boto3_the_error_names_the_key_and_the_way_out(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *more: Any) -> Any:
        if name == "boto3":
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SourceError) as caught:
        files("s3://odd/p", s3)
    words = str(caught.value)
    assert words.startswith(
        "cannot list s3://odd/p: the key 'p/./x.jpg' ends the listing, because obstore does not support keys w"
    )
    assert words.endswith(
        ". Rename or remove that object, or install boto3 (pip install boto3), which lists such buckets"
    )
    with pytest.raises(SourceError, match=r"^cannot list the shards of s3://odd/s/?: the key 's/a//2.tar' ends"):
        keys("s3://odd/s", storage_options=options(s3))


def test_what_boto3_cannot_have_is_told() -> None:
    page = (
        b"<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>1</KeyCount><Contents><Key>p//x.jpg</Key>"
        b"<Size>1</Size><LastModified>2024-01-01T00:00:00.000Z</LastModified></Contents></ListBucketResult>"
    )

    def answer(request: Request) -> Answer:
        ours = request.headers["user-agent"].startswith("object_store")
        return Answer(200, page) if ours else Answer(403, b"<Error><Code>AccessDenied</Code></Error>")

    with MisbehavingServer() as server:
        server.route("/odd", answer)
        with pytest.raises(SourceError, match=r"^cannot list s3://odd/p: http-403 \(listed with boto3\); check"):
            files("s3://odd/p", server.url)


@given(st.text(st.sampled_from("a./\x01\x7f é~"), max_size=8))
def test_odd_are_the_keys_that_obstore_takes_for_no_path(key: str) -> None:
    obstore = needs("obstore")
    try:
        obstore.put(obstore.store.MemoryStore(), key, b"")
        refused = ""
    except ValueError as error:
        refused = str(error)
    if not key.startswith("/"):  # which obstore passes over, and no key in a folder begins with
        assert bool(refused) == is_odd(key), refused
    if refused:
        assert odd_key_of(refused) == key.removeprefix("/").removesuffix("/") or odd_key_of(refused) == key
