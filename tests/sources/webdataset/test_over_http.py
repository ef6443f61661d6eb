"""Shards over HTTP: streamed, with patience, and with a token that goes where it belongs. Real sockets."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import threading
import zlib
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datago_gpu.config import HttpConfig
from datago_gpu.errors import SourceError
from datago_gpu.sources import open_source
from datago_gpu.sources.http.deflate import Deflated
from datago_gpu.sources.http.failure import HttpFailure
from datago_gpu.sources.http.http_client import HttpClient
from datago_gpu.sources.reference import Position, SampleRef, Skipped
from tests.support.servers import Answer, MisbehavingServer, Request, json_answer
from tests.support.shards import keys, listed, pictures, shard_config, tar_bytes
from tests.support.zstd import zstd_compress

TEXT = b"".join(b"%d\n" % number for number in range(50_000))
BODY = random.Random(1).randbytes(3_000_000)
TAG = {"ETag": '"one"'}
QUICK = HttpConfig(max_backoff_s=0.02, connect_timeout_s=10, stall_timeout_s=0.6, total_timeout_s=1.0, max_tries=3)
TOKEN = "hf_S3cr3tT0kenOfMine"


def streamed(url: str, *, hold: asyncio.Event | None = None, headers: dict[str, str] | None = None) -> bytes:
    """The body, as a sink gets it."""
    blocks: list[bytes] = []

    async def sink(block: bytes) -> None:
        blocks.append(block)
        if len(blocks) == 1 and hold is not None:
            await hold.wait()

    async def main() -> None:
        async with HttpClient(QUICK) as client:
            if hold is not None:  # longer than the limits on the server
                asyncio.get_running_loop().call_later(1.4, hold.set)
            await client.stream(url, sink, headers=headers)

    asyncio.run(main())
    return b"".join(blocks)


def raw_deflate(data: bytes) -> bytes:
    """As some servers send it: without the header of zlib."""
    return zlib.compress(data, wbits=-zlib.MAX_WBITS)


@pytest.mark.parametrize("squeeze", [zlib.compress, raw_deflate])
def test_a_body_that_comes_deflated_is_inflated_also_over_several_tries(squeeze: Callable[[bytes], bytes]) -> None:
    squeezed, headers = squeeze(TEXT), {"Content-Encoding": "Deflate", **TAG}
    with MisbehavingServer() as server:
        for cut in (1, 2, 1000, len(squeezed) - 1):
            broken = Answer(200, squeezed, headers, ranges=True, cut_after=cut)
            url = server.script(f"/{cut}", broken, Answer(200, squeezed, headers, ranges=True))
            assert streamed(url) == TEXT
        for broken, reason in ((squeezed[:-9], "cut-short"), (b"\x78\x9c" + squeezed[9:], "encoding")):
            url = server.script("/broken", Answer(200, broken, headers))
            with pytest.raises(HttpFailure) as caught:
                streamed(url)
            assert caught.value.reason == reason


@given(st.lists(st.integers(1, 200), max_size=20), st.integers(0, 3000), st.booleans(), st.binary(max_size=9))
def test_deflated_blocks_of_any_sizes(sizes: list[int], length: int, plain: bool, behind: bytes) -> None:
    data = TEXT[:length]
    squeezed = (zlib.compress if plain else raw_deflate)(data) + behind
    got: list[bytes] = []

    async def sink(piece: bytes) -> None:
        got.append(piece)

    async def main() -> None:
        deflated, at = Deflated(sink), 0
        for size in [*sizes, len(squeezed)]:
            if at < len(squeezed):
                await deflated(squeezed[at : at + size])
            at += size
        deflated.end()

    asyncio.run(main())
    assert b"".join(got) == data


def test_a_bomb_comes_in_pieces() -> None:
    sizes: list[int] = []

    async def sink(piece: bytes) -> None:
        sizes.append(len(piece))

    async def main() -> None:
        await Deflated(sink)(zlib.compress(bytes(20_000_000)))

    asyncio.run(main())
    assert sum(sizes) == 20_000_000
    assert max(sizes) <= 256 * 1024


@pytest.mark.parametrize("coding", ["br", "compress", "gzip, deflate", "\x1b[31m"])
def test_a_body_in_a_form_that_cannot_be_undone_is_named(coding: str) -> None:
    with MisbehavingServer() as server:
        url = server.script("/a", Answer(200, BODY[:5000], {"Content-Encoding": coding}))
        with pytest.raises(HttpFailure) as caught:
            streamed(url)
        assert (caught.value.reason, server.count("/a")) == ("encoding", 1)
        assert "which was not requested; only gzip, deflate and zstd are supported" in str(caught.value)


CODINGS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("gzip", gzip.compress),
    ("zstd", zstd_compress),
]


@pytest.mark.parametrize(("coding", "squeeze"), CODINGS)
@pytest.mark.parametrize("name", ["/000.tar", "/no/ending"])
def test_a_shard_that_comes_compressed_although_nobody_asked_is_read(
    coding: str, squeeze: Callable[[bytes], bytes], name: str
) -> None:
    with MisbehavingServer() as server:
        url = server.script(name, Answer(200, squeeze(tar_bytes(pictures(0, 5))), {"Content-Encoding": coding}))
        assert keys(url) == [f"{number:04}" for number in range(5)]


async def quiet(count: Callable[[], int]) -> None:
    """Until nothing has moved for a while."""
    looks, before = 0, count()
    while looks < 3:
        await asyncio.sleep(0.1)
        now = count()
        looks, before = (looks + 1 if now == before else 0), now


def ranges(server: MisbehavingServer) -> list[str]:
    return [request.headers.get("range", "") for request in server.requests]


@pytest.mark.parametrize("cut", [{"cut_after": 1_000_000}, {"stall_after": 1_000_000}, {"reset_after": 1_000_000}])
def test_a_stream_that_breaks_goes_on_where_it_stopped(server: MisbehavingServer, cut: dict[str, int]) -> None:
    server.requests.clear()
    url = server.script(
        "/a", Answer(503), Answer(200, BODY, TAG, ranges=True, **cut), Answer(200, BODY, TAG, ranges=True)
    )
    assert streamed(url) == BODY
    first, second, third = ranges(server)
    assert (first, second) == ("", "")
    if "reset_after" not in cut:  # a reset may overtake what was sent
        assert third == "bytes=1000000-"


@pytest.mark.parametrize("headers", [{}, TAG, {"ETag": 'W/"weak"'}, {"Last-Modified": "Sun, 06 Nov 1994 08:49:37 GMT"}])
def test_a_server_without_ranges_is_read_again_and_what_came_is_left_out(
    server: MisbehavingServer, headers: dict[str, str]
) -> None:
    whole = Answer(200, BODY, headers)
    assert streamed(server.script("/a", Answer(200, BODY, headers, cut_after=1_500_000), whole)) == BODY


@pytest.mark.parametrize(
    "other",
    [
        Answer(200, BODY, {"ETag": '"two"'}, ranges=True),
        Answer(200, BODY + b"x", TAG),
        Answer(200, BODY, TAG, chunked=True),
    ],
)
def test_a_body_that_changed_is_not_mixed_with_the_one_begun(server: MisbehavingServer, other: Answer) -> None:
    url = server.script("/a", Answer(200, BODY, TAG, ranges=True, cut_after=1_000_000), other)
    with pytest.raises(HttpFailure) as caught:
        streamed(url)
    assert caught.value.reason == "changed"
    assert caught.value.tries == 2


def test_tries_count_anew_after_each_mebibyte(server: MisbehavingServer) -> None:
    """Five breaks, where three tries are allowed."""
    cuts = [1_100_000, 2_200_000, 2_300_000, 2_900_000]

    def answer(request: Request) -> Answer:
        begun = int(request.headers.get("range", "bytes=0-")[6:-1])
        cut = next((each for each in cuts if each > begun), None)
        return Answer(200, BODY, TAG, ranges=True, cut_after=None if cut is None else cut - begun)

    assert streamed(server.route("/a", answer)) == BODY
    always = server.script("/b", Answer(200, BODY, TAG, ranges=True, cut_after=1000))
    with pytest.raises(HttpFailure) as caught:
        streamed(always)
    assert (caught.value.reason, caught.value.tries) == ("cut-short", 3)


def test_the_time_of_the_sink_is_not_the_servers_and_the_total_limit_is_none(server: MisbehavingServer) -> None:
    assert streamed(server.script("/a", Answer(200, BODY)), hold=asyncio.Event()) == BODY


def test_a_sample_is_there_before_its_shard(server: MisbehavingServer) -> None:
    """The rest is sent only once the first samples have been seen."""
    data = tar_bytes(pictures(0, 100))
    seen = threading.Event()

    def answer(request: Request) -> Answer:
        if "range" in request.headers:
            return Answer(200, data, TAG, ranges=True, hold=seen)
        return Answer(200, data, TAG, ranges=True, cut_after=data.index(b"0010.jpg"))

    url = server.route("/a.tar", answer)

    async def main() -> list[str]:
        config = shard_config(url)
        found = []
        async with HttpClient(config.http_config) as http:
            async for ref in open_source(config, http).refs(Position()):
                found.append(ref.id)
                if len(found) == 9:
                    seen.set()
        return found

    assert asyncio.run(main()) == [f"{number:04}" for number in range(100)]


@pytest.mark.parametrize("random_sampling", [False, True])
def test_shards_that_arrive_in_any_order_are_handed_out_in_theirs(
    server: MisbehavingServer, random_sampling: bool
) -> None:
    for number in range(6):
        data = tar_bytes(pictures(number * 10, number * 10 + 10))
        packed = gzip.compress(data) if number == 3 else data
        server.script(f"/{number}.tar", Answer(200, packed, delay_s=(5 - number) * 0.03))
    url, more = f"{server.url}/{{0..5}}.tar", {"random_sampling": random_sampling, "shuffle_buffer": 7}
    found = keys(url, **more)
    assert sorted(found) == [f"{number:04}" for number in range(60)]
    assert (found == sorted(found)) is not random_sampling
    assert keys(url, concurrent_downloads=2, **more) == found


def test_what_is_read_ahead_is_bounded(server: MisbehavingServer) -> None:
    """Of 8 shards of 6 MB, with 1 MiB a shard, what the client took stays far below the whole."""
    data = tar_bytes(pictures(0, 60, size=100_000))
    for number in range(8):
        server.script(f"/big{number}.tar", Answer(200, data))

    async def main() -> int:
        config = shard_config(f"{server.url}/big{{0..7}}.tar", buffer_mb=8)
        async with HttpClient(config.http_config) as http:
            async with aclosing(open_source(config, http).refs(Position())) as refs:
                await anext(refs)
                await quiet(lambda: http.counters.bytes)
            return http.counters.bytes

    assert asyncio.run(main()) < 8 * 4_000_000


@pytest.mark.parametrize(
    ("size", "most"),
    [
        (10, 2 * 8),  # so many may be open
        (30_000, 6),  # two arrive; the others have brought half of 1 MiB, less what is reserved for pipes
    ],
)
def test_shards_that_have_arrived_make_room_for_further_ones_while_the_first_is_slow(
    server: MisbehavingServer, size: int, most: int
) -> None:
    let_go, before = threading.Event(), len(server.requests)
    for number in range(30):
        data = tar_bytes(pictures(number * 5, number * 5 + 5, size=size))
        server.script(f"/{number}.tar", Answer(200, data, hold=None if number else let_go))
    more: dict[str, Any] = {"concurrent_downloads": 2, "buffer_mb": 1, "http": {"stall_timeout_s": 30}}
    config = shard_config(f"{server.url}/{{0..29}}.tar", **more)

    async def main() -> tuple[int, list[str]]:
        async with (
            HttpClient(config.http_config) as http,
            aclosing(open_source(config, http).refs(Position())) as refs,
        ):
            first = asyncio.ensure_future(anext(refs))
            await quiet(lambda: http.counters.bytes + len(server.requests))
            asked = len(server.requests) - before
            let_go.set()
            return asked, [(await first).id, *[ref.id async for ref in refs]]

    count, found = asyncio.run(main())
    assert 2 < count <= most
    assert found == [f"{number:04}" for number in range(150)]


def test_a_missing_shard_costs_itself_and_none_at_all_is_an_error(server: MisbehavingServer) -> None:
    server.script("/good.tar", Answer(200, tar_bytes(pictures(0, 1))))
    gone, good = listed(f"{server.url}/gone.tar?sig=secret::{server.url}/good.tar")
    assert gone == Skipped(-1, "", f"{server.url}/gone.tar", "http-404", "Said So")
    assert isinstance(good, SampleRef)
    assert good.where == f"{server.url}/good.tar!0000.jpg"
    with pytest.raises(SourceError, match=r"none of 2 shards could be read, the last failed with http-404 \(Said So\)"):
        listed(f"{server.url}/gone{{0..1}}.tar?sig=secret")


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_ends_it_at_once(server: MisbehavingServer, status: int) -> None:
    for number in range(20):
        server.script(f"/private{number}.tar", Answer(status))
    with pytest.raises(SourceError, match=rf"http-{status} .*check source_config.auth_token") as caught:
        listed(f"{server.url}/private{{0..19}}.tar", auth_token=TOKEN)
    assert TOKEN not in str(caught.value)


def test_the_token_goes_to_the_origins_named_and_not_across_a_redirect(server: MisbehavingServer) -> None:
    data = tar_bytes(pictures(0, 2))
    with MisbehavingServer() as elsewhere:
        elsewhere.script(
            "/file", Answer(200, data, TAG, ranges=True, cut_after=1000), Answer(200, data, TAG, ranges=True)
        )
        elsewhere.script("/listed.tar", Answer(200, data))
        server.requests.clear()
        server.script("/own.tar", Answer(200, data))
        server.script("/moved.tar", Answer(302, headers={"Location": f"{elsewhere.url}/file?signature=1"}))
        server.script("/list", json_answer([f"{elsewhere.url}/listed.tar", "own.tar", "README.md"]))
        urls = [f"{server.url}/{path}" for path in ("own.tar", "moved.tar", "list")]
        found = listed("::".join(urls), auth_token=TOKEN)
        assert [ref.id for ref in found] == ["0000", "0001"] * 4
        assert {request.headers.get("authorization") for request in server.requests} == {f"Bearer {TOKEN}"}
        assert [request.headers.get("authorization") for request in elsewhere.requests] == [None] * 3
        assert sorted(ranges(elsewhere)) == ["", "", "bytes=1000-"]


def test_the_users_token_of_hugging_face_goes_there_only(
    server: MisbehavingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with MisbehavingServer() as cdn:
        at_cdn = cdn.script("/a.tar", Answer(200, tar_bytes(pictures(0, 1))))
        server.script("/datasets/me/set/resolve/main/a.tar", Answer(302, headers={"Location": at_cdn}))
        cdn.script("/b.tar", Answer(200, tar_bytes(pictures(1, 2))))
        assert len(listed(f"hf://datasets/me/set/a.tar::{cdn.url}/b.tar")) == 2
        assert [request.headers.get("authorization") for request in cdn.requests] == [None, None]
    assert {request.headers.get("authorization") for request in server.requests} == {f"Bearer {TOKEN}"}


def test_a_listing_as_of_google_storage_is_followed_page_by_page(server: MisbehavingServer) -> None:
    names = ["train/a-0.tar", "train/README", "train/a-1.tar", "train/a-2.tar"]

    def page(request: Request) -> Answer:
        begin = int(request.parameters.get("pageToken", "0"))
        assert request.parameters["prefix"] == "train/"
        items = [
            {"name": name, "mediaLink": f"{server.url}/o/{name.replace('/', '%2F')}?alt=media"}
            for name in names[begin : begin + 2]
        ]
        return json_answer({"items": items} | ({"nextPageToken": str(begin + 2)} if begin + 2 < len(names) else {}))

    for number in range(3):
        server.script(f"/o/train%2Fa-{number}.tar", Answer(200, tar_bytes(pictures(number, number + 1))))
    assert keys(f"{server.route('/storage/v1/b/mine/o', page)}?prefix=train/") == ["0000", "0001", "0002"]


@pytest.mark.parametrize("answer", [Answer(200, b"<html>"), json_answer({"a": 1}), json_answer([5]), json_answer([])])
def test_what_is_no_listing_is_a_source_error(server: MisbehavingServer, answer: Answer) -> None:
    with pytest.raises(SourceError, match=r"not a JSON listing of shards|no shards in"):
        listed(server.script("/odd", answer))


def test_a_server_that_repeats_the_token_does_not_spread_it(server: MisbehavingServer) -> None:
    raw = f"HTTP/1.1 404 Not {TOKEN}\r\nContent-Length: 0\r\n\r\n".encode()
    server.script("/echo.tar", Answer(raw=raw))
    server.script("/echo", Answer(raw=raw))
    server.script("/fine.tar", Answer(200, tar_bytes(pictures(0, 1))))
    found: list[Any] = listed(f"{server.url}/fine.tar::{server.url}/echo.tar", auth_token=TOKEN)
    assert [each.id for each in found] == ["0000", ""]
    assert TOKEN not in repr(found[1])
    for path in ("echo", "echo.tar"):
        with pytest.raises(SourceError) as caught:
            listed(f"{server.url}/{path}", auth_token=TOKEN)
        assert TOKEN not in str(caught.value)
        assert "404" in str(caught.value)


def test_a_body_without_a_length_is_fine(server: MisbehavingServer) -> None:
    data = tar_bytes([("a.jpg", b"x"), ("a.json", b'{"width": 5}')])
    (sample,) = listed(server.script("/a.tar", Answer(200, data, chunked=True)))
    assert isinstance(sample, SampleRef)
    assert json.loads(sample.info.attributes) == {"width": 5}


def test_all_samples_come_that_a_broken_download_has_brought_whole() -> None:
    """Whether the thread that unpacks a shard has seen them before the download breaks, or sees both at once."""
    with MisbehavingServer() as server:
        for shard in range(20):
            content = tar_bytes(pictures(10 * shard, 10 * shard + 10, size=100))
            cut = content.index(f"{10 * shard + 9:04}.jpg".encode()) + 520
            server.script(f"/{shard}.tar", Answer(200, content, cut_after=cut))
        found = keys(f"{server.url}/{{0..19}}.tar", http={"max_tries": 1})
    expected = [f"{10 * shard + number:04}" for shard in range(20) for number in range(9)]
    assert [key for key in found if key != "cut-short"] == expected
    assert found.count("cut-short") == 20
