"""Parts of a body, over the misbehaving server: no byte too many, none missing, none of another version."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from datago_gpu.sources.http.excerpt import Excerpt
from datago_gpu.sources.http.failure import HttpFailure
from datago_gpu.sources.http.http_client import HttpClient
from tests.support.listing import HASTY
from tests.support.servers import Answer, MisbehavingServer

BODY = bytes(range(256)) * 400
TAG = '"one"'
WHOLE = Answer(200, BODY, {"ETag": TAG}, ranges=True)


def get(url: str, begin: int, end: int, **more: Any) -> Excerpt | None:
    async def main() -> Excerpt | None:
        async with HttpClient(HASTY) as http:
            return await http.get_range(url, begin, end, **more)

    return asyncio.run(main())


@pytest.mark.parametrize(("begin", "end"), [(0, 10), (5, 70_000), (102_300, 200_000), (102_400, 102_500)])
@pytest.mark.parametrize("answer", [WHOLE, Answer(200, BODY, {"ETag": TAG})], ids=["ranges", "whole files only"])
def test_a_range_is_the_slice_of_the_body(begin: int, end: int, answer: Answer) -> None:
    with MisbehavingServer() as server:
        found = get(server.script("/a", answer), begin, end)
    assert found is not None
    assert (found.content, found.total) == (BODY[begin:end], len(BODY))
    assert found.tag == TAG or not found.content


@pytest.mark.parametrize("chunked", [False, True])
def test_a_file_shorter_than_the_range_is_complete(chunked: bool) -> None:
    with MisbehavingServer() as server:
        assert get(server.script("/a", Answer(200, b"abc", chunked=chunked)), 0, 10) == Excerpt(b"abc", 3, "")
        assert get(server.script("/b", Answer(200, b"", ranges=True)), 0, 10) == Excerpt(b"", 0, "")


def test_a_range_cut_short_is_asked_for_again() -> None:
    with MisbehavingServer() as server:
        url = server.script("/a", Answer(503), Answer(200, BODY, {"ETag": TAG}, ranges=True, cut_after=100), WHOLE)
        found = get(url, 50, 5000)
        assert found is not None
        assert found.content == BODY[50:5000]
        assert server.count("/a") == 3


def test_a_large_file_of_a_server_without_ranges_is_left_after_the_first_bytes() -> None:
    with MisbehavingServer() as server:
        found = get(server.script("/a", Answer(200, bytes(64 * 1024 * 1024))), 0, 1000)
        assert found == Excerpt(bytes(1000), 64 * 1024 * 1024, "")
        with pytest.raises(HttpFailure, match="whole files") as caught:
            get(server.url + "/a", 60 * 1024 * 1024, 61 * 1024 * 1024)
    assert caught.value.reason == "no-ranges"


def test_a_version_that_is_known_is_not_sent_and_another_one_is_refused() -> None:
    with MisbehavingServer() as server:
        url = server.script("/a", WHOLE)
        assert get(url, 0, 10, known=TAG) is None
        assert get(url, 0, 10, known='"older"') == Excerpt(BODY[:10], len(BODY), TAG)
        with pytest.raises(HttpFailure) as caught:
            get(url, 10, 20, tag='"older"')
    assert caught.value.reason == "changed"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(404), "http-404"),
        (Answer(206, BODY, {"Content-Range": "bytes 7-9/100"}), "cut-short"),
        (Answer(206, BODY, {}), "cut-short"),
        (Answer(200, BODY, {"Content-Encoding": "br"}), "encoding"),
    ],
)
def test_an_answer_that_is_no_range_is_a_failure(answer: Answer, reason: str) -> None:
    with MisbehavingServer() as server, pytest.raises(HttpFailure) as caught:
        get(server.script("/a", answer), 0, 10)
    assert caught.value.reason == reason
