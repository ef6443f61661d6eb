"""The Dataroom source against a server that misbehaves: transient faults cost time, permanent ones are explained."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import socket
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from datago_gpu.config import HttpConfig
from datago_gpu.errors import SourceError
from datago_gpu.sources.dataroom.pages import NotAPage, OddEntry, read_page
from datago_gpu.sources.reference import Position, SampleRef, Skipped
from datago_gpu.sources.sample_info import SampleInfo
from tests.support.listing import HASTY, KEY, Listing, collect, config_for, ids, names, with_results
from tests.support.servers import Answer, MisbehavingServer, Request, json_answer


def failing(listing: Listing, before: int | None = None, **source: Any) -> str:
    """The text of the SourceError; `before` samples must come first."""
    found = 0
    with pytest.raises(SourceError) as caught:
        found = len(collect(config_for(listing.api_url, **source)))
    assert found == 0
    text = str(caught.value)
    shown = "".join(traceback.format_exception(caught.value))
    assert KEY not in shown
    assert "aiohttp." not in shown, "no foreign exception hangs on it"
    assert "?" not in text.partition(": ")[0], "no query strings"
    assert before is None or len(collect(config_for(listing.api_url, **source), stop=before)) == before
    return text


def on_page(number: int, fault: Callable[[Answer], Answer], times: int = 1) -> Callable[[Request, Answer], Any]:
    """A fault for the page that begins at number * 10, the first `times` times it is asked for."""
    left = [times]

    def answer(request: Request, good: Answer) -> Answer | None:
        begin = f"im-{number * 10 - 1:05}" if number else ""
        if request.parameters.get("cursor", "") != begin or not left[0]:
            return None
        left[0] -= 1
        return fault(good)

    return answer


TRANSIENT: dict[str, Callable[[Answer], Answer]] = {
    "500": lambda _: Answer(500, b"<h1>Server Error (500)</h1>"),
    "502": lambda _: Answer(502),
    "503 Retry-After": lambda _: Answer(503, headers={"Retry-After": "1"}),
    "429": lambda _: Answer(429, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    "closed": lambda _: Answer(drop=True),
    "closed after": lambda good: Answer(200, good.body, close=True),
    "slow headers": lambda _: Answer(silent=True),
    "stall": lambda good: Answer(200, good.body, stall_after=100),
    "cut": lambda good: Answer(200, good.body, cut_after=300),
    "reset": lambda good: Answer(200, good.body, reset_after=300),
    "wrong length": lambda good: Answer(200, good.body, length=len(good.body) + 5, close=True),
    "chunked": lambda good: Answer(200, good.body, chunked=True),
    "chunked and cut": lambda good: Answer(200, good.body, chunked=True, cut_after=300),
    "gzip": lambda good: Answer(200, gzip.compress(good.body), {"Content-Encoding": "gzip"}),
    "maintenance page": lambda _: Answer(200, b"<!doctype html><p>back soon"),
    "empty body": lambda _: Answer(200, b""),
    "half a JSON": lambda good: Answer(200, good.body[:200]),
    "no results": lambda _: json_answer({"next": None}),
    "redirect": lambda _: Answer(307, headers={"Location": "/api/elsewhere/"}),
    "short": with_results(lambda results: results[:4]),
    "timed out and empty": lambda _: json_answer({"next": None, "results": []}),
}


@pytest.mark.parametrize("number", [0, 2, 5])
@pytest.mark.parametrize("fault", TRANSIENT)
def test_a_transient_fault_of_a_page_costs_only_time(listing: Listing, number: int, fault: str) -> None:
    listing.fault = on_page(number, TRANSIENT[fault])
    begin = f"im-{number * 10 - 1:05}" if number else ""
    page = [name for name in names(53) if name > begin][:10]
    listing.server.route("/api/elsewhere/", lambda _request: listing.answer(_next_of(listing), page))
    found = collect(config_for(listing.api_url, page_size=10))
    assert ids(found) == names(53)
    assert all(isinstance(each, SampleRef) for each in found)


def _next_of(listing: Listing) -> Request:
    return next(request for request in reversed(listing.server.requests) if request.path == "/api/images/")


def test_faults_of_the_count_alone_only_leave_out_the_check(listing: Listing, caplog: pytest.LogCaptureFixture) -> None:
    answers = [Answer(500), json_answer({"detail": "no"}, 404), Answer(200, b"<html>"), json_answer({"count": "many"})]
    for answer in answers:
        listing.counted = lambda _count, answer=answer: answer  # type: ignore[misc]
        caplog.clear()
        assert ids(collect(config_for(listing.api_url, page_size=10))) == names(53)
        assert "cannot be checked" in caplog.text


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
def test_a_server_that_stays_broken_is_a_source_error_after_what_came_before(listing: Listing, status: int) -> None:
    listing.fault = on_page(2, lambda _: Answer(status, b"<h1>x</h1>"), times=10**6)
    text = failing(listing, before=20, page_size=10)
    assert text.startswith(f"{listing.api_url}images/: http-{status} (Said So, 3 tries)")
    assert ("attributes" in text) == (status == 500)


def test_a_server_that_is_down_is_a_source_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/api/"
        with pytest.raises(SourceError, match=r"cannot connect to the server: Connection refused \(3 tries\)"):
            collect(config_for(url))


def test_a_refused_key_is_said_and_not_shown(listing: Listing) -> None:
    listing.fault = lambda _request, _answer: json_answer({"detail": f"Invalid token. {KEY}"}, 403)
    text = failing(listing)
    assert "refused the API key (403: Invalid token. ***)" in text
    assert f"{listing.api_url}images/" in text
    assert "DATAROOM_API_KEY" in text
    assert listing.pages == 1, "no retry"


def test_a_missing_key_is_said(listing: Listing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATAROOM_API_KEY", raising=False)
    listing.fault = lambda _request, _answer: json_answer({"detail": "Authentication credentials were …"}, 401)
    assert "none is set" in failing(listing, key="")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"page_size": ["A valid integer is required."]}, "page_size: A valid integer is required."),
        (["One or more tags do not exist: 'x'"], "One or more tags do not exist: 'x'"),
    ],
)
def test_a_refused_filter_is_said_in_the_servers_words(listing: Listing, body: Any, said: str) -> None:
    listing.fault = lambda _request, _answer: json_answer(body, 400)
    assert said in failing(listing, tags="x")
    assert listing.pages == 1


def test_a_redirect_to_the_login_page_says_what_to_check(listing: Listing) -> None:
    listing.server.script("/login/", Answer(200, b"<!doctype html><title>Log in</title>"))
    listing.fault = lambda _request, _answer: Answer(302, headers={"Location": "/login/?next=/images/"})
    text = failing(listing)
    assert "HTML" in text
    assert f"{listing.server.url}/login/" in text
    assert "api_url end in /api/" in text
    assert listing.pages == 1, "asking again would not help"


@pytest.mark.parametrize("body", [b"<html>", b"", b"not json", b"[]", b"null", b'{"results": []}', b'{"next": null}'])
def test_an_answer_that_is_no_page_is_a_source_error(listing: Listing, body: bytes) -> None:
    listing.fault = lambda _request, _answer: Answer(200, body)
    text = failing(listing)
    assert "not an answer of the API: got " in text
    assert listing.pages == 3


def test_a_redirect_to_another_origin_keeps_the_key(listing: Listing) -> None:
    with MisbehavingServer() as other:
        other.route("/api/images/", lambda _request: json_answer({"next": None, "results": []}))
        listing.fault = lambda request, _answer: Answer(302, headers={"Location": f"{other.url}/api/images/"})
        assert "is api_url the address of the API" in failing(listing)
        assert other.requests == []


@pytest.mark.parametrize("location", ["/api/images/?page=loop", "file:///etc/passwd", "gopher://x/"])
def test_a_redirect_loop_or_to_another_scheme_is_a_source_error(listing: Listing, location: str) -> None:
    listing.fault = lambda _request, _answer: Answer(302, headers={"Location": location})
    assert "redirect" in failing(listing)


def test_a_page_beyond_the_limit_is_a_source_error(listing: Listing) -> None:
    listing.entries["im-00000"]["attributes"] = {"long": "x" * 2_000_000}
    config = config_for(listing.api_url, http=HttpConfig(max_page_mb=1))
    with pytest.raises(SourceError, match="lower page_size or raise"):
        collect(config)


def rewritten(change: Callable[[str], Any]) -> Callable[[Request, Answer], Answer]:
    def fault(_request: Request, answer: Answer) -> Answer:
        page = json.loads(answer.body)
        return json_answer({**page, "next": page["next"] and change(page["next"])})

    return fault


@pytest.mark.parametrize(
    "change",
    [
        lambda url: url.partition("/api")[1] + url.partition("/api")[2],
        lambda url: "?" + url.partition("?")[2],
        lambda url: url.replace("http://", "https://"),
        lambda url: "http://backend.internal:8000/api/images/?" + url.partition("?")[2],
        lambda url: "http://backend.internal/images/?" + url.partition("?")[2],
        lambda url: "//backend.internal/api/images/?" + url.partition("?")[2],
    ],
    ids=["relative", "query", "https", "host", "host and prefix", "no scheme"],
)
def test_next_is_followed_on_the_apis_own_origin(listing: Listing, change: Callable[[str], str]) -> None:
    """Behind a proxy a server may not know its own address. The key goes nowhere else in any case."""
    listing.fault = rewritten(change)
    assert ids(collect(config_for(listing.api_url, page_size=10))) == names(53)


@pytest.mark.parametrize("given", ["file:///etc/passwd", "javascript:alert(1)", "http://[", 7, ["x"]])
def test_a_next_that_is_no_address_is_a_source_error(listing: Listing, given: Any) -> None:
    listing.fault = rewritten(lambda _: given)
    failing(listing)


@pytest.mark.parametrize("check_count", [False, True])
def test_a_next_that_repeats_is_noticed(listing: Listing, check_count: bool) -> None:
    first: list[str] = []

    def again(url: str) -> str:
        first.append(url)
        return first[0]

    listing.fault = rewritten(again)
    assert "circles" in failing(listing, page_size=10, check_count=check_count)
    assert listing.pages < 6


def test_pages_that_repeat_under_other_addresses_are_noticed(listing: Listing) -> None:
    number = iter(range(10**6))
    listing.fault = lambda request, _answer: json_answer(
        {"results": [listing.entries["im-00000"]], "next": f"{listing.api_url}images/?turn={next(number)}"}
    )
    assert "circles" in failing(listing, check_count=False)


def test_empty_pages_with_a_next_are_gone_through(listing: Listing) -> None:
    def fault(request: Request, _answer: Answer) -> Answer | None:
        turn = int(request.parameters.get("turn", 0))
        if request.parameters.get("cursor") == "im-00019" and turn < 3:
            url = f"{listing.api_url}images/?{request.query.partition('&turn')[0]}&turn={turn + 1}"
            return json_answer({"results": [], "next": url})
        return None

    listing.fault = fault
    assert ids(collect(config_for(listing.api_url, page_size=10))) == names(53)


def test_empty_pages_without_end_are_noticed(listing: Listing) -> None:
    number = iter(range(10**6))
    listing.fault = lambda request, _answer: json_answer(
        {"results": [], "next": f"{listing.api_url}images/?turn={next(number)}"}
    )
    assert "1000 pages in a row, with 0 entries, had nothing" in failing(listing)


ODD = [
    ({"id": None}, "bad-entry"),
    ({"id": 7}, "bad-entry"),
    ({"id": ""}, "bad-entry"),
    ({"source": 5}, "bad-entry"),
    ({"tags": "x"}, "bad-entry"),
    ({"tags": [1]}, "bad-entry"),
    ({"attributes": []}, None),
    ({"attributes": "x"}, None),
    ({"duplicate_state": "one"}, "bad-entry"),
    ({"image_direct_url": None}, "no-url"),
    ({"image_direct_url": ""}, "no-url"),
    ({"image_direct_url": {}}, "bad-entry"),
    ({"image_direct_url": "file:///etc/passwd"}, "bad-url"),
    ({"image_direct_url": "s3://bucket/x?sig=hidden"}, "bad-url"),
    ({"image_direct_url": "http:///nohost"}, None),
    ({"attributes": {"broken": "\ud800"}}, None),
    ({"attributes": {"nan": float("nan")}}, None),
    ({"attributes": None, "tags": None, "source": None, "duplicate_state": None}, None),
    ({"unknown": {"field": 1}}, None),
]


@pytest.mark.parametrize(("change", "reason"), ODD, ids=lambda value: str(value)[:40])
def test_an_odd_entry_costs_itself_only(listing: Listing, change: dict[str, Any], reason: str | None) -> None:
    listing.fault = on_page(1, with_results(lambda results: results[3].update(change)), times=9)
    found = collect(config_for(listing.api_url, page_size=10))
    assert [each.index for each in found] == list(range(53))
    assert [each.id for each in found if isinstance(each, SampleRef)] == [
        name for name in names(53) if reason is None or name != "im-00013"
    ]
    odd = found[13]
    if reason is None:
        assert isinstance(odd, SampleRef)
        assert json.loads(odd.info.attributes) is not None
    else:
        assert isinstance(odd, Skipped)
        assert odd.reason == reason
        assert odd.id == ("" if "id" in change else "im-00013")
        assert "hidden" not in repr(odd)


@pytest.mark.parametrize("odd", [None, 3, "x", [], {}])
def test_an_entry_that_is_no_object_costs_itself_only(listing: Listing, odd: Any) -> None:
    listing.fault = on_page(1, with_results(lambda results: [*results[:3], odd, *results[4:]]), times=9)
    found = collect(config_for(listing.api_url, page_size=10))
    assert [each.index for each in found if isinstance(each, Skipped)] == [13]
    assert len(found) == 53


def test_what_may_be_absent_has_a_default(listing: Listing) -> None:
    listing.entries = {"a": {"id": "a", "image_direct_url": "/media/a.jpg"}}
    (ref,) = collect(config_for(listing.api_url))
    assert isinstance(ref, SampleRef)
    assert ref.info == SampleInfo(ref.id)
    assert ref.url == f"{listing.server.url}/media/a.jpg"


@pytest.mark.parametrize("number", [1, 5])
def test_an_end_that_comes_far_too_early_is_asked_about_as_often_as_a_request(listing: Listing, number: int) -> None:
    """Once for the page, and `max_tries` times more, since the server's own count says that much is to come."""
    empty = on_page(number, TRANSIENT["timed out and empty"], times=HASTY.max_tries)
    listing.fault = empty
    assert ids(collect(config_for(listing.api_url, page_size=10))) == names(53)


def test_a_listing_that_stays_too_short_is_a_source_error(listing: Listing) -> None:
    listing.counted = lambda count: json_answer({"count": count + 1})
    text = failing(listing, before=53, page_size=10)
    assert "ended after 53 images, but the server counts 54" in text
    assert ids(collect(config_for(listing.api_url, page_size=10, check_count=False))) == names(53)


def test_a_listing_a_little_too_short_is_a_warning_with_both_numbers(
    server: MisbehavingServer, caplog: pytest.LogCaptureFixture
) -> None:
    listing = Listing(server, names(400))
    listing.counted = lambda count: json_answer({"count": count + 3})
    with caplog.at_level(logging.WARNING):
        assert len(collect(config_for(listing.api_url, page_size=100))) == 400
    assert "400 images, but the server counts 403" in caplog.text


def test_images_removed_and_added_during_a_walk_are_no_shortfall(listing: Listing) -> None:
    def fault(request: Request, answer: Answer) -> Answer:
        if request.parameters.get("cursor") == "im-00019":
            listing.entries.pop("im-00045", None)
            listing.entries = dict(sorted({**listing.entries, "im-00050b": listing.entries["im-00050"]}.items()))
        return answer

    listing.fault = fault
    found = ids(collect(config_for(listing.api_url, page_size=10)))
    assert len(found) == 53
    assert "im-00045" not in found

    listing.fault = lambda request, answer: listing.entries.pop("im-00052", None) and None
    assert len(collect(config_for(listing.api_url, page_size=10))) in (52, 53)


def test_a_resumed_walk_is_checked_as_a_whole(listing: Listing) -> None:
    config = config_for(listing.api_url, page_size=10)
    ref = collect(config)[30]
    assert isinstance(ref, SampleRef)
    listing.fault = on_page(4, TRANSIENT["timed out and empty"])
    assert ids(collect(config, Position(0, 30, ref.cursor))) == names(53)[30:]


def test_short_pages_that_are_normal_are_not_asked_for_again_and_again(server: MisbehavingServer) -> None:
    """A server that gives fewer than it is asked for costs a few more requests, not three times as many."""
    listing = Listing(server, names(200))
    listing.fault = lambda request, _answer: listing.answer(
        request, [name for name in listing.entries if name > request.parameters.get("cursor", "")][:5]
    )
    assert ids(collect(config_for(listing.api_url, page_size=10))) == names(200)
    assert listing.pages <= 41 + 3 * 2


def test_faults_of_random_draws(listing: Listing) -> None:
    source: dict[str, Any] = {"random_sampling": True, "random_method": "server"}
    good = listing._random
    calls = iter(range(10**6))
    listing.server.route("/api/images/random/", lambda r: Answer(503) if next(calls) % 2 else good(r))
    assert sorted(ids(collect(config_for(listing.api_url, **source)))) == names(53)
    listing.server.script("/api/images/random/", json_answer({"detail": "Invalid token."}, 403))
    with pytest.raises(SourceError, match="refused the API key"):
        collect(config_for(listing.api_url, **source))
    listing.server.route(
        "/api/images/random/", lambda _request: json_answer({"next": None, "results": [{"id": 3}, None]})
    )
    listing.counted = lambda _count: json_answer({"count": 53})
    assert collect(config_for(listing.api_url, **source)) == []


@pytest.mark.parametrize(
    "body",
    [b"[" * 100_000, b'{"results": ' + b"[" * 100_000, b"\xff\xfe", b'{"results":[1e999],"next":' + b"9" * 5000 + b"}"],
)
def test_hostile_json_is_no_page(body: bytes) -> None:
    with pytest.raises(NotAPage):
        asyncio.run(read_page(body, 10))


def test_an_entry_beyond_repair_is_odd() -> None:
    body = b'{"results": [{"id": "a", "source": [9e999]}, {"id": "b"}], "next": null}'
    page = asyncio.run(read_page(body, 10))
    assert isinstance(page.results[0], OddEntry)
    assert page.results[1].id == "b"


def test_limits_hold_for_a_source_that_never_answers(listing: Listing) -> None:
    listing.fault = lambda _request, _answer: Answer(silent=True)
    config = config_for(listing.api_url, http=HttpConfig(max_tries=2, max_backoff_s=0.01, stall_timeout_s=0.05))
    with pytest.raises(SourceError, match=r"no data for 0.05 s \(2 tries\)"):
        collect(config)
    assert HASTY.max_tries == 3
