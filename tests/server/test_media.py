"""Payloads: signatures, ranges, and nothing but the files of the index."""

from __future__ import annotations

import http.client
import logging
import os
import socket
import threading
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from datago_gpu.server import DataroomServer
from datago_gpu.server.media import StoreError, UrlSigner
from tests.server.conftest import KEY, Client, add_image, request


@pytest.fixture
def url(client: Client) -> str:
    return str(client("images/apple/").json["image_direct_url"])


@pytest.fixture
def original(gallery: Path) -> bytes:
    return (gallery / "a/apple.jpg").read_bytes()


def test_a_signed_url_gives_the_file_without_a_token(client: Client, gallery: Path, url: str, original: bytes) -> None:
    assert urlsplit(url).path == "/media/images/apple/original.jpg"
    reply = request(url)
    assert (reply.status, reply.body, reply.headers["Content-Type"]) == (200, original, "image/jpeg")
    latents = {
        one["latent_type"]: one["file_direct_url"] for one in client("images/apple/", fields="latents").json["latents"]
    }
    assert urlsplit(latents["vae"]).path == "/media/images/apple/latent_vae.npy"
    assert request(latents["vae"]).body == b"apple latent"
    assert request(latents["mask_fg"]).body == (gallery / "a/apple_mask.png").read_bytes()


def test_head_gives_the_size_only(url: str, original: bytes) -> None:
    reply = request(url, method="HEAD")
    assert (reply.status, reply.body, reply.headers["Content-Length"]) == (200, b"", str(len(original)))


@pytest.mark.parametrize(
    ("header", "chosen"),
    [
        ("bytes=0-9", slice(0, 10)),
        ("bytes=10-", slice(10, None)),
        ("bytes=-7", slice(-7, None)),
        ("bytes=5-99999999", slice(5, None)),
        ("bytes=-99999999", slice(0, None)),
    ],
)
def test_a_range_gives_these_bytes(url: str, original: bytes, header: str, chosen: slice) -> None:
    reply = request(url, headers={"Range": header})
    start, stop, _ = chosen.indices(len(original))
    assert (reply.status, reply.body) == (206, original[chosen])
    assert reply.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(original)}"


@pytest.mark.parametrize(
    "header", ["bytes=", "bytes=-", "bytes=9-3", "bytes=0-1,4-5", "lines=1-2", "bytes=a-b", "bytes=\u0661-"]
)
def test_what_is_no_single_range_gives_the_whole_file(url: str, original: bytes, header: str) -> None:
    reply = request(url, headers={"Range": header.encode().decode("latin-1")})
    assert (reply.status, reply.body) == (200, original)


@pytest.mark.parametrize("header", ["bytes=99999999-", "bytes=-0"])
def test_a_range_past_the_end_is_416(url: str, original: bytes, header: str) -> None:
    reply = request(url, headers={"Range": header})
    assert (reply.status, reply.headers["Content-Range"]) == (416, f"bytes */{len(original)}")


def test_if_range_holds_for_the_same_state_only(url: str) -> None:
    whole = request(url)
    for value, status in [
        (whole.headers["ETag"], 206),
        (whole.headers["Last-Modified"], 206),
        ('"other"', 200),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 200),
    ]:
        assert request(url, headers={"Range": "bytes=3-", "If-Range": value}).status == status


def test_an_unchanged_file_is_304(url: str) -> None:
    etag = request(url).headers["ETag"]
    assert request(url, headers={"If-None-Match": f'"x", {etag}'}).status == 304
    assert request(url, headers={"If-None-Match": '"x"'}).status == 200


def test_a_connection_serves_many_requests(url: str, original: bytes) -> None:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    connection.connect()
    first = connection.sock
    for _ in range(3):
        connection.request("GET", f"{parts.path}?{parts.query}")
        assert connection.getresponse().read() == original
        assert connection.sock is first
    connection.close()


def test_a_forged_url_is_403(url: str) -> None:
    bare, query = url.split("?")
    expires, signature = query.split("&")
    later = f"expires={int(expires.removeprefix('expires=')) + 1}"
    other = bare.replace("apple", "cherry").replace(".jpg", ".webp")
    for forged, code in [
        (bare, b"AccessDenied"),
        (f"{bare}?{later}&{signature}", b"SignatureDoesNotMatch"),
        (f"{other}?{query}", b"SignatureDoesNotMatch"),
        (f"{url}&x=1", b"SignatureDoesNotMatch"),
        (f"{bare}?{expires}&signature={'0' * 64}", b"SignatureDoesNotMatch"),
        (f"{bare}?{signature}&{expires}", b"SignatureDoesNotMatch"),
    ]:
        reply = request(forged)
        assert (reply.status, reply.headers["Content-Type"]) == (403, "application/xml; charset=utf-8")
        assert code in reply.body


def test_a_url_runs_out() -> None:
    now = 1000.0
    signer = UrlSigner(60.0, clock=lambda: now)
    path, query = signer.path("images/a/original.jpg", signer.expiry()).split("?")
    now = 1059.0
    signer.check(path, query)
    now = 1060.0
    with pytest.raises(StoreError, match="Request has expired") as caught:
        signer.check(path, query)
    assert (caught.value.status, b"<Message>Request has expired" in caught.value.response().body) == (403, True)  # type: ignore[operator]


def test_another_method_is_405(url: str) -> None:
    assert request(url, method="PUT").status == 405


HOSTILE = [
    "../secret.txt", "images/../../secret.txt", "%2e%2e/secret.txt", "%252e%252e%252fsecret.txt", "..%2fsecret.txt",
    "/etc/passwd", "//etc/passwd", "images/apple/../../../../etc/passwd", "images/apple/original.jpg/..", "images/",
    "", "a/apple.jpg", "images/link/original.jpg", "images/apple/original.jpg%00", "..\\..\\secret.txt", "images/%ff/x",
]  # fmt: skip


@pytest.mark.parametrize("key", HOSTILE)
def test_no_key_leads_out_of_the_index(client: Client, key: str) -> None:
    signer = client.server._signer
    for name in (key, quote(key)):
        reply = request(client.server.url.removesuffix("/api/") + signer.path(name, signer.expiry()))
        assert reply.status in (403, 404)
        assert b"<Error>" in reply.body
        assert request(client.server.payload_url + name).status in (302, 403)


def test_links_are_neither_indexed_nor_followed(tmp_path: Path) -> None:
    outside = add_image(tmp_path / "outside/secret.jpg")
    root = tmp_path / "root"
    kept = add_image(root / "sub/kept.jpg")
    (root / "link.jpg").symlink_to(outside)
    (root / "folder").symlink_to(outside.parent)
    add_image(root / "claims.jpg", sidecar={"latents": [
        {"latent_type": "up", "file": "../outside/secret.jpg"},
        {"latent_type": "absolute", "file": str(outside)},
        {"latent_type": "link", "file": "link.jpg"},
        {"latent_type": "through", "file": "folder/secret.jpg"},
    ]})  # fmt: skip
    with DataroomServer(root, watch_interval_s=None) as server:
        client = Client(server)
        assert client.ids() == ["claims", "kept"]
        assert client("images/claims/", fields="latents").json["latents"] == []
        url = client("images/kept/").json["image_direct_url"]
        assert request(url).status == 200
        kept.parent.rename(tmp_path / "moved")
        (root / "sub").symlink_to(tmp_path / "moved")
        assert request(url).status == 404
        (root / "sub").unlink()
        (root / "sub").mkdir()
        kept.symlink_to(outside)
        assert request(url).status == 404
        kept.unlink()
        os.mkfifo(kept)
        assert request(url).status == 404


def test_a_removed_file_is_no_such_key(tmp_path: Path) -> None:
    gone = add_image(tmp_path / "gone.jpg")
    with DataroomServer(tmp_path, watch_interval_s=None) as server:
        url = Client(server)("images/gone/").json["image_direct_url"]
        gone.unlink()
        for _ in range(2):
            reply = request(url)
            assert (reply.status, b"<Code>NoSuchKey</Code>" in reply.body) == (404, True)
            server.refresh()


def test_payloads_may_have_an_origin_of_their_own(gallery: Path, original: bytes) -> None:
    with DataroomServer(gallery, key=KEY, payload_port=0, watch_interval_s=None) as server:
        url = Client(server)("images/apple/").json["image_direct_url"]
        assert url.startswith(server.payload_url)
        assert urlsplit(url).netloc != urlsplit(server.url).netloc
        assert request(url).body == original
        assert request(url, headers={"Authorization": f"Token {KEY}"}).status == 400
        assert request(server.payload_url.replace("/media/", "/api/images/")).status == 403
        moved = url.replace(urlsplit(url).netloc, urlsplit(server.url).netloc)
        assert request(moved).status == 302


def test_a_large_file_arrives_whole(tmp_path: Path) -> None:
    add_image(tmp_path / "x.jpg", sidecar={"latents": [{"latent_type": "big", "file": "big.html"}]})
    data = os.urandom(3 * (1 << 20) + 17)
    (tmp_path / "big.html").write_bytes(data)
    with DataroomServer(tmp_path, watch_interval_s=None) as server:
        (latent,) = Client(server)("images/x/", fields="latents").json["latents"]
        reply = request(latent["file_direct_url"])
        assert (reply.body, reply.headers["Content-Type"]) == (data, "application/octet-stream")


def test_a_client_that_goes_away_in_the_middle_is_no_error_of_the_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add_image(tmp_path / "big.jpg")
    with open(tmp_path / "big.jpg", "ab") as file:
        file.write(bytes(64 << 20))  # more than sockets hold
    noticed = threading.Event()
    handler = logging.Handler(logging.DEBUG)
    handler.emit = lambda record: noticed.set() if "went away" in record.getMessage() else None  # type: ignore[method-assign]
    log = logging.getLogger("datago_gpu")
    log.addHandler(handler)
    try:
        with caplog.at_level(logging.DEBUG, "datago_gpu"), DataroomServer(tmp_path, key=KEY) as server:
            url = urlsplit(Client(server)("images/big/").json["image_direct_url"])
            with socket.create_connection((url.hostname, url.port), timeout=20) as gone:
                gone.sendall(f"GET {url.path}?{url.query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                assert gone.recv(100).startswith(b"HTTP/1.1 200")
            assert noticed.wait(20)
    finally:
        log.removeHandler(handler)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
