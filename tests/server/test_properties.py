"""What must hold for any partition, any page size and any query."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datago_gpu.server import DataroomServer
from datago_gpu.server.partition import murmur3_x86_32, shard_of
from tests.server.conftest import Client, add_image, request
from tests.server.test_filters import ATTRIBUTES, KEPT, REFUSED

COUNT = 150
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    root = tmp_path_factory.mktemp("many")
    for number in range(COUNT):
        name = f"{'Ab_-9zZ'[number % 7]}{number * 7919 % 1000}"
        add_image(root / f"{name}.png", (4, 4), color=number)
    with DataroomServer(root, watch_interval_s=None) as server:
        assert len(server) == COUNT
        yield Client(server)


@pytest.mark.parametrize(
    ("data", "value"),
    [(b"", 0), (b"hello", 0x248BFA47), (b"hello, world", 0x149BBB7F), (b"\xff\xff\xff\xff", 0x76293B50)],
)
def test_murmur3_reference_values(data: bytes, value: int) -> None:
    assert murmur3_x86_32(data) == value


@given(st.text("abcXYZ019_-", min_size=1, max_size=512))
def test_every_id_has_a_shard(image_id: str) -> None:
    assert 0 <= shard_of(image_id) < 48


@QUICK
@given(st.integers(2, 48))
def test_partitions_are_disjoint_and_complete(many: Client, count: int) -> None:
    parts = [many.ids(page_size=2000, partitions_count=count, partition=number) for number in range(count)]
    assert sorted(image_id for part in parts for image_id in part) == sorted(many.ids(page_size=2000))
    for number, part in enumerate(parts):
        assert part == sorted(part)
        assert all(shard_of(image_id) % count == number for image_id in part)


@QUICK
@given(st.integers(1, 2000))
def test_a_walk_yields_each_id_once_in_byte_order(many: Client, page_size: int) -> None:
    url: str | None = f"{many.server.url}images/?fields=id&page_size={page_size}"
    walked: list[str] = []
    requests = 0
    while url:
        page = request(url, headers={"Authorization": f"Token {many.server.key}"}).json
        walked += [image["id"] for image in page["results"]]
        url, requests = page["next"], requests + 1
    assert len(walked) == COUNT
    assert walked == sorted(set(walked), key=str.encode)
    assert requests == -(-COUNT // page_size) + 1


NAMES = sorted({name for table in (KEPT, REFUSED) for filters, _ in table for name in filters})
NAMES += [
    "attributes",
    "fields",
    "all_fields",
    "include_fields",
    "return_latents",
    "page_size",
    "cursor",
    "prefix_length",
    "num_prefixes",
    "partition",
    "partitions_count",
    "duplicate_state",
    "no_such_parameter",
]
KNOWN = [value for value, _ in ATTRIBUTES] + [value for filters, _ in KEPT for value in filters.values()]
VALUES = st.one_of(
    st.text(max_size=40),
    st.sampled_from(KNOWN),
    st.sampled_from(
        [
            "'; DROP TABLE images; --",
            "%",
            "1e400",
            "-1",
            "9" * 60,
            "\u0661",
            "views__gt:" + "9" * 30,
            "\ud800",
            "day:now-1d",
        ]
    ),
    st.builds(lambda a, b: a + b, st.sampled_from(KNOWN), st.text(max_size=8)),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(["images/", "images/count/", "images/random/", "images/apple/"]),
    query=st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4),
)
def test_no_query_breaks_the_server(client: Client, path: str, query: dict[str, str]) -> None:
    text = "&".join(f"{name}={quote(value.encode('utf-8', 'surrogatepass'))}" for name, value in query.items())
    reply = client(f"{path}?{text}")
    if reply.status == 500:  # as the real server: only for a bad number or date
        assert re.search(r"(^|,)(views|score|day)(__[^:]*)?:", query["attributes"]), reply.body
        assert reply.headers.get_content_type() == "text/html"
    else:
        assert reply.status in (200, 400), reply.body
        assert isinstance(reply.json, dict | list)
    assert b"Traceback" not in reply.body
    assert b"sqlite" not in reply.body.lower()
    assert client.ids(fields="id")[0] == "Banana"


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text("/.%abcdefimages2050-_~;\\?&=\u00e9", max_size=40))
def test_no_path_breaks_the_server(client: Client, path: str) -> None:
    origin = client.server.url.removesuffix("/api/")
    for prefix in ("/", "/api/", "/api/images/", "/media/"):
        reply = request(origin + prefix + quote(path, safe="/.%~;\\?&="))
        assert reply.status in (200, 302, 400, 403)
        assert b"Traceback" not in reply.body
