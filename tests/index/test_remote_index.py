"""An index of pictures on servers: a Dataroom, a bucket, and servers that misbehave."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from datago_gpu.config import LoaderConfig
from datago_gpu.errors import ConfigError, SourceError
from datago_gpu.index.build import part_of
from datago_gpu.server import DataroomServer
from tests.support.indexes import HASTY, delivered, make, read_rows, reasons, usable
from tests.support.listing import KEY, Listing
from tests.support.moto_s3 import KEY as S3_KEY
from tests.support.moto_s3 import SECRET, s3_client, s3_server
from tests.support.pictures import encode, oriented_jpeg, picture
from tests.support.servers import Answer, MisbehavingServer, Request

LARGE = encode(picture(300, 400), "JPEG", quality=95) + bytes(500_000) + b"\xff\xd9"


def db_config(api_url: str, key: str = KEY, **source: Any) -> dict[str, Any]:
    return {
        "source_type": "db",
        "source_config": {"api_url": api_url, "api_key": key, "page_size": 7, **source},
        "http_config": HASTY,
    }


class Store:
    """A Dataroom's listing, and the pictures that it names, on one server. tags: name -> the ETag of the picture."""

    def __init__(self, server: MisbehavingServer, pictures: dict[str, bytes]) -> None:
        self.server, self.pictures = server, pictures
        self.listing = Listing(server, pictures)
        self.fault: Callable[[Request, Answer], Answer | None] = lambda _request, _good: None
        for name, entry in self.listing.entries.items():
            entry["image_direct_url"] = server.route(f"/files/{name}", self._answer) + "?sig=one"

    def _answer(self, request: Request) -> Answer:
        body = self.pictures[request.path.removeprefix("/files/")]
        good = Answer(200, body, {"ETag": f'"{hash(body)}"'}, ranges=True)
        return self.fault(request, good) or good

    @property
    def asked(self) -> int:
        return sum(request.path.startswith("/files/") for request in self.server.requests)


def small(count: int) -> dict[str, bytes]:
    return {f"im-{number:03}": encode(picture(20 + number, 30), "JPEG") for number in range(count)}


def test_an_index_of_a_dataroom_is_upright_and_has_what_a_loader_has(tmp_path: Path) -> None:
    """The Dataroom's own sizes are those of the stored pixels."""
    root, out = tmp_path / "photos", tmp_path / "x.arrow"
    root.mkdir()
    for number in range(9):
        (root / f"{number}.jpg").write_bytes(oriented_jpeg(picture(20 + number, 40), 6 if number % 2 else 1))
        (root / f"{number}.json").write_text(f'{{"source": "camera", "tags": ["t"], "attributes": {{"n": {number}}}}}')
    (root / "7.jpg").write_bytes(encode(picture(33, 44), "GIF"))
    (root / "8.jpg").write_bytes(encode(picture(33, 44), "PNG"))
    with DataroomServer(root, watch_interval_s=None) as server:
        config = db_config(server.url, server.key)
        make(config, out)
        assert usable(out) == delivered(config)
        assert make(config, out, update=True).known == 9
    rows = read_rows(out)
    assert [row["attributes"] for row in rows] == [f'{{"n":{number}}}' for number in range(9)]
    assert {(row["source"], *row["tags"]) for row in rows} == {("camera", "t")}
    assert [row["format"] for row in rows] == ["jpeg"] * 7 + ["gif", "png"]
    assert server.key not in out.read_bytes().decode("latin-1")


def test_only_the_bytes_of_the_header_are_downloaded(tmp_path: Path) -> None:
    long = encode(picture(50, 60), "JPEG", icc_profile=bytes(200_000)) + bytes(400_000) + b"\xff\xd9"
    with MisbehavingServer() as server:
        store = Store(server, {"a": LARGE, "b": long, "c": encode(picture(20, 30), "GIF"), "d": b""})
        make(db_config(store.listing.api_url), tmp_path / "x.arrow")
        ranges: dict[str, list[str]] = {}
        for request in server.requests:
            if request.path.startswith("/files/"):
                ranges.setdefault(request.path[7:], []).append(request.headers["range"])
    assert usable(tmp_path / "x.arrow") == {"a": (300, 400), "b": (50, 60), "c": (20, 30)}
    assert reasons(tmp_path / "x.arrow") == {"d": "empty"}
    assert ranges["a"] == ranges["c"] == ranges["d"] == ["bytes=0-65535"]
    assert ranges["b"][0] == "bytes=0-65535"
    assert int(ranges["b"][-1].rpartition("-")[2]) < 300_000


FAULTS: list[Callable[[Answer], Answer]] = [
    lambda _: Answer(503, b"SlowDown", {"Retry-After": "0"}),
    lambda _: Answer(drop=True),
    lambda good: Answer(200, good.body, good.headers, ranges=True, cut_after=100),
    lambda good: Answer(200, good.body, good.headers, reset_after=50),
    lambda good: Answer(200, good.body, good.headers, chunked=True),
    lambda good: Answer(200, good.body, good.headers, length=-1),
    lambda good: Answer(200, good.body, good.headers, stall_after=20),
]


def test_a_misbehaving_server_costs_nothing(tmp_path: Path) -> None:
    pictures = small(40)
    with MisbehavingServer() as server:
        store = Store(server, pictures)
        config = db_config(store.listing.api_url)
        make(config, tmp_path / "calm.arrow")
        seen: dict[str, int] = {}

        def fault(request: Request, good: Answer) -> Answer | None:
            seen[request.path] = seen.get(request.path, 0) + 1
            number = int(request.path[-3:])
            return FAULTS[number % len(FAULTS)](good) if seen[request.path] < 3 else None

        store.fault = fault
        make(config, tmp_path / "rough.arrow")
    assert (tmp_path / "calm.arrow").read_bytes() == (tmp_path / "rough.arrow").read_bytes()
    assert usable(tmp_path / "calm.arrow") == {name: (20 + int(name[3:]), 30) for name in pictures}


def test_reasons_are_those_of_a_loader(tmp_path: Path) -> None:
    pictures = small(8)
    with MisbehavingServer() as server:
        store = Store(server, pictures)
        bad = {"im-001": Answer(404), "im-002": Answer(200, b"<html>"), "im-003": Answer(200, b"x" * 2**21)}
        store.fault = lambda request, _good: bad.get(request.path.removeprefix("/files/"))
        store.listing.entries["im-004"]["image_direct_url"] = None
        store.listing.entries["im-005"]["image_direct_url"] = "ftp://x/y"
        store.listing.entries["im-006"]["attributes"] = 17
        config = db_config(store.listing.api_url)
        config["http_config"] = {**HASTY, "max_payload_mb": 1}
        make(config, tmp_path / "x.arrow")
        assert usable(tmp_path / "x.arrow") == delivered(config)
    found = reasons(tmp_path / "x.arrow")
    assert found == {"im-001": "http-404", "im-002": "unknown-format", "im-003": "too-large", "im-004": "no-url",
                     "im-005": "bad-url"}  # fmt: skip


def test_an_update_asks_whether_pictures_have_changed(tmp_path: Path) -> None:
    out = tmp_path / "x.arrow"
    with MisbehavingServer() as server:
        store = Store(server, small(12))
        config = db_config(store.listing.api_url)
        store.fault = lambda request, _good: Answer(404) if request.path.endswith("im-005") else None
        make(config, out)
        assert reasons(out) == {"im-005": "http-404"}
        store.fault = lambda _request, _good: None
        for entry in store.listing.entries.values():
            entry["image_direct_url"] = entry["image_direct_url"].replace("sig=one", "Expires=1796040000&sig=two")
            entry["tags"] = ["new"]
        store.pictures["im-003"] = encode(picture(77, 88), "JPEG")
        del store.listing.entries["im-007"]
        summary = make(config, out, update=True)
    rows = read_rows(out)
    assert (summary.rows, summary.known) == (11, 9)
    assert summary.expires == datetime(2026, 11, 30, 12, tzinfo=UTC)
    assert [row["id"] for row in rows if row["url"].endswith("sig=two") and row["tags"] == ["new"]] == sorted(
        store.listing.entries
    )
    assert usable(out)["im-003"] == (77, 88)
    assert usable(out)["im-005"] == (25, 30)


def test_an_address_that_has_expired_is_asked_for_again(tmp_path: Path) -> None:
    with MisbehavingServer() as server:
        store = Store(server, small(3))
        store.fault = lambda request, _good: Answer(403) if "sig=one" in request.query else None
        for name in store.pictures:
            url = f"{server.url}/files/{name}?sig=two"
            answer = Answer(200, f'{{"id": "{name}", "image_direct_url": "{url}"}}'.encode())
            server.script(f"/api/images/{name}/", answer)
        make(db_config(store.listing.api_url), tmp_path / "x.arrow")
    assert [row["url"].rpartition("?")[2] for row in read_rows(tmp_path / "x.arrow")] == ["sig=two"] * 3


def test_a_server_that_goes_down_ends_the_run_and_the_next_run_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "x.arrow"
    with MisbehavingServer() as server:
        store = Store(server, small(60))
        config = db_config(store.listing.api_url)
        config["http_config"] = {**HASTY, "concurrent_downloads": 2, "max_tries": 3}
        make(config, tmp_path / "whole.arrow")
        store.fault = lambda request, _good: Answer(drop=True) if int(request.path[-3:]) >= 30 else None
        with pytest.raises(SourceError, match="its server answered no other request"):
            make(config, out)
        assert part_of(out).exists()
        store.fault = lambda _request, _good: None
        before = store.asked
        summary = make(config, out)
    assert summary.known >= 20
    assert store.asked - before == 60 - summary.known
    assert out.read_bytes() == (tmp_path / "whole.arrow").read_bytes()


def test_masks_and_latents_are_parts(tmp_path: Path) -> None:
    with MisbehavingServer() as server:
        store = Store(server, small(3))
        for name, entry in store.listing.entries.items():
            entry["latents"] = [
                {"latent_type": "mask", "file_direct_url": f"{server.url}/masks/{name}", "is_mask": True},
                {"latent_type": "vae", "file_direct_url": f"{server.url}/vae/{name}", "is_mask": False},
            ]
        store.listing.entries["im-001"]["latents"] = []
        make(db_config(store.listing.api_url, has_masks="mask", has_latents="vae"), tmp_path / "x.arrow")
    rows = read_rows(tmp_path / "x.arrow")
    parts = {row["id"]: [(part["name"], part["kind"], part["url"][len(server.url) :]) for part in row["parts"]]
             for row in rows}  # fmt: skip
    assert parts == {
        "im-000": [("mask", "mask", "/masks/im-000"), ("vae", "latent", "/vae/im-000")],
        "im-001": [],
        "im-002": [("mask", "mask", "/masks/im-002"), ("vae", "latent", "/vae/im-002")],
    }
    assert reasons(tmp_path / "x.arrow") == {"im-001": "no-mask"}


def test_a_dataroom_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="require_images"):
        make(db_config("http://127.0.0.1:9/api/", require_images=False), tmp_path / "x.arrow")
    assert os.listdir(tmp_path) == []


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, dict[str, Any]]]:
    """The endpoint of an S3 server, and the settings that load a folder of its bucket."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    objects = [(f"photos/{name}.jpg", body) for name, body in small(5).items()]
    objects += [("photos/large.jpg", LARGE), ("photos/empty.jpg", b""), ("photos/notes.txt", b"no")]
    with s3_server("to-index", objects) as endpoint:
        options = {"endpoint": endpoint, "access_key_id": S3_KEY, "secret_access_key": SECRET, "region": "us-east-1"}
        source = {"root_path": "s3://to-index/photos", "storage_options": options}
        yield endpoint, {"source_type": "file", "source_config": source, "http_config": {"max_backoff_s": 0.05}}


def test_a_bucket_is_indexed_and_an_update_reads_only_what_its_listing_says_has_changed(
    bucket: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    (endpoint, config), out = bucket, tmp_path / "x.arrow"
    make(config, out)
    assert usable(out) == delivered(config)
    assert usable(out)["large.jpg"] == (300, 400)
    assert reasons(out) == {"empty.jpg": "empty"}
    rows = {row["id"]: row for row in read_rows(out)}
    assert rows["large.jpg"]["url"] == "s3://to-index/photos/large.jpg"
    assert rows["large.jpg"]["bytes"] == len(LARGE)
    assert SECRET not in out.read_bytes().decode("latin-1")
    client = s3_client(endpoint)
    client.put_object(Bucket="to-index", Key="photos/im-001.jpg", Body=encode(picture(61, 62), "JPEG"))
    client.delete_object(Bucket="to-index", Key="photos/im-002.jpg")
    client.put_object(Bucket="to-index", Key="photos/new.jpg", Body=encode(picture(71, 72), "JPEG"))
    client.close()
    assert make(config, out, update=True).known == 4
    make(config, tmp_path / "fresh.arrow")
    assert out.read_bytes() == (tmp_path / "fresh.arrow").read_bytes()


def test_concurrency_is_that_of_the_settings(tmp_path: Path) -> None:
    with MisbehavingServer() as server:
        store = Store(server, small(30))
        config = db_config(store.listing.api_url)
        config["http_config"] = {**HASTY, "concurrent_downloads": 3}
        make(LoaderConfig.load(config), tmp_path / "x.arrow")
        connections = {request.connection for request in server.requests if request.path.startswith("/files/")}
    assert len(connections) <= 3 + 2  # the pages of the listing come on connections that are used again
