"""The Dataroom source against a listing that behaves: filters, order, ranks, shuffles, resuming."""

from __future__ import annotations

import asyncio
import itertools
from array import array
from contextlib import aclosing
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datago_gpu.config import DataroomSource, LoaderConfig
from datago_gpu.errors import ConfigError, SourceError
from datago_gpu.sources.dataroom.api import api_address
from datago_gpu.sources.dataroom.dataroom_source import Dataroom, Share
from datago_gpu.sources.dataroom.listing import Tasks
from datago_gpu.sources.dataroom.pages import Page
from datago_gpu.sources.dataroom.random_pages import key_of, prefixes_for
from datago_gpu.sources.http.http_client import HttpClient
from datago_gpu.sources.reference import Position, SampleRef, Skipped
from datago_gpu.sources.sample_info import SampleInfo
from datago_gpu.sources.shuffle import SplitMix64
from tests.support.listing import KEY, Listing, collect, config_for, ids, names
from tests.support.servers import MisbehavingServer, json_answer

EVEN = (2, 3, 4, 6, 8, 12, 16, 24, 48)
FEW = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def pages_asked(server: MisbehavingServer) -> list[dict[str, str]]:
    return server.queries("/api/images/")


def test_every_image_comes_once_in_order(listing: Listing) -> None:
    found = collect(config_for(listing.api_url, page_size=10))
    assert ids(found) == names(53)
    assert [ref.index for ref in found] == list(range(53))
    assert listing.pages == 7, "ceil(53 / 10) + 1"
    assert listing.server.count("/api/images/count/") == 1


def test_a_sample_says_all_that_is_known(listing: Listing) -> None:
    listing.entries["im-00000"].update(duplicate_state=2, attributes={"caption": "é", "n": None}, tags=["a", "b"])
    ref = collect(config_for(listing.api_url))[0]
    assert isinstance(ref, SampleRef)
    attributes = b'{"caption": "\\u00e9", "n": null}'
    assert ref.info == SampleInfo("im-00000", "camera", attributes, tags=["a", "b"], duplicate_state=2)
    assert ref.url == "https://files.example/im-00000.jpg?sig=abc"


def test_only_what_is_needed_is_asked_for(listing: Listing) -> None:
    collect(config_for(listing.api_url, tags="a,b", min_short_edge=5, duplicate_state="unprocessed", page_size=7))
    first, count = pages_asked(listing.server)[0], listing.server.queries("/api/images/count/")[0]
    filters = {"tags": "a,b", "short_edge__gte": "5", "duplicate_state": "None"}
    assert count == filters
    assert first == {
        **filters, "page_size": "7", "fields": "id,source,attributes,tags,image_direct_url,duplicate_state"
    }  # fmt: skip


def test_the_key_goes_with_each_request(listing: Listing) -> None:
    collect(config_for(listing.api_url))
    assert {request.headers["authorization"] for request in listing.server.requests} == {f"Token {KEY}"}


def test_without_a_key_none_is_sent(listing: Listing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATAROOM_API_KEY", raising=False)
    collect(config_for(listing.api_url, key=""))
    assert all("authorization" not in request.headers for request in listing.server.requests)


def test_a_task_that_is_done_keeps_no_page() -> None:
    """All pages of an epoch were kept to its end."""

    async def fetch() -> Page:
        return Page([], None)

    async def fail() -> Page:
        raise ValueError

    async def main() -> None:
        async with Tasks() as tasks:
            await tasks.start(fetch())
            failed, pending = tasks.start(fail()), tasks.start(asyncio.sleep(60))
            await asyncio.wait([failed])
            assert tasks._tasks == {failed, pending}

    asyncio.run(main())


def test_embeddings_come_where_they_are_required(listing: Listing) -> None:
    listing.entries["im-00001"]["coca_embedding"] = {"vector": [0.5, -1.0], "author": "x"}
    listing.entries["im-00002"]["coca_embedding"] = None
    found = collect(config_for(listing.api_url, require_embeddings=True))
    assert [each.reason for each in found if isinstance(each, Skipped)] == ["no-embedding"] * 52
    assert isinstance(found[1], SampleRef)
    assert found[1].info.embedding == array("f", [0.5, -1.0]).tobytes()
    assert pages_asked(listing.server)[0]["fields"].endswith(",coca_embedding")


@pytest.mark.parametrize("odd", ["im-00000", "im-00004", "im-00010", "im-00052"])
@pytest.mark.parametrize(
    "source",
    [
        {},
        {"rank": 1, "world_size": 2},
        {"rank": 3, "world_size": 5},
        {"random_sampling": True},
        {"random_sampling": True, "random_method": "server"},
    ],
    ids=["listed", "a partition", "by position", "shuffled", "drawn"],
)
def test_an_embedding_of_another_length_costs_its_sample(listing: Listing, source: dict[str, Any], odd: str) -> None:
    """A batch has one array of them: with one of another length the trainer could make none."""
    for name, entry in listing.entries.items():
        entry["coca_embedding"] = {"vector": [0.5] * (3 if name == odd else 2)}
    whole = collect(config_for(listing.api_url, page_size=10, require_embeddings=True, **source))
    starts = [each.cursor for each in whole if isinstance(each, SampleRef) and each.cursor][::9]
    positions = [Position(0, int(cursor.partition("+")[0]), cursor) for cursor in starts] if not source else []
    for found in (whole, *(collect(config_for(listing.api_url, page_size=10, require_embeddings=True), start)
                           for start in positions)):  # fmt: skip
        skipped = [each for each in found if isinstance(each, Skipped)]
        assert {each.id for each in skipped} <= {odd}
        for each in skipped:
            assert (each.reason, each.detail) == ("bad-entry", "an embedding of 3 numbers, others have 2")


def test_an_empty_source_is_an_error(server: MisbehavingServer) -> None:
    with pytest.raises(SourceError, match="no image passes the filters of source_config"):
        collect(config_for(Listing(server, []).api_url))


def test_the_next_page_is_asked_for_while_this_one_is_used(listing: Listing) -> None:
    collect(config_for(listing.api_url, page_size=10, check_count=False), stop=1)
    assert listing.pages <= 2, "and no further"
    assert listing.server.count("/api/images/count/") == 0


def test_a_short_first_page_needs_no_second_look_when_the_count_agrees(listing: Listing) -> None:
    collect(config_for(listing.api_url, page_size=500))
    assert listing.pages == 2


@pytest.mark.parametrize("given", ["", "ftp://h/api/", "http://", "https://u:p@h/api/", "http://h/api/?x=1", "h/api"])
def test_an_address_that_cannot_work_is_a_config_error(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAROOM_API_URL", given)
    with pytest.raises(ConfigError) as caught:
        api_address(DataroomSource())
    assert ("DATAROOM_API_URL" in str(caught.value)) == (given == "")
    assert "u:p" not in str(caught.value)


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "ké"])
def test_a_key_that_cannot_be_sent_is_a_config_error_without_the_key(key: str) -> None:
    with pytest.raises(ConfigError, match="api_key") as caught:
        api_address(DataroomSource(api_url="http://h/api/", api_key=key))
    assert key not in str(caught.value)


def test_address_and_key_come_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAROOM_API_URL", "https://h/api")
    monkeypatch.setenv("DATAROOM_API_KEY", KEY + "\n")
    assert api_address(DataroomSource()) == ("https://h/api/", KEY)
    assert api_address(DataroomSource(api_url="http://other/api/", api_key="k")) == ("http://other/api/", "k")


@given(st.integers(1, 200))
def test_ranks_share_everything_without_overlap(world_size: int) -> None:
    shares = [Share.of(rank, world_size) for rank in range(world_size)]
    partitions, stride = shares[0].partitions, shares[0].entries.world_size
    assert {(share.partitions, share.entries.world_size) for share in shares} == {(partitions, stride)}
    wanted = itertools.product(range(partitions), range(stride))
    assert sorted((share.partition, share.entries.rank) for share in shares) == list(wanted)
    assert (stride == 1) == (world_size in (1, *EVEN))
    assert 48 % partitions == 0, "the server's partitions come out even"


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 7, 9, 10, 20, 32, 36, 48, 49, 96])
@pytest.mark.parametrize("random_sampling", [False, True])
def test_ranks_together_list_every_image_once(listing: Listing, world_size: int, random_sampling: bool) -> None:
    found: list[str] = []
    for rank in range(world_size):
        config = config_for(
            listing.api_url,
            page_size=20,
            rank=rank,
            world_size=world_size,
            random_sampling=random_sampling,
            shuffle_buffer=5,
        )
        mine = collect(config)
        assert [ref.index for ref in mine] == list(range(len(mine)))
        found += ids(mine)
    assert sorted(found) == names(53)


@FEW
@given(data=st.data(), page_size=st.integers(1, 60), world_size=st.sampled_from([1, 2, 5, 6, 9]))
def test_the_middle_is_reached_by_cursor_as_from_the_start(
    server: MisbehavingServer, data: st.DataObject, page_size: int, world_size: int
) -> None:
    listing = Listing(server, names(40))
    for odd in data.draw(st.sets(st.integers(0, 39), max_size=6)):
        listing.entries[names(40)[odd]].update(data.draw(st.sampled_from([{"id": None}, {"tags": 3}, {"id": ""}])))
    rank = data.draw(st.integers(0, world_size - 1))
    config = config_for(listing.api_url, page_size=page_size, rank=rank, world_size=world_size, check_count=False)
    if any(not entry["id"] for entry in listing.entries.values()):
        # The stub takes cursors from ids; a page that ends in an entry without one would go on from another's.
        config = config_for(listing.api_url, page_size=2000, rank=rank, world_size=world_size, check_count=False)
    everything = collect(config)
    refs = [ref for ref in everything if isinstance(ref, SampleRef)]
    if not refs:
        return
    ref = data.draw(st.sampled_from(refs))
    server.requests.clear()
    from_here = collect(config, Position(0, ref.index, ref.cursor))
    assert described(from_here) == described(everything[ref.index :])
    previous = [each.id for each in everything[: ref.index] if each.id and world_size == 1]
    if previous:
        assert pages_asked(server)[0]["cursor"] == previous[-1], "nothing before it is listed again"


def described(found: list[SampleRef | Skipped]) -> list[Any]:
    return [(type(each), each.index, each.id, getattr(each, "cursor", "")) for each in found]


@FEW
@given(st.integers(0, 60), st.booleans())
def test_without_a_cursor_the_listing_is_counted_through(
    server: MisbehavingServer, index: int, random_sampling: bool
) -> None:
    listing = Listing(server, names(53))
    config = config_for(listing.api_url, page_size=20, random_sampling=random_sampling, shuffle_buffer=8)
    assert described(collect(config, Position(3, index))) == described(collect(config, Position(3)))[index:]


def test_a_cursor_outlives_its_image(listing: Listing) -> None:
    config = config_for(listing.api_url, page_size=10)
    ref = collect(config)[31]
    assert isinstance(ref, SampleRef)
    del listing.entries["im-00030"]
    assert ids(collect(config, Position(0, 31, ref.cursor))) == names(53)[31:]


def test_a_shuffle_depends_on_seed_epoch_and_rank_alone(listing: Listing) -> None:
    def order(seed: int = 0, epoch: int = 0, **source: Any) -> list[str]:
        config = config_for(listing.api_url, seed=seed, random_sampling=True, shuffle_buffer=20, **source)
        return ids(collect(config, Position(epoch)))

    first = order(page_size=7)
    assert sorted(first) == names(53)
    assert first != names(53)
    assert first == order(page_size=50)
    assert len({tuple(first), tuple(order(seed=1)), tuple(order(epoch=1)), tuple(order(seed=1, epoch=1))}) == 4
    assert first[:10] == [f"im-{number:05}" for number in (2, 0, 13, 22, 5, 14, 6, 10, 24, 1)], "for ever"


def test_a_shuffle_through_a_buffer_reaches_no_further_than_it(listing: Listing) -> None:
    config = config_for(listing.api_url, random_sampling=True, shuffle_buffer=1)
    assert ids(collect(config)) == names(53)
    config = config_for(listing.api_url, random_sampling=True, shuffle_buffer=10)
    assert all(int(name[3:]) < place + 11 for place, name in enumerate(ids(collect(config))))


def test_the_generator_is_splitmix64() -> None:
    """The published first outputs for the state 1234567, and evenness of what is drawn."""
    generator = SplitMix64()
    generator._state = 1234567
    assert [generator.below(1 << 64) for _ in range(3)] == [
        6457827717110365317, 3203168211198807973, 9817491932198370423
    ]  # fmt: skip
    places = [0] * 20
    for _ in range(2000):
        items = list(range(20))
        generator.shuffle(items)
        places[items.index(0)] += 1
    assert all(60 < count < 140 for count in places)


@pytest.mark.parametrize("count", [1, 53, 3000])
def test_random_draws_of_the_server_bring_everything_once(server: MisbehavingServer, count: int) -> None:
    server.requests.clear()
    listing = Listing(server, names(count))
    found = collect(config_for(listing.api_url, page_size=100, random_sampling=True, random_method="server"))
    assert sorted(ids(found)) == names(count)
    assert [ref.index for ref in found] == list(range(count))
    assert count == 1 or ids(found) != names(count)


def test_random_draws_are_shared_among_ranks_without_overlap(server: MisbehavingServer) -> None:
    listing = Listing(server, names(200))
    source: dict[str, Any] = {"page_size": 50, "random_sampling": True, "random_method": "server", "world_size": 5}
    found = [ids(collect(config_for(listing.api_url, rank=rank, **source))) for rank in range(5)]
    assert sorted(itertools.chain(*found)) == names(200)
    assert all(key_of(name) % 5 == rank for rank, mine in enumerate(found) for name in mine)


def test_random_draws_end_when_nothing_new_comes(server: MisbehavingServer) -> None:
    """The count says more than there is to draw, and goes unanswered in a second run."""
    listing = Listing(server, names(20))
    for listing.counted in (lambda _count: json_answer({"count": 1000}), lambda _count: json_answer([], 404)):
        server.requests.clear()
        config = config_for(listing.api_url, page_size=100, random_sampling=True, random_method="server")
        assert sorted(ids(collect(config))) == names(20)
        assert server.count("/api/images/random/") < 40


def test_random_draws_of_an_empty_source_end(server: MisbehavingServer) -> None:
    listing = Listing(server, [])
    with pytest.raises(SourceError, match="no image passes the filters of source_config"):
        collect(config_for(listing.api_url, random_sampling=True, random_method="server"))


@given(st.floats(1e-12, 1.0))
def test_prefixes_match_about_the_share_wanted(share: float) -> None:
    length, number = prefixes_for(share)
    assert 1 <= length <= 64
    assert 1 <= number <= 300
    matched = 1 - (1 - 16.0**-length) ** number
    assert 0.9 * share <= matched <= 1.11 * share or share < 1e-11 or (length, matched > 0.85) == (1, True)


@pytest.mark.parametrize(
    ("part", "asked"),
    [("", {"fields": "image_direct_url"}), ("seg", {"fields": "latents", "return_latents": "seg"})],
)
def test_renew_asks_for_a_fresh_address(listing: Listing, part: str, asked: dict[str, str]) -> None:
    address = "/media/fresh?e=1"
    latents = [{"latent_type": "other", "file_direct_url": "/no"}, {"latent_type": "seg", "file_direct_url": address}]
    answer = {"id": "x", "latents": latents} if part else {"id": "x", "image_direct_url": address}
    listing.server.script("/api/images/im-00003/", json_answer(answer))
    config = config_for(listing.api_url)

    async def main() -> str:
        async with (
            HttpClient(config.http_config) as http,
            aclosing(Dataroom(config, http).refs(Position(0, 3))) as refs,
        ):
            ref = await anext(refs)
            assert isinstance(ref, SampleRef)
            assert ref.renew is not None
            return await ref.renew(part)

    assert asyncio.run(main()) == f"{listing.server.url}/media/fresh?e=1"
    assert listing.server.queries("/api/images/im-00003/") == [asked]


@pytest.mark.parametrize("how", [{}, {"random_sampling": True}, {"random_sampling": True, "random_method": "server"}])
def test_closing_half_way_leaves_no_task(listing: Listing, how: dict[str, Any]) -> None:
    """`collect` closes the listing and looks for tasks; here a task that waits for the first sample is cancelled."""
    config: LoaderConfig = config_for(listing.api_url, page_size=5, shuffle_buffer=7, **how)
    assert len(collect(config, stop=3)) == 3

    async def cancelled() -> None:
        async with HttpClient(config.http_config) as http:
            waiting = asyncio.ensure_future(anext(Dataroom(config, http).refs(Position())))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert len(asyncio.all_tasks()) == 1

    asyncio.run(cancelled())


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ({"width": 640, "height": 480}, (480, 640)),
        ({"width": 640}, (0, 640)),
        ({"width": "640", "height": None}, (0, 0)),
        ({"width": -5, "height": 1e400}, (0, 0)),
        ({"width": 10**12, "height": 1.5}, (0, 0)),
        ({"width": [1], "height": {"a": 1}}, (0, 0)),
    ],
)
def test_lockstep_asks_for_sizes_and_takes_none_that_is_no_size(
    listing: Listing, given: dict[str, Any], size: tuple[int, int]
) -> None:
    listing.entries["im-00002"].update(given)
    config = config_for(listing.api_url)
    image = msgspec.structs.replace(config.image_config, crop_and_resize=True)
    found = collect(msgspec.structs.replace(config, image_config=image, lockstep=True))
    assert pages_asked(listing.server)[0]["fields"].endswith(",width,height")
    assert isinstance(found[2], SampleRef)
    assert found[2].size == size
    assert {ref.size for ref in collect(config) if isinstance(ref, SampleRef)} == {(0, 0)}
