"""The client against a server that does what servers do at night. Real sockets; waits are on events only."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import trustme
from aiohttp import ClientPayloadError, StreamReader
from aiohttp.base_protocol import BaseProtocol

from datago_gpu.config import DataroomSource, HttpConfig
from datago_gpu.errors import ConfigError, SourceError
from datago_gpu.sources.dataroom.api import api_address
from datago_gpu.sources.http.body import Body, next_piece
from datago_gpu.sources.http.failure import HttpFailure
from datago_gpu.sources.http.http_client import Counters, HttpClient, Response, without_query
from datago_gpu.sources.http.origins import origin_of
from tests.support.servers import Answer, MisbehavingServer
from tests.support.shards import keys

try:
    import uvloop
except ImportError:
    uvloop = None  # type: ignore[assignment]

BODY = bytes(range(256)) * 800  # 200 KiB, more than one read
TAG = {"ETag": '"one"'}
SECRET = "Token 0123456789abcdef0123456789abcdef01234567"
QUICK = HttpConfig(
    max_backoff_s=0.02, max_retry_after_s=0.05, connect_timeout_s=10, stall_timeout_s=0.5, total_timeout_s=20
)


@pytest.fixture
def server() -> Iterator[MisbehavingServer]:
    with MisbehavingServer() as running:
        yield running


def using(work: Callable[[HttpClient], Awaitable[Any]], config: HttpConfig = QUICK, *, plain: bool = False) -> Any:
    """Runs `work` on uvloop, which the feeder uses, where there is one; the tests of the source use asyncio's own."""

    async def main() -> Any:
        async with HttpClient(config) as client:
            return await work(client)

    with asyncio.Runner(loop_factory=None if plain or uvloop is None else uvloop.new_event_loop) as runner:
        return runner.run(main())


def get(url: str, config: HttpConfig = QUICK, *, max_bytes: int = 1 << 20, **more: Any) -> Response:
    return using(lambda client: client.get(url, max_bytes=max_bytes, **more), config)


def failing(url: str, config: HttpConfig = QUICK, **more: Any) -> HttpFailure:
    with pytest.raises(HttpFailure) as caught:
        get(url, config, **more)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return caught.value


def test_a_body_comes_whole_and_is_counted(server: MisbehavingServer) -> None:
    url = server.script("/a", Answer(200, BODY))

    async def work(client: HttpClient) -> Counters:
        response = await client.get(url + "?sig=a%2Fb+c&x=%20", max_bytes=1 << 20)
        assert response == Response(BODY, url + "?sig=a%2Fb+c&x=%20")
        return client.counters

    assert using(work) == Counters(requests=1, retries=0, bytes=len(BODY))
    assert server.requests[0].query == "sig=a%2Fb+c&x=%20", "an address goes out as it was given"
    assert "cookie" not in server.requests[0].headers
    assert server.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_a_transient_status_costs_only_time(server: MisbehavingServer, status: int) -> None:
    url = server.script("/a", Answer(status, b"busy"), Answer(status), Answer(200, BODY))

    async def work(client: HttpClient) -> Counters:
        assert (await client.get(url, max_bytes=1 << 20)).body == BODY
        return client.counters

    counters = using(work)
    assert (counters.requests, counters.retries) == (3, 2)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 416, 451, 204, 304, 300])
def test_a_permanent_status_is_asked_for_once(server: MisbehavingServer, status: int) -> None:
    failure = failing(server.script("/a", Answer(status, b"" if status in (204, 304) else b"an error page")))
    assert (failure.reason, failure.status, failure.tries) == (f"http-{status}", status, 1)
    assert server.count("/a") == 1
    if status == 400:
        assert failure.text == "an error page"


def test_a_dead_server_is_given_up_after_max_tries(server: MisbehavingServer) -> None:
    failure = failing(server.script("/a", Answer(503, b"<h1>no</h1>")) + "?signature=abc")
    assert (failure.reason, failure.tries, server.count("/a")) == ("http-503", 5, 5)
    assert str(failure) == f"{server.url}/a: http-503 (Said So, 5 tries)"


def test_a_refused_connection_is_tried_again_and_then_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        failure = failing(f"http://127.0.0.1:{taken.getsockname()[1]}/a?x=1")
    assert (failure.reason, failure.tries) == ("connection", 5)
    assert "refused" in str(failure)
    assert "x=1" not in repr(failure)


def test_an_unknown_name_is_a_connection_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)

    async def work(client: HttpClient) -> None:
        with pytest.raises(HttpFailure, match=r"the name of the server cannot be resolved \(5 tries\)"):
            await client.get("http://nowhere.invalid/a", max_bytes=100)

    using(work, plain=True)


def test_a_name_server_that_hangs_is_left_after_the_connect_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answered.wait(20))

    async def work(client: HttpClient) -> None:
        try:
            with pytest.raises(HttpFailure, match="no connection within"):
                await client.get("http://slow.example/a", max_bytes=100)
        finally:
            answered.set()

    using(work, HttpConfig(connect_timeout_s=0.05, max_tries=2, max_backoff_s=0.01), plain=True)


def test_an_address_that_changes_is_followed_at_once(
    server: MisbehavingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first address refuses; the name is looked up anew, although its cache entry is fresh."""
    server.script("/a", Answer(200, b"here"))
    addresses = ["127.0.0.9"]

    def lookup(_host: str, port: int, *_: object, **__: object) -> list[Any]:
        address = addresses.pop() if addresses else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)

    async def work(client: HttpClient) -> tuple[bytes, int]:
        response = await client.get(f"http://moved.example:{server.port}/a", max_bytes=100)
        return response.body, client.counters.retries

    assert using(work, plain=True) == (b"here", 1)  # uvloop asks the system by itself


@pytest.mark.parametrize("dated", [False, True])
def test_retry_after_is_honoured(server: MisbehavingServer, dated: bool) -> None:
    """In seconds, or as a date by the server's own clock, however wrong that clock is."""
    now = datetime(2001, 1, 1, tzinfo=UTC)
    after = format_datetime(now + timedelta(seconds=1), usegmt=True) if dated else "1"
    headers = {"Retry-After": after, "Date": format_datetime(now, usegmt=True)}
    url = server.script("/a", Answer(429, headers=headers), Answer(200, b"done"))
    begin = time.monotonic()
    assert get(url, HttpConfig(max_tries=1, max_backoff_s=0.01)).body == b"done"
    assert 1.0 <= time.monotonic() - begin < 20


def test_a_server_that_always_asks_to_come_back_is_given_up_in_the_end(server: MisbehavingServer) -> None:
    """Waits that it asks for are no tries, but last no longer than allowed; then the tries count."""
    url = server.script("/a", Answer(429, headers={"Retry-After": "1"}))
    failure = failing(url, HttpConfig(max_tries=2, max_backoff_s=0.01, max_retry_after_s=1.5))
    assert (failure.reason, failure.tries) == ("http-429", 2)
    assert 4 <= server.count("/a") <= 6


def test_heads_of_tens_of_kibibytes_are_taken(server: MisbehavingServer) -> None:
    """As of policies, and of signed addresses in redirects."""
    there = server.script("/there", Answer(200, b"here", headers={"Content-Security-Policy": "p" * 40_000}))
    assert get(there).body == b"here"
    moved = server.script("/moved", Answer(302, headers={"Location": f"{there}?signature={'s' * 40_000}"}))
    assert get(moved).body == b"here"
    endless = server.script("/endless", Answer(200, b"here", headers={"X": "x" * 80_000}))
    assert failing(endless, HttpConfig(max_tries=1)).reason == "protocol"


def test_a_server_that_speaks_no_tls_is_named_so() -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as plain:
        serving = threading.Thread(target=plain.handle_request)
        serving.start()
        failure = failing(f"https://127.0.0.1:{plain.server_port}/a", HttpConfig(max_tries=1))
        serving.join()
    told = "no connection by TLS; if the server speaks http only, use http://"
    assert (failure.reason, failure.detail) == ("tls", told)


LOOKS_LIKE_TLS = "this looks like an https server: use https:// instead of http://"
PLAIN_TO_TLS = [
    Answer(400, b"<center>The plain HTTP request was sent to HTTPS port</center>"),  # nginx
    Answer(400, b"Reason: You're speaking plain HTTP to an SSL-enabled server port.<br />"),  # Apache
    Answer(400, b"Client sent an HTTP request to an HTTPS server.\n"),  # Go
    Answer(raw=b"\x15\x03\x03\x00\x02\x02\x0a"),
    Answer(raw=b"\x15\x03\x01\x00\x02\x02\x46"),
]


@pytest.mark.parametrize("answer", PLAIN_TO_TLS, ids=["nginx", "Apache", "Go", "an alert", "an older alert"])
def test_an_https_server_that_is_asked_by_http_is_named_so(server: MisbehavingServer, answer: Answer) -> None:
    failure = failing(server.script("/a", answer), HttpConfig(max_tries=1))
    assert (failure.reason, failure.status) == ("protocol", 0)
    assert failure.detail.endswith(LOOKS_LIKE_TLS)


def test_an_https_server_that_says_nothing_to_plain_http_may_be_one(server: MisbehavingServer) -> None:
    """Many just close the connection, or reset it: so do servers that are broken, unless they have ever answered."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    hint = "if this is an https server, use https:// instead of http://"
    with MisbehavingServer(tls=context) as secret:
        failure = failing(f"http://127.0.0.1:{secret.port}/a", HttpConfig(max_tries=1))
        assert failure.detail.endswith(hint)
    good, bad = server.script("/good", Answer(200, b"here")), server.script("/bad", Answer(drop=True))

    async def work(client: HttpClient) -> str:
        assert (await client.get(good, max_bytes=100)).body == b"here"
        with pytest.raises(HttpFailure) as caught:
            await client.get(bad, max_bytes=100)
        return caught.value.detail

    assert using(work, HttpConfig(max_tries=1)) == "the server closed the connection"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:abc/api/", "has the port 'abc', but ports are numbers from 1 to 65535"),
        ("https://me:secret@example.org:70000/", "has the port '70000', but ports are numbers from 1 to 65535"),
        ("ftp://example.org/", "must begin with http:// or https://"),
        ("example.org/api/", "must begin with http:// or https://"),
        ("http:///api/", "has no host"),
        ("http://[::1/api/", "has a host that is not valid"),
    ],
)
def test_what_is_wrong_with_an_address_is_told(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}$") as problem:
        origin_of(url)
    assert problem.value.__context__ is None
    source = {"api_url": url.replace("me:secret@", "")}
    with pytest.raises(ConfigError, match=f"{words}, got "):
        api_address(DataroomSource(**source))
    if url.startswith("http"):
        with pytest.raises(SourceError, match=f"an address in source_config.url {words}: ") as caught:
            keys(f"{url}a.tar")
        assert "secret" not in str(caught.value)


def test_all_requests_wait_where_the_server_asked_one_to(server: MisbehavingServer) -> None:
    busy = server.script("/busy", Answer(503, headers={"Retry-After": "1"}), Answer(200, b"done"))
    other = server.script("/other", Answer(200, b"done"))

    async def work(client: HttpClient) -> float:
        first = asyncio.create_task(client.get(busy, max_bytes=100))
        while not client.pausing:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)
        begin = time.monotonic()
        await client.get(other, max_bytes=100)
        await first
        return time.monotonic() - begin

    assert using(work, HttpConfig(max_backoff_s=0.01)) > 0.9


@pytest.mark.parametrize(
    "text", ["3600", "99999999999999", "soon", "-1", "Sun, 99 Foo 2001", "", "1 Jan 2001 00:00:00"]
)
def test_retry_after_is_capped_and_nonsense_ignored(server: MisbehavingServer, text: str) -> None:
    url = server.script("/a", Answer(503, headers={"Retry-After": text}), Answer(200, b"done"))
    begin = time.monotonic()
    assert get(url).body == b"done"
    assert time.monotonic() - begin < 20  # the limits are longer


@pytest.mark.parametrize("by", [TAG, {"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}])
@pytest.mark.parametrize("how", ["cut_after", "stall_after"])
def test_a_body_cut_short_goes_on_where_it_ended(server: MisbehavingServer, by: dict[str, str], how: str) -> None:
    broken = Answer(200, BODY, by, ranges=True, **{how: 70_000})
    url = server.script("/a", broken, Answer(200, BODY, by, ranges=True))

    async def work(client: HttpClient) -> int:
        assert (await client.get(url, max_bytes=1 << 20)).body == BODY
        return client.counters.bytes

    assert using(work) == len(BODY), "nothing came twice"
    again = server.requests[1].headers
    assert (again["range"], again["if-range"]) == ("bytes=70000-", next(iter(by.values())))


def test_a_body_cut_again_and_again_still_comes_whole(server: MisbehavingServer) -> None:
    url = server.script("/a", Answer(200, BODY, TAG, ranges=True, cut_after=60_000))
    assert get(url).body == BODY
    assert server.count("/a") == 4


def test_a_body_reset_half_way_comes_whole(server: MisbehavingServer) -> None:
    url = server.script("/a", Answer(200, BODY, TAG, ranges=True, reset_after=60_000), Answer(200, BODY, TAG))
    assert get(url).body == BODY


@pytest.mark.parametrize(
    "failed",
    [
        Answer(503),
        Answer(206, BODY[:9], {"Content-Range": "bytes 7-15/900"}),
        Answer(200, BODY, cut_after=6000),
        Answer(200, BODY, reset_after=60_000),
    ],
    ids=["503", "another part", "cut", "reset"],
)
def test_a_try_that_failed_keeps_no_body_alive(server: MisbehavingServer, failed: Answer) -> None:
    """In a cycle with its failure, the body would be in memory until the next collection of garbage."""
    url = server.script("/a", failed, Answer(200, BODY, TAG))

    async def work(client: HttpClient) -> list[Body]:
        assert (await client.get(url, max_bytes=1 << 20)).body == BODY
        # Not isinstance: some objects of torch warn when it asks for their class.
        return [each for each in gc.get_objects() if issubclass(type(each), Body)]

    gc.collect()
    gc.disable()
    try:
        assert using(work) == []
    finally:
        gc.enable()
    assert server.count("/a") == 2


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"one"'}, {**TAG, "Accept-Ranges": "none"}])
def test_without_a_way_to_go_on_a_body_starts_over(server: MisbehavingServer, headers: dict[str, str]) -> None:
    url = server.script("/a", Answer(200, BODY, headers, cut_after=70_000), Answer(200, BODY, headers, ranges=True))
    assert get(url).body == BODY
    assert "range" not in server.requests[1].headers


def test_a_body_changed_in_the_same_second_is_not_pieced_together(server: MisbehavingServer) -> None:
    date = "Mon, 01 Jan 2024 00:00:00 GMT"
    headers = {"Last-Modified": date, "Date": date}
    url = server.script("/a", Answer(200, BODY, headers, cut_after=70_000), Answer(200, BODY, headers, ranges=True))
    assert get(url).body == BODY
    assert "range" not in server.requests[1].headers


def test_a_body_that_changed_between_two_tries_comes_whole_from_the_new_one(server: MisbehavingServer) -> None:
    new = BODY[::-1]
    url = server.script(
        "/a", Answer(200, BODY, TAG, cut_after=70_000), Answer(200, new, {"ETag": '"two"'}, ranges=True)
    )
    assert get(url).body == new


@pytest.mark.parametrize(
    "wrong",
    [
        Answer(206, BODY[5:], {"Content-Range": f"bytes 5-{len(BODY) - 1}/{len(BODY)}"}),
        Answer(206, BODY[70_000:], {"Content-Range": f"bytes 70000-{len(BODY) - 1}/{len(BODY) + 9}"}),
        Answer(206, BODY[70_000:], {"Content-Range": f"bytes 70000-{len(BODY) - 1}/{len(BODY)}", "ETag": '"two"'}),
        Answer(206, BODY[70_000:]),
        Answer(416, b"", {"Content-Range": f"bytes */{len(BODY)}"}),
    ],
    ids=["other start", "other length", "other tag", "no range said", "416"],
)
def test_a_part_that_does_not_fit_is_thrown_away(server: MisbehavingServer, wrong: Answer) -> None:
    url = server.script("/a", Answer(200, BODY, TAG, cut_after=70_000), wrong, Answer(200, BODY, TAG))
    assert get(url).body == BODY
    assert "range" not in server.requests[2].headers


def test_a_part_that_was_not_asked_for_is_never_taken_as_whole(server: MisbehavingServer) -> None:
    url = server.script("/a", Answer(206, b"part", {"Content-Range": "bytes 0-3/10"}))
    assert failing(url).reason == "cut-short"


def test_a_body_always_shorter_than_promised_is_a_failure(server: MisbehavingServer) -> None:
    url = server.script("/a", Answer(200, b"12345", length=10, close=True))
    failure = failing(url)
    assert (failure.reason, failure.tries) == ("cut-short", 5)


def test_a_body_longer_than_promised_does_not_leak_into_the_next_answer(server: MisbehavingServer) -> None:
    """Whether it is taken as far as promised or refused depends on how it is cut into packets."""
    longer = server.script("/a", Answer(200, b"12345" + bytes(range(256)) * 40, length=5))
    other = server.script("/b", Answer(200, b"other"))

    async def work(client: HttpClient) -> None:
        for _ in range(20):
            with contextlib.suppress(HttpFailure):
                assert (await client.get(longer, max_bytes=100)).body == b"12345"
            assert (await client.get(other, max_bytes=100)).body == b"other"

    using(work, HttpConfig(max_backoff_s=0.001))


def test_chunked_bodies_come_whole_and_cut_ones_are_noticed(server: MisbehavingServer) -> None:
    url = server.script("/a", Answer(200, BODY, chunked=True, cut_after=100_000), Answer(200, BODY, chunked=True))
    assert get(url).body == BODY
    assert server.count("/a") == 2


def test_an_empty_body_is_a_body(server: MisbehavingServer) -> None:
    assert get(server.script("/a", Answer(200, b""))).body == b""


@pytest.mark.parametrize("chunked", [False, True])
def test_a_stalled_body_is_left_after_the_stall_limit(server: MisbehavingServer, chunked: bool) -> None:
    url = server.script("/a", Answer(200, BODY, chunked=chunked, stall_after=1000))
    failure = failing(url, HttpConfig(max_backoff_s=0.01, stall_timeout_s=0.1, max_tries=2))
    assert (failure.reason, failure.detail, failure.tries) == ("timeout", "no data for 0.1 s", 2)
    assert server.closed_by_client.wait(20), "the connection is not kept"


def test_headers_that_never_come_are_a_timeout(server: MisbehavingServer) -> None:
    url = server.script("/a", Answer(silent=True), Answer(200, b"fine"))
    assert get(url).body == b"fine"


def test_the_total_limit_holds_whatever_the_body_does(server: MisbehavingServer) -> None:
    url = server.script("/a", Answer(200, BODY, stall_after=1000))
    config = HttpConfig(max_backoff_s=0.01, total_timeout_s=0.1, stall_timeout_s=9, max_tries=1)
    assert failing(url, config).detail == "not complete within 0.1 s"


def test_the_total_limit_covers_redirects_too(server: MisbehavingServer) -> None:
    server.script("/b", Answer(silent=True))
    url = server.script("/a", Answer(302, headers={"Location": "/b"}))
    config = HttpConfig(total_timeout_s=0.1, stall_timeout_s=9, max_tries=1)
    assert failing(url, config).reason == "timeout"


def test_connections_closed_at_random_cost_nothing(server: MisbehavingServer) -> None:
    url = server.script("/a", Answer(200, BODY, close=True))

    async def work(client: HttpClient) -> None:
        for _ in range(20):
            assert (await client.get(url, max_bytes=1 << 20)).body == BODY

    using(work)
    # One for each request, and another one for a request that reaches a connection while it closes.
    assert 20 <= server.connections <= 40


def test_a_connection_closed_in_place_of_an_answer_is_tried_again(server: MisbehavingServer) -> None:
    assert get(server.script("/a", Answer(drop=True), Answer(drop=True), Answer(200, b"fine"))).body == b"fine"


@pytest.mark.parametrize("noise", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 abc\r\n\r\n", b"\x00\xff" * 50])
def test_what_is_not_http_is_a_failure_not_a_crash(server: MisbehavingServer, noise: bytes) -> None:
    failure = failing(server.script("/a", Answer(raw=noise)))
    assert failure.reason in ("protocol", "connection")


def test_connections_are_kept_and_bounded(server: MisbehavingServer) -> None:
    url = server.script("/a", Answer(200, BODY))

    async def work(client: HttpClient) -> None:
        await asyncio.gather(*(client.get(url, max_bytes=1 << 20) for _ in range(60)))

    using(work, HttpConfig(concurrent_downloads=2))
    assert server.connections <= 8


@pytest.mark.parametrize("how", [{}, {"chunked": True}, {"length": -1}])
def test_a_body_beyond_the_limit_is_not_read_further(server: MisbehavingServer, how: dict[str, Any]) -> None:
    url = server.script("/a", Answer(200, bytes(20_000_000), **how))

    async def work(client: HttpClient) -> int:
        with pytest.raises(HttpFailure, match=r"a body of .*allowed") as caught:
            await client.get(url, max_bytes=100_000)
        assert caught.value.tries == 1
        return client.counters.bytes

    assert using(work) < 2_000_000


def test_a_body_of_exactly_the_limit_is_fine(server: MisbehavingServer) -> None:
    url = server.script("/a", Answer(200, BODY, chunked=True))
    assert get(url, max_bytes=len(BODY)).body == BODY


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZIP", "deflate"])
def test_compressed_bodies_are_undone(server: MisbehavingServer, coding: str) -> None:
    squeezed = zlib.compress(BODY) if coding == "deflate" else gzip.compress(BODY[:1000]) + gzip.compress(BODY[1000:])
    url = server.script("/a", Answer(200, squeezed, {"Content-Encoding": coding}))
    assert get(url, compressed=True).body == BODY
    assert server.requests[0].headers["accept-encoding"] == "gzip"


def test_a_compressed_body_that_nobody_asked_for_is_refused(server: MisbehavingServer) -> None:
    url = server.script("/a", Answer(200, gzip.compress(BODY), {"Content-Encoding": "gzip"}))
    failure = failing(url)
    assert (failure.reason, failure.tries) == ("encoding", 1)
    assert failure.detail == "compressed as 'gzip', which was not requested"
    assert server.requests[0].headers["accept-encoding"] == "identity"


def test_a_compressed_body_cut_short_goes_on_too(server: MisbehavingServer) -> None:
    squeezed = gzip.compress(BODY)
    headers = {"Content-Encoding": "gzip", **TAG}
    url = server.script(
        "/a", Answer(200, squeezed, headers, cut_after=500), Answer(200, squeezed, headers, ranges=True)
    )
    assert get(url, compressed=True).body == BODY
    assert server.requests[1].headers["range"] == "bytes=500-"


def test_a_small_body_that_unpacks_to_a_huge_one_is_refused(server: MisbehavingServer) -> None:
    url = server.script("/a", Answer(200, gzip.compress(bytes(50_000_000)), {"Content-Encoding": "gzip"}))
    failure = failing(url, max_bytes=1_000_000, compressed=True)
    assert failure.reason == "too-large"


@pytest.mark.parametrize(
    ("body", "coding", "reason"),
    [
        (gzip.compress(BODY)[:-9], "gzip", "cut-short"),
        (b"not gzip at all", "gzip", "encoding"),
        (BODY, "br", "encoding"),
        (BODY, "gzip, br", "encoding"),
    ],
)
def test_damaged_or_strange_compression_is_a_failure(
    server: MisbehavingServer, body: bytes, coding: str, reason: str
) -> None:
    url = server.script("/a", Answer(200, body, {"Content-Encoding": coding}))
    assert failing(url, compressed=True).reason == reason


def test_codings_that_change_nothing_are_ignored(server: MisbehavingServer) -> None:
    assert get(server.script("/a", Answer(200, BODY, {"Content-Encoding": "aws-chunked"}))).body == BODY


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed(server: MisbehavingServer, status: int) -> None:
    server.script("/files/b", Answer(200, BODY))
    url = server.script("/a/b", Answer(status, headers={"Location": "../files/b?sig=%2F"}))
    response = get(url + "?q=1")
    assert response == Response(BODY, f"{server.url}/files/b?sig=%2F")


def test_a_cut_body_behind_a_redirect_goes_on(server: MisbehavingServer) -> None:
    server.script("/b", Answer(200, BODY, TAG, cut_after=70_000), Answer(200, BODY, TAG, ranges=True))
    assert get(server.script("/a", Answer(302, headers={"Location": "/b"}))).body == BODY
    assert server.requests[-1].headers["range"] == "bytes=70000-"


def test_a_redirect_loop_ends(server: MisbehavingServer) -> None:
    url = server.script("/a", Answer(302, headers={"Location": "/a"}))
    failure = failing(url)
    assert (failure.reason, failure.tries, server.count("/a")) == ("redirect", 1, 6)


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "ftp://h/x",
        "gopher://h",
        "data:text/plain,x",
        "http://u:p@h/",
        "//",
        "http://",
        "",
        "x://y",
    ],
)
def test_a_redirect_elsewhere_than_http_is_refused(server: MisbehavingServer, location: str) -> None:
    url = server.script("/a", Answer(302, headers={"Location": location} if location else {}))
    failure = failing(url)
    assert failure.reason == "redirect"
    assert ("contains a user name or password" in failure.detail) == ("@" in location)
    assert "passwd" not in str(failure)


def test_credentials_do_not_follow_to_another_origin(server: MisbehavingServer) -> None:
    with MisbehavingServer() as other:
        other.script("/b", Answer(200, BODY))
        url = server.script("/a", Answer(302, headers={"Location": other.url + "/b"}))
        failure = failing(url, headers={"Authorization": SECRET})
        assert failure.reason == "redirect"
        assert other.url in failure.detail
        assert other.requests == []
        assert get(url).body == BODY, "without credentials it is followed"
        assert "authorization" not in other.requests[0].headers


def test_credentials_follow_within_their_origin(server: MisbehavingServer) -> None:
    server.script("/b", Answer(200, BODY))
    url = server.script("/a", Answer(302, headers={"Location": "/b"}))
    assert get(url, headers={"Authorization": SECRET}).body == BODY
    assert [request.headers["authorization"] for request in server.requests] == [SECRET, SECRET]


@pytest.mark.parametrize(
    "answer",
    [
        Answer(500),
        Answer(404),
        Answer(raw=b"HTTP/1.1 abc\r\n\r\n"),
        Answer(drop=True),
        Answer(200, b"x", length=5, close=True),
        Answer(302, headers={"Location": "http://x.invalid/?sig=hidden"}),
    ],
)
def test_no_text_of_a_failure_holds_a_query_or_a_key(server: MisbehavingServer, answer: Answer) -> None:
    url = server.script("/a", answer) + "?X-Amz-Signature=hidden#hidden"
    failure = failing(url, headers={"Authorization": SECRET})
    shown = str(failure) + repr(failure) + repr(failure.args) + repr(vars(failure))
    assert "hidden" not in shown
    assert SECRET.split()[1] not in shown


@pytest.mark.parametrize(
    "url", ["", "a.jpg", "/a.jpg", "file:///etc/passwd", "ftp://h/a", "http://", "http://u:pw@h/", "http://h:99999/"]
)
def test_an_address_that_is_not_http_is_refused_without_a_request(url: str) -> None:
    failure = failing(url)
    assert (failure.reason, failure.tries) == ("bad-url", 1)
    assert "pw" not in str(failure)


def test_an_address_with_blanks_and_letters_is_quoted(server: MisbehavingServer) -> None:
    server.script("/a%20%C3%A9", Answer(200, b"found"))
    assert get(f"{server.url}/a é").body == b"found"


def test_a_cancelled_request_leaves_nothing(server: MisbehavingServer) -> None:
    url = server.script("/a", Answer(200, BODY, stall_after=1000))

    async def work(client: HttpClient) -> None:
        task = asyncio.create_task(client.get(url, max_bytes=1 << 20))
        await asyncio.to_thread(server.asked.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(asyncio.all_tasks()) == 1

    using(work, HttpConfig())
    assert server.closed_by_client.wait(20)


def test_closing_ends_requests_in_flight_at_once(server: MisbehavingServer) -> None:
    url = server.script("/a", Answer(silent=True))

    async def work(client: HttpClient) -> None:
        task = asyncio.create_task(client.get(url, max_bytes=100))
        await asyncio.to_thread(server.asked.wait, 5)
        await client.close()
        await client.close()
        with pytest.raises(HttpFailure, match="closed"):
            await task
        with pytest.raises(HttpFailure, match="closed"):
            await client.get(url, max_bytes=100)

    begin = time.monotonic()
    using(work, HttpConfig())
    assert time.monotonic() - begin < 20  # the limits are longer


def test_what_is_shown_of_an_address() -> None:
    assert without_query("https://u:p@h:8/a/b?x=1#f") == "https://h:8/a/b"
    assert without_query("/a?x") == "/a"
    assert origin_of("https://h:443/a?x") == origin_of("https://h/")
    assert origin_of("http://h/") != origin_of("https://h/")


def test_what_came_before_a_connection_broke_comes_before_its_error() -> None:
    """aiohttp has the error first, where nobody was waiting at that moment."""

    async def main() -> list[object]:
        loop = asyncio.get_running_loop()
        content = StreamReader(BaseProtocol(loop), 2**16, loop=loop)
        content.feed_data(b"some")
        content.feed_data(b" more")
        content.set_exception(ClientPayloadError("broken"))
        found: list[object] = [await next_piece(content)]
        for _ in range(2):
            try:
                found.append(await next_piece(content))
            except ClientPayloadError as error:
                found.append(str(error))
        return found

    assert asyncio.run(main()) == [b"some more", "broken", "broken"]
