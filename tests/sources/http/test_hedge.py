"""Hedged requests: a straggler is asked for once more, the first answer wins, and the extra load has a bound."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from datago_gpu.config import HttpConfig
from datago_gpu.sources.http.hedge import HedgedClient
from datago_gpu.sources.http.http_client import HttpClient, HttpFailure
from tests.support.servers import Answer, MisbehavingServer, Request

WARM = 40
"""Requests after which it knows what is usual."""


def using(work: Callable[[HedgedClient], Awaitable[Any]], **settings: Any) -> Any:
    config = HttpConfig(max_backoff_s=0.01, total_timeout_s=20, **settings)

    async def main() -> Any:
        async with HttpClient(config) as http:
            result = await work(HedgedClient(http, config))
            await asyncio.sleep(0)  # a twin that was cancelled ends in the next turn
            assert len(asyncio.all_tasks()) == 1, "a request outlives its answer"
            return result

    return asyncio.run(main())


async def warm(hedged: HedgedClient, server: MisbehavingServer) -> None:
    for _ in range(WARM):
        await hedged.get(server.url + "/usual", max_bytes=100)


@pytest.fixture
def server() -> Any:
    with MisbehavingServer() as made:
        made.script("/usual", Answer(200, b"usual"))
        yield made


def test_the_second_request_wins_over_one_that_never_answers(server: MisbehavingServer) -> None:
    url = server.script("/slow", Answer(silent=True), Answer(200, b"second"))

    async def work(hedged: HedgedClient) -> int:
        await warm(hedged, server)
        assert await hedged.get(url, max_bytes=100) == b"second"
        return hedged.extra

    assert using(work) >= 1
    assert server.count("/slow") >= 2


def test_an_extra_request_that_is_late_itself_is_followed_by_another(server: MisbehavingServer) -> None:
    url = server.script("/slow", Answer(silent=True), Answer(silent=True), Answer(200, b"third"))

    async def work(hedged: HedgedClient) -> bytes:
        await warm(hedged, server)
        return await hedged.get(url, max_bytes=100)

    assert using(work) == b"third"


def test_an_extra_request_asks_for_memory_of_its_own(server: MisbehavingServer) -> None:
    """By a server that stalls, extra requests used to take as much again as the settings allow."""
    url = server.script("/slow", Answer(200, b"x" * 100, stall_after=50), Answer(200, b"second"))
    asked: list[int] = []

    async def need(size: int) -> None:
        asked.append(size)

    async def work(hedged: HedgedClient) -> bytes:
        await warm(hedged, server)
        return await hedged.get(url, max_bytes=100, need=need)

    assert using(work) == b"second"
    assert asked[:2] == [100, 2 * len(b"second")]


async def held_until_asked_again(hedged: HedgedClient, server: MisbehavingServer, first: Answer) -> bytes:
    """The payload of an address whose first request is answered with `first`, once there has been a second."""
    asked_again, hold = threading.Event(), threading.Event()

    def answer(_request: Request) -> Answer:
        if server.count("/slow") == 1:
            return replace(first, hold=hold)
        asked_again.set()
        return Answer(silent=True)

    url = server.route("/slow", answer)
    await warm(hedged, server)
    request = asyncio.create_task(hedged.get(url, max_bytes=100))
    assert await asyncio.to_thread(asked_again.wait, 10)
    hold.set()
    return await request


def test_the_first_request_may_still_win(server: MisbehavingServer) -> None:
    assert using(lambda hedged: held_until_asked_again(hedged, server, Answer(200, b"first"))) == b"first"


def test_the_failure_of_the_first_request_is_the_one_that_counts(server: MisbehavingServer) -> None:
    async def work(hedged: HedgedClient) -> HttpFailure:
        with pytest.raises(HttpFailure) as caught:
            await held_until_asked_again(hedged, server, Answer(410, b""))
        return caught.value

    assert using(work).reason == "http-410"


def test_extra_requests_have_a_bound(server: MisbehavingServer) -> None:
    """Where everything has become slow, asking twice would only make it slower."""
    url = server.script("/slow", Answer(200, b"slow", delay_s=0.3))

    async def work(hedged: HedgedClient) -> int:
        await warm(hedged, server)
        await asyncio.gather(*(hedged.get(url, max_bytes=100) for _ in range(60)))
        return hedged.extra

    extra = using(work, hedge_share=0.02, concurrent_downloads=64)
    assert 1 <= extra <= 1 + 0.02 * (WARM + 60)
    assert server.count("/slow") <= 60 + extra


def test_a_share_of_nothing_makes_no_extra_requests(server: MisbehavingServer) -> None:
    url = server.script("/slow", Answer(200, b"slow", delay_s=0.3))

    async def work(hedged: HedgedClient) -> int:
        await warm(hedged, server)
        await hedged.get(url, max_bytes=100)
        return hedged.extra

    assert using(work, hedge_share=0) == 0
    assert server.count("/slow") == 1


def test_a_server_that_asks_for_patience_is_not_hedged(server: MisbehavingServer) -> None:
    url = server.script("/busy", Answer(503, headers={"Retry-After": "1"}), Answer(200, b"fine"))
    # Requests are late after 0.4 s. Otherwise they would be after 0.02 s, which a busy machine needs at times.
    server.script("/usual", *[Answer(200, b"usual", delay_s=0.2)] * 2, Answer(200, b"usual"))

    config = HttpConfig(max_backoff_s=1.0)

    async def main() -> bytes:
        async with HttpClient(config) as http:
            hedged = HedgedClient(http, config)
            await warm(hedged, server)
            return await hedged.get(url, max_bytes=100)

    assert asyncio.run(main()) == b"fine"
    assert server.count("/busy") == 2


def test_being_cancelled_cancels_the_extra_request_too(server: MisbehavingServer) -> None:
    asked_again = threading.Event()

    def answer(_request: Request) -> Answer:
        if server.count("/slow") > 1:
            asked_again.set()
        return Answer(silent=True)

    url = server.route("/slow", answer)

    async def work(hedged: HedgedClient) -> None:
        await warm(hedged, server)
        request = asyncio.create_task(hedged.get(url, max_bytes=100))
        assert await asyncio.to_thread(asked_again.wait, 10)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

    using(work)
