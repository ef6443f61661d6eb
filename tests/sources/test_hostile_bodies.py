"""Small bodies that would take for ever: they end within bounds of time and memory, and the event loop goes on."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datago_gpu.errors import SourceError
from datago_gpu.sources.barren import MOST_PAGES
from datago_gpu.sources.dataroom.pages import NotAPage, OddEntry, read_page
from datago_gpu.sources.dataroom.pieces import NotJson, TooMany, cut
from datago_gpu.sources.http.failure import HttpFailure
from datago_gpu.sources.http.inflate import inflate
from datago_gpu.sources.reference import SampleRef, Skipped
from datago_gpu.sources.webdataset import shard_reader as opened
from datago_gpu.sources.webdataset import tar
from tests.support.bounds import MiB, run_bounded
from tests.support.listing import Listing, collect, config_for, ids, names
from tests.support.servers import Answer, MisbehavingServer, Request, json_answer
from tests.support.shards import listed, tar_bytes

EMPTY_MEMBER = gzip.compress(b"", mtime=0)


def blocks_of(body: bytes, size: int) -> list[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


def failure_of(blocks: list[bytes], most: int) -> str:
    async def work() -> str:
        try:
            await inflate(blocks, most)
        except HttpFailure as problem:
            return problem.reason
        return ""

    return run_bounded(work, cpu_s=10, mb=100)


@given(st.lists(st.binary(max_size=2000), max_size=6), st.integers(1, 700), st.booleans())
def test_members_come_out_whole_however_they_are_cut(members: list[bytes], size: int, squeeze: bool) -> None:
    pack = gzip.compress if squeeze else zlib.compress
    content = b"".join(members)
    blocks = blocks_of(b"".join(map(pack, members)), size)
    assert asyncio.run(inflate(blocks, len(content))) == content
    if content:
        with pytest.raises(HttpFailure, match="more than"):
            asyncio.run(inflate(blocks, len(content) - 1))


@given(st.binary(min_size=1, max_size=3000), st.data())
def test_a_body_cut_or_damaged_is_told(content: bytes, data: st.DataObject) -> None:
    packed = gzip.compress(content)
    end = data.draw(st.integers(1, len(packed) - 1))
    with pytest.raises(HttpFailure, match="ends early"):
        asyncio.run(inflate([packed[:end]], 10**6))
    with pytest.raises(HttpFailure, match="damaged"):
        asyncio.run(inflate([packed, b"no member"], 10**6))


def test_a_large_body_comes_out_whole_beside_the_loop() -> None:
    content = bytes(range(256)) * 40_000
    blocks = blocks_of(gzip.compress(content), 65_536)
    assert run_bounded(lambda: inflate(blocks, len(content)), cpu_s=10, mb=60) == content


def test_many_empty_members_take_time_that_grows_with_them() -> None:
    """Of 200,000 in 4 MB the time was the square: 15 s for 3.2 MB."""
    members = EMPTY_MEMBER * 200_000 + gzip.compress(b"at last")
    assert run_bounded(lambda: inflate(blocks_of(members, 262_144), 100), cpu_s=10, mb=60) == b"at last"


def test_a_bomb_ends_where_the_limit_is() -> None:
    assert failure_of([gzip.compress(bytes(40 * MiB))], 4 * MiB) == "too-large"


def test_a_cancelled_task_stops_unpacking() -> None:
    async def work() -> None:
        task = asyncio.create_task(inflate([EMPTY_MEMBER * 500_000], 100))
        for _ in range(10):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_bounded(work, cpu_s=1, mb=60)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=20,
)


@given(st.lists(JSON, max_size=6), st.dictionaries(st.sampled_from(["next", "a", "b"]), JSON), st.integers(0, 3))
def test_a_list_is_cut_into_the_entries_that_it_has(entries: list[Any], around: dict[str, Any], indent: int) -> None:
    text = json.dumps({**around, "results": entries}, indent=indent, ensure_ascii=bool(indent % 2)).encode()
    pieces = cut(text, ("results",), ("next",), 6)
    assert [json.loads(piece) for piece in pieces.entries or ()] == entries
    assert {name: json.loads(piece) for name, piece in pieces.fields.items()} == {
        name: value for name, value in around.items() if name == "next"
    }
    assert cut(json.dumps(entries).encode(), (), (), 6).entries is not None
    if len(entries) > 1:
        with pytest.raises(TooMany):
            cut(text, ("results",), (), len(entries) - 1)


@given(st.binary(max_size=60), st.integers(0, 60), st.integers(0, 20))
def test_what_is_no_json_is_told_or_cut_somehow(noise: bytes, at: int, gone: int) -> None:
    text = b'{"results": [{"id": "a", "tags": ["x\\""]}, [], 1.5], "next": null}'
    with contextlib.suppress(NotJson, TooMany):
        cut(text[:at] + noise + text[at + gone :], ("results",), ("next",), 10)


def test_every_end_of_a_json_text_is_missed() -> None:
    text = b'{"results": [{"id": "a", "tags": ["x\\""]}, [], 1.5], "next": null}'
    for end in range(len(text)):
        with pytest.raises(NotJson):
            cut(text[:end], ("results",), ("next",), 10)


def page_problem(body: bytes, most: int = 2000) -> str:
    async def work() -> str:
        try:
            await read_page(body, most)
        except NotAPage as problem:
            return str(problem)
        return ""

    return run_bounded(work, cpu_s=10, mb=150)


@pytest.mark.parametrize(
    ("entry", "count"),
    [(b"0", 8_000_000), (b'{"id":"a"}', 1_500_000), (b"{}", 5_000_000), (b'""', 5_000_000), (b"[]", 5_000_000)],
)
def test_a_page_of_millions_of_entries_is_refused(entry: bytes, count: int) -> None:
    body = b'{"next":null,"results":[' + (entry + b",") * count + entry + b"]}"
    assert page_problem(body).startswith("a page of more than ")


@pytest.mark.parametrize("entry", [b"0", b'{"id":"a"}'])
def test_a_small_page_of_too_many_entries_is_refused(entry: bytes) -> None:
    body = b'{"next":null,"results":[' + (entry + b",") * 20 + entry + b"]}"
    assert page_problem(body, 20) == "a page of more than 20 entries"
    assert page_problem(body, 21) == ""


@pytest.mark.parametrize(
    "inside", [b"[]," * 4_000_000, b"0," * 6_000_000, b'"",' * 4_000_000, b'"' + b"x" * 2**24 + b'",']
)
def test_an_entry_of_millions_of_things_costs_itself(inside: bytes) -> None:
    body = b'{"next":null,"results":[{"id":"a"},{"id":"b","tags":[' + inside + b'""]},{"id":"c"}]}'

    async def work() -> list[str]:
        page = await read_page(body, 10)
        found = []
        for entry in page.results:
            assert not isinstance(entry, OddEntry)
            try:
                entry.details()
            except ValueError as problem:
                found.append(str(problem))
        return found

    (said,) = run_bounded(work, cpu_s=10, mb=150)
    assert said.endswith("bytes, at most 1048576 are allowed")


@pytest.mark.parametrize("inside", [b"[" * 8_000_000, b'{"":' * 2_000_000, b'"' + b"x" * 16_000_000])
def test_an_entry_without_an_end_is_no_page(inside: bytes) -> None:
    body = b'{"next":null,"results":[{"id":"a"},{"id":"b","tags":[' + inside + b"}]}"
    assert page_problem(body) in (
        "something that is not JSON",
        "a page of more than 400000 lists and objects; a lower page_size may help",
    )


def test_a_page_with_embeddings_is_read_beside_the_loop() -> None:
    results = [{"id": f"{number}", "coca_embedding": {"vector": [0.125] * 1024}} for number in range(1000)]
    body = json.dumps({"next": None, "results": results}).encode()
    page = run_bounded(lambda: read_page(body, 2000), cpu_s=10, mb=150)
    assert len(page.results) == 1000
    assert page.results[-1].details().embedding == [0.125] * 1024


@pytest.fixture
def server() -> Iterator[MisbehavingServer]:
    with MisbehavingServer() as running:
        yield running


GZIP = {"Content-Encoding": "gzip"}


@pytest.mark.parametrize(
    "body",
    [EMPTY_MEMBER * 200_000, gzip.compress(b'{"next":null,"results":[' + b"0," * (8 * MiB) + b"0]}")],
    ids=["empty members", "millions of entries"],
)
def test_a_hostile_page_ends_the_run_within_bounds(server: MisbehavingServer, body: bytes) -> None:
    listing = Listing(server, names(3))
    listing.fault = lambda _request, _answer: Answer(200, body, GZIP)
    config = config_for(listing.api_url, check_count=False)

    async def work() -> None:
        with pytest.raises(SourceError, match="not an answer of the API"):
            await first_of(config)

    run_bounded(work, cpu_s=20, mb=200)
    assert len(server.requests) == 3, "asked again, since a proxy may have sent it"


async def first_of(config: Any) -> Any:
    from datago_gpu.sources import open_source
    from datago_gpu.sources.http.http_client import HttpClient
    from datago_gpu.sources.reference import Position

    async with HttpClient(config.http_config) as http:
        refs = open_source(config, http).refs(Position())
        try:
            return await anext(refs)
        finally:
            await refs.aclose()


@pytest.mark.parametrize(
    "results",
    [[{"id": 5}] * 3, [{"id": "x", "image_direct_url": None}, 7], []],
    ids=["no ids", "no addresses", "nothing"],
)
@pytest.mark.parametrize("method", [{}, {"random_sampling": True}])
def test_a_listing_without_end_that_brings_no_sample_ends(
    server: MisbehavingServer, results: list[Any], method: dict[str, Any]
) -> None:
    def page(request: Request) -> Answer:
        number = int(request.parameters.get("number", 0))
        numbered = json.loads(json.dumps(results).replace('"x"', f'"x{number}"'))
        return json_answer({"results": numbered, "next": f"/api/images/?number={number + 1}"})

    server.route("/api/images/", page)
    with pytest.raises(SourceError, match=f"{MOST_PAGES} pages in a row, with {MOST_PAGES * len(results)} entries"):
        collect(config_for(server.url + "/api/", check_count=False, page_size=10, **method))


def test_a_listing_that_brings_a_sample_now_and_then_goes_on(server: MisbehavingServer) -> None:
    def page(request: Request) -> Answer:
        number = int(request.parameters.get("number", 0))
        good = [{"id": f"{number:05}", "image_direct_url": "/x"}] if not number % 900 else []
        return json_answer({"results": good, "next": f"/api/images/?number={number + 1}" if number < 1800 else None})

    server.route("/api/images/", page)
    found = collect(config_for(server.url + "/api/", check_count=False))
    assert ids(found) == ["00000", "00900", "01800"]
    assert all(isinstance(each, SampleRef) for each in found)


def test_a_server_that_sends_more_than_asked_for_is_put_up_with(server: MisbehavingServer) -> None:
    listing = Listing(server, names(2000))
    listing._page = None  # type: ignore[method-assign, assignment]
    server.route(
        "/api/images/", lambda request: listing.answer(request, [] if "cursor" in request.query else names(2000))
    )
    assert len(collect(config_for(listing.api_url, page_size=10))) == 2000


def test_a_listing_of_shards_without_end_ends(server: MisbehavingServer) -> None:
    def page(request: Request) -> Answer:
        number = int(request.parameters.get("pageToken", 0))
        return json_answer({"items": [{"mediaLink": "/readme.txt"}], "nextPageToken": number + 1})

    server.route("/shards", page)
    with pytest.raises(SourceError, match=f"{MOST_PAGES} pages in a row, with {MOST_PAGES} entries"):
        listed(server.url + "/shards")


def test_a_key_of_endless_parts_ends_its_shard(tmp_path: Path) -> None:
    """400,000 of them took 18 s and 161 MiB, for 3.5 MB."""
    good = [("a.jpg", b"x"), ("a.json", b"{}")]
    parts = [(f"b.{number}.jpg", b"") for number in range(10_001)]
    (tmp_path / "a.tar").write_bytes(tar_bytes([*good, *parts, ("c.jpg", b"x")], tarfile.USTAR_FORMAT))
    found = listed(tmp_path / "a.tar")
    assert ids(found) == ["a", ""]
    assert isinstance(found[1], Skipped)
    assert (found[1].reason, found[1].detail) == ("bad-shard", "more than 10000 files share the key 'b'")
    (tmp_path / "a.tar").write_bytes(tar_bytes(parts, tarfile.USTAR_FORMAT))
    with pytest.raises(SourceError, match=r"none of 1 shards could be read, .*more than 10000 files share the key 'b'"):
        listed(tmp_path / "a.tar")


def test_files_without_end_that_make_no_sample_end_their_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened, "MOST_FILES", 300)
    few = [(f"{number}.txt", b"x") for number in range(290)]
    good = [("good.jpg", b"x"), ("good.txt", b"x")]
    (tmp_path / "a.tar").write_bytes(tar_bytes([*few, *good, *few, *good]))
    assert [each.id for each in listed(tmp_path / "a.tar") if isinstance(each, SampleRef)] == ["good", "good"]
    (tmp_path / "a.tar").write_bytes(tar_bytes([*good, *few, *few, *good]))
    (lost,) = [each for each in listed(tmp_path / "a.tar") if isinstance(each, Skipped) and each.reason == "bad-shard"]
    assert lost.detail.startswith("no sample in 301 files and ")


def test_links_without_end_end_their_shard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tar, "_MOST_OTHERS", 300)
    link = tarfile.TarInfo("a.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "b"
    (tmp_path / "a.tar").write_bytes(tar_bytes([("x.jpg", b"x"), ("y.jpg", b"y")])[:2048] + link.tobuf() * 302)
    found = listed(tmp_path / "a.tar")
    assert isinstance(found[-1], Skipped)
    assert found[-1].detail.startswith("301 links, folders and the like in a row")


def test_a_member_of_a_terabyte_is_not_waited_for(tmp_path: Path) -> None:
    huge = tarfile.TarInfo("b.mp4")
    huge.size = 2**40
    body = tar_bytes([("a.jpg", b"x")])[:1024] + huge.tobuf(tarfile.GNU_FORMAT) + bytes(100_000)
    (tmp_path / "a.tar").write_bytes(body)
    found = listed(tmp_path / "a.tar")
    assert ids(found) == ["a", ""]
    assert isinstance(found[1], Skipped)
    assert found[1].detail.startswith("no sample in 1 files and 1099511")


def test_attributes_of_megabytes_cost_their_sample(tmp_path: Path) -> None:
    files = [(f"{key}.jpg", b"x") for key in "ab"] + [("b.json", b'{"a": "%s"}' % (b"x" * 2**20))]
    (tmp_path / "a.tar").write_bytes(tar_bytes(files))
    found = listed(tmp_path / "a.tar", http={"max_payload_mb": 8})
    assert isinstance(found[0], SampleRef)
    assert isinstance(found[1], Skipped)
    assert found[1].reason == "too-large"


def test_records_for_all_members_are_bounded() -> None:
    """They are kept to the end of the shard."""

    def archive(count: int) -> bytes:
        records = [tarfile.TarInfo.create_pax_global_header({f"k{at}": "v" * 100_000}) for at in range(count)]
        return b"".join(records) + tar_bytes([("a.jpg", b"x")])

    assert [name for name, *_ in tar.TarStream(io.BytesIO(archive(8)))] == ["a.jpg"]
    with pytest.raises(tar.BadShard, match="no valid tar header"):
        list(tar.TarStream(io.BytesIO(archive(12))))
