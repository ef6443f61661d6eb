"""Requests that no client library would send, on raw sockets: nothing leaks, nothing hangs, the server goes on."""

from __future__ import annotations

import contextlib
import hmac
import http.client
import json
import logging
import os
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datago_gpu.errors import ConfigError
from datago_gpu.server import DataroomServer
from tests.server.conftest import IDS, KEY, Client, add_image, request

SECRET = b"outside the root"
INTERNALS = (b"aiohttp", b"python", b"traceback", b"sqlite", b".py", b"/tmp", SECRET)
BIG = 32 << 20


def raw(url: str, sent: bytes, timeout_s: float = 20.0) -> bytes:
    """What comes back until the server closes. A server that closes before all was sent has answered all the same."""
    target = urlsplit(url)
    received = []
    with socket.create_connection((target.hostname, target.port), timeout=timeout_s) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(sent)
        with contextlib.suppress(ConnectionError):
            while block := connection.recv(1 << 16):
                received.append(block)
    return b"".join(received)


def head(target: str, *headers: str, method: str = "GET", host: str = "h", key: str = KEY) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", f"Authorization: Token {key}", "Connection: close"]
    return "\r\n".join([*lines, *headers, "", ""]).encode("latin-1")


def status_of(reply: bytes) -> int:
    return int(reply.split(b" ", 2)[1]) if reply else 0


def assert_says_nothing(reply: bytes) -> None:
    for word in INTERNALS:
        assert word not in reply.lower(), reply


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A root beside files that must not be reached, with every kind of link to them."""
    top = tmp_path_factory.mktemp("site")
    outside = add_image(top / "outside/secret.jpg", sidecar={"tags": ["stolen"]})
    (top / "outside/secret.txt").write_bytes(SECRET)
    root = top / "root"
    add_image(root / "album/kept.jpg", sidecar={"latents": [
        {"latent_type": "up", "file": "../../outside/secret.txt"},
        {"latent_type": "absolute", "file": str(top / "outside/secret.txt")},
        {"latent_type": "link", "file": "link.txt"},
        {"latent_type": "own", "file": "own.npy"},
    ]})  # fmt: skip
    (root / "album/own.npy").write_bytes(b"latent")
    (root / "album/link.txt").symlink_to(top / "outside/secret.txt")
    (root / "linked.jpg").symlink_to(outside)
    (root / "folder").symlink_to(outside.parent)
    add_image(root / "borrowed.jpg", color=1)
    (root / "borrowed.json").symlink_to(outside.with_suffix(".json"))
    with DataroomServer(root, key=KEY, watch_interval_s=None) as server:
        yield Client(server)


def test_links_of_every_kind_are_left_out(site: Client) -> None:
    assert site.ids() == ["borrowed", "kept"]
    assert site("images/borrowed/").json["tags"] == []
    assert site("tags/").json["results"] == []
    assert [latent["latent_type"] for latent in site("images/kept/", fields="latents").json["latents"]] == ["own"]


@pytest.mark.parametrize("later", ["image", "latent", "folder"])
def test_a_link_that_comes_after_the_listing_is_not_followed(tmp_path: Path, later: str) -> None:
    secret = add_image(tmp_path / "outside/a.jpg")
    image = add_image(tmp_path / "root/sub/a.jpg", sidecar={"latents": [{"latent_type": "x", "file": "x.npy"}]})
    (image.parent / "x.npy").write_bytes(b"latent")
    (secret.parent / "x.npy").write_bytes(SECRET)
    with DataroomServer(tmp_path / "root", key=KEY, watch_interval_s=None) as server:
        found = Client(server)("images/a/", fields="image_direct_url,latents").json
        urls = [found["image_direct_url"], found["latents"][0]["file_direct_url"]]
        assert [request(url).status for url in urls] == [200, 200]
        if later == "folder":
            image.parent.rename(tmp_path / "moved")
            image.parent.symlink_to(secret.parent)
        else:
            name = {"image": "a.jpg", "latent": "x.npy"}[later]
            (image.parent / name).unlink()
            (image.parent / name).symlink_to(secret.parent / name)
        replies = [request(url) for url in urls]
        assert [reply.status for reply in replies] == {
            "folder": [404, 404], "image": [404, 200], "latent": [200, 404],
        }[later]  # fmt: skip
        for reply in replies:
            assert SECRET not in reply.body


UP = [
    "../",
    "%2e%2e/",
    "..%2f",
    "%2e%2e%2f",
    "%252e%252e%252f",
    "..%252f",
    "..%c0%af",
    "..\\",
    "..%5c",
    ".%00./",
    "....//",
]
ABSOLUTE = [
    "/etc/passwd",
    "//etc/passwd",
    "%2fetc%2fpasswd",
    "%252fetc%252fpasswd",
    "\\etc\\passwd",
    "file:///etc/passwd",
]
BESIDE = ["album/kept.jpg", "album/kept.json", "linked.jpg", "folder/secret.txt", "borrowed.json%00.jpg", "%0d%0aX-Y:z"]
TARGETS = [f"{step * 3}outside/secret.txt" for step in UP] + ABSOLUTE + BESIDE
PLACES = ["/", "/media/", "/media/images/kept/", "/api/images/", "/api/images/kept/"]


@pytest.mark.parametrize("place", PLACES)
def test_no_path_leads_to_a_file(site: Client, place: str) -> None:
    signer = site.server._signer
    for target in TARGETS:
        signed = signer.path(target, signer.expiry()) if place == "/media/" else place + target
        for sent in {place + target, signed, "http://h" + place + target}:
            reply = raw(site.server.url, head(sent))
            assert status_of(reply) in (302, 400, 403, 404), sent
            assert b"\r\nx-y:" not in reply.lower(), sent
            assert b"root:" not in reply, sent
            assert_says_nothing(reply.partition(b"\r\n\r\n")[2])


def test_nothing_lists_a_folder(site: Client) -> None:
    signer = site.server._signer
    for place in ("/", "/media", "/media/", "/media/images/", "/media/images/kept/", "/api", "/album/", "/api/media/"):
        for target in (place, signer.path(place.removeprefix("/media/"), signer.expiry())):
            reply = raw(site.server.url, head(target))
            assert status_of(reply) in (302, 403, 404)
            assert b".jpg" not in reply
            assert b"album" not in reply.partition(b"\r\n\r\n")[2]


LINES = b"GET /api/images/ HTTP/1.1\r\nHost: h\r\nAuthorization: Token " + KEY.encode() + b"\r\n"
NONSENSE = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no such version": b"GET / HTTP/9.9\r\nHost: h\r\n\r\n",
    "a NUL in the path": b"GET /\x00 HTTP/1.1\r\nHost: h\r\n\r\n",
    "bytes that are no text in the path": b"GET /\xff\xfe HTTP/1.1\r\nHost: h\r\n\r\n",
    "a long request line": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
    "a long header": LINES + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
    "an endless header": LINES + b"X: " + b"y" * 5_000_000,
    "a long name of a header": LINES + b"y" * 100_000 + b": x\r\n\r\n",
    "many headers": LINES + b"".join(b"X-%d: y\r\n" % number for number in range(100_000)) + b"\r\n",
    "a NUL beside the token": LINES[:-2] + b"\x00\r\n\r\n",
    "a CR beside the token": LINES[:-2] + b"\rX: y\r\n\r\n",
    "a folded header": LINES + b" folded\r\n\r\n",
    "no colon": LINES + b"nonsense\r\n\r\n",
    "no Host": LINES.replace(b"Host: h\r\n", b"") + b"\r\n",
    "two Hosts": LINES + b"Host: evil\r\n\r\n",
    "two lengths": LINES + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "a length below 0": LINES + b"Content-Length: -1\r\n\r\n",
    "a length and chunks": LINES + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "no such expectation": LINES + b"Expect: the worst\r\nConnection: close\r\n\r\n",
}


@pytest.mark.parametrize("sent", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_refused_in_few_words_and_logged_without_the_token(
    site: Client, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        reply = raw(site.server.url, sent)
    assert not reply or 400 <= status_of(reply) < 500
    assert_says_nothing(reply)
    assert KEY.encode() not in reply
    assert KEY not in caplog.text
    assert all(record.levelno < logging.WARNING for record in caplog.records)
    assert site.ids() == ["borrowed", "kept"]


def test_a_body_is_neither_wanted_nor_kept(site: Client) -> None:
    sent = head("/api/images/", f"Content-Length: {BIG}", method="POST") + b"x" * BIG
    reply = raw(site.server.url, sent)
    assert status_of(reply) in (0, 403)
    bomb = head("/api/images/", "Content-Encoding: gzip", "Content-Length: 3", method="PUT") + b"abc"
    assert status_of(raw(site.server.url, bomb)) == 403
    assert site.ids() == ["borrowed", "kept"]


def test_a_body_that_does_not_come_is_not_waited_for(site: Client) -> None:
    began = time.monotonic()
    for header in ("Content-Length: 1000000", "Transfer-Encoding: chunked"):
        assert status_of(raw(site.server.url, head("/api/images/", header, method="POST") + b"ff\r\nx")) == 403
    assert time.monotonic() - began < 20


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[Client]:
    """A server that closes what idles for half a second."""
    add_image(tmp_path / "a.jpg", sidecar={"latents": [{"latent_type": "big", "file": "big.npy"}]})
    with open(tmp_path / "big.npy", "wb") as file:
        file.truncate(BIG)
    with DataroomServer(tmp_path, key=KEY, watch_interval_s=None, idle_s=0.5) as server:
        yield Client(server)


def test_a_request_that_trickles_in_is_cut_off(hasty: Client) -> None:
    target = urlsplit(hasty.server.url)
    whole = head("/api/images/").replace(b"Connection: close\r\n", b"")
    for begun in (b"", b"GET /api/", LINES, whole + LINES):
        with socket.create_connection((target.hostname, target.port), timeout=0.1) as connection:
            began = time.monotonic()
            connection.sendall(begun)
            while time.monotonic() - began < 20:
                try:
                    if begun:
                        connection.sendall(b"X")  # a byte from time to time keeps no connection alive
                    if not connection.recv(1 << 16):
                        break
                except TimeoutError:
                    assert hasty.ids() == ["a"]
                except ConnectionError:
                    break
            assert 0.3 < time.monotonic() - began < 20


def test_a_client_that_does_not_read_loses_its_connection(hasty: Client) -> None:
    (latent,) = hasty("images/a/", fields="latents").json["latents"]
    url = urlsplit(latent["file_direct_url"])
    big = str(Path(hasty.server.root) / "big.npy")
    with socket.create_connection((url.hostname, url.port), timeout=10) as connection:
        connection.sendall(head(f"{url.path}?{url.query}"))
        assert connection.recv(10).startswith(b"HTTP/1.1 2")
        assert _is_open(big)
        deadline = time.monotonic() + 20
        while _is_open(big):
            assert time.monotonic() < deadline, "the file is still open"
            assert hasty.ids() == ["a"]
    assert len(request(latent["file_direct_url"]).body) == BIG


def _is_open(path: str) -> bool:
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(f"/proc/self/fd/{number}") == path:
                return True
    return False


@pytest.mark.parametrize("idle_s", [0, -1, float("nan"), 1e9])
def test_idle_s_is_checked(tmp_path: Path, idle_s: float) -> None:
    with pytest.raises(ConfigError, match="idle_s"):
        DataroomServer(tmp_path, idle_s=idle_s)


def test_tokens_and_signatures_are_compared_in_constant_time(site: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[object, object]] = []
    compare = hmac.compare_digest

    def spy(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", spy)
    near = KEY[:-1] + "x"
    for token in ("x", near, KEY):
        status = request(site.server.url + "images/count/", headers={"Authorization": f"Token {token}"}).status
        assert status == (200 if token == KEY else 403)
        assert compared.pop() == (token.encode(), KEY.encode())
    url = site("images/kept/").json["image_direct_url"]
    compared.clear()
    assert request(url[:-1] + ("0" if url[-1] != "0" else "1")).status == 403
    ((given, made),) = compared
    assert len(str(given)) == len(str(made)) == 64


@pytest.mark.parametrize(
    "host", ["h\tX", "h:99999999", "h/x", "user@h", "h#", "h?x", 'h"', "h\\", "[::1", "a" * 300, "", "h,evil", "\u0661"]
)
def test_an_odd_host_is_refused(site: Client, host: str) -> None:
    reply = raw(site.server.url, head("/api/images/?page_size=1", host=host.encode().decode("latin-1")))
    assert status_of(reply) == 400
    assert_says_nothing(reply)


def test_next_is_made_of_host_and_scheme_alone(site: Client) -> None:
    for forwarded in ("javascript", "https://evil/", "http, https", ""):
        sent = head("/api/images/?fields=id&page_size=1", f"X-Forwarded-Proto: {forwarded}", "X-Forwarded-Host: evil")
        reply = raw(site.server.url, sent)
        assert json.loads(reply.partition(b"\r\n\r\n")[2])["next"].startswith("http://h/api/images/?"), reply
    reply = raw(site.server.url, head("//evil/x"))
    assert b"Location: /login/?next=" in reply


def test_a_url_that_has_run_out_or_was_changed_gives_nothing(tmp_path: Path) -> None:
    image = add_image(tmp_path / "a.jpg")
    with DataroomServer(tmp_path, key=KEY, watch_interval_s=None, url_ttl_s=1e-6) as server:
        url = Client(server)("images/a/").json["image_direct_url"]
        expires = url.partition("expires=")[2].partition("&")[0]
        assert (request(url).status, b"Request has expired" in request(url).body) == (403, True)
        for changed in (
            url.replace(expires, "9" * 12), url.replace(expires, "-1"), url.replace(expires, "9" * 40),
            url.replace("expires", "Expires"), f"{url}&{url.partition('?')[2]}", url.replace("&", "&&"), url + "%00",
            url.partition("?")[0] + "?signature=", url.replace("/a/", "/%61/"),
        ):  # fmt: skip
            reply = request(changed)
            assert reply.status == 403
            assert image.read_bytes() not in reply.body


@pytest.mark.parametrize(
    "header",
    [
        "bytes=" + ",".join(["0-"] * 1500),
        "bytes=0-" + "9" * 4000,
        "bytes=" + "9" * 4000 + "-",
        "bytes=-" + "9" * 4000,
        "bytes=--1",
        "bytes=0x0-0xf",
        "bytes=1e1-2e1",
        "bytes=\t0-\t1",
        "bytes" * 1000,
    ],
)
def test_an_abusive_range_gives_the_file_once(client: Client, gallery: Path, header: str) -> None:
    url = urlsplit(client("images/apple/").json["image_direct_url"])
    reply = raw(client.server.url, head(f"{url.path}?{url.query}", f"Range: {header}"))
    assert status_of(reply) == 200
    assert reply.partition(b"\r\n\r\n")[2] == (gallery / "a/apple.jpg").read_bytes()


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "POST", "TRACE", "CONNECT", "PROPFIND"])
def test_no_other_method_gives_a_payload_or_repeats_the_request(client: Client, method: str) -> None:
    url = urlsplit(client("images/apple/").json["image_direct_url"])
    for target in (f"{url.path}?{url.query}", "/api/images/", "/", "*"):
        reply = raw(client.server.url, head(target, "X-Mine: repeated", method=method))
        assert status_of(reply) in (
            (200, 302, 400, 403, 404, 405) if method in ("HEAD", "OPTIONS") else (302, 400, 403, 404, 405)
        )
        assert b"repeated" not in reply
        assert KEY.encode() not in reply
        assert b"JFIF" not in reply


def test_a_failure_inside_is_a_page_without_a_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    add_image(tmp_path / "a.jpg")
    with DataroomServer(tmp_path, key=KEY, watch_interval_s=None) as server:
        server._index.close()
        for path in ("images/", "images/count/", "images/a/", "images/random/"):
            reply = raw(server.url, head(f"/api/{path}?tags="))
            assert status_of(reply) == 500
            assert_says_nothing(reply)
    assert "closed database" in caplog.text  # who runs the server does learn of it
    assert KEY not in caplog.text


def test_a_lack_of_descriptors_loses_no_image(tmp_path: Path) -> None:
    """As when somebody opens as many connections as there can be."""
    add_image(tmp_path / "sub/a.jpg")
    with DataroomServer(tmp_path, key=KEY, watch_interval_s=None) as server:
        url = urlsplit(Client(server)("images/a/").json["image_direct_url"])
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=10)
        add_image(tmp_path / "sub/b.jpg")
        statuses = []
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        for most in (limits[0], 3, limits[0]):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, limits[1]))
            try:
                connection.request("GET", f"{url.path}?{url.query}")
                reply = connection.getresponse()
                statuses.append((reply.status, b"SlowDown" in reply.read()))
                if most == 3:
                    with pytest.raises(OSError, match="Too many open files"):
                        server.refresh()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        connection.close()
        assert statuses == [(200, False), (503, True), (200, False)]
        assert Client(server).ids() == ["a"]
        server.refresh()
        assert Client(server).ids() == ["a", "b"]


def test_connections_are_bounded_and_their_places_come_back(tmp_path: Path) -> None:
    add_image(tmp_path / "a.jpg")
    with DataroomServer(tmp_path, key=KEY, watch_interval_s=None, max_connections=3) as server:
        target = urlsplit(server.url)
        address = (target.hostname, target.port)
        held = [socket.create_connection(address, timeout=10) for _ in range(3)]
        for connection in held:
            connection.sendall(b"GET /_health/ HTTP/1.1\r\nHost: h\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        with socket.create_connection(address, timeout=10) as further, contextlib.suppress(ConnectionError):
            assert further.recv(1) == b""
        for connection in held:
            connection.close()
        while server._places.taken:  # the loop has to notice
            time.sleep(0.001)
        assert Client(server).ids() == ["a"]
    with pytest.raises(ConfigError, match="max_connections must be at least 1"):
        DataroomServer(tmp_path, max_connections=0)


def test_a_cache_in_front_is_told_what_an_answer_depends_on(site: Client) -> None:
    assert site("images/").headers["Vary"] == "Accept, Host, X-Forwarded-Proto"


HEADERS = ["Range", "If-Range", "If-None-Match", "Accept", "X-Forwarded-Proto", "Cookie", "Expect", "Upgrade", "Host"]


@settings(max_examples=150)
@given(
    headers=st.dictionaries(
        st.sampled_from(HEADERS), st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=40)
    ),
    signed=st.booleans(),
)
def test_no_header_breaks_the_server(client: Client, headers: dict[str, str], signed: bool) -> None:
    target = "/api/images/"
    if signed:
        target = client.server._signer.path("images/apple/original.jpg", client.server._signer.expiry())
    reply = raw(client.server.url, head(target, *(f"{name}: {value}" for name, value in headers.items())))
    assert status_of(reply) in (200, 206, 304, 400, 403, 406, 416, 417)
    assert b"traceback" not in reply.lower()


@settings(max_examples=150)
@given(st.binary(max_size=200), st.sampled_from([b"", b"GET ", b"GET /api/images/ HTTP/1.1\r\n", LINES]))
def test_no_bytes_break_the_server(client: Client, sent: bytes, before: bytes) -> None:
    target = urlsplit(client.server.url)
    with socket.create_connection((target.hostname, target.port), timeout=10) as connection:
        connection.sendall(before + sent + b"\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while block := connection.recv(1 << 16):
                assert b"raceback" not in block
    assert client.ids() == IDS


@settings(max_examples=150)
@given(st.sampled_from(["images/", "images/count/", "images/random/"]), st.binary(max_size=60))
def test_no_bytes_in_a_query_break_the_server(client: Client, path: str, query: bytes) -> None:
    reply = client(f"{path}?{quote(query, safe='&=%+;?/:@,')}")
    assert reply.status in (200, 400)
    if reply.headers.get_content_type() == "application/json":
        json.loads(reply.body)
