"""The Dataroom source against the embedded server: the same API, with real partitions, filters and signed addresses."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datago_gpu.errors import SourceError
from datago_gpu.server import DataroomServer
from datago_gpu.sources.dataroom.dataroom_source import Dataroom
from datago_gpu.sources.http.failure import HttpFailure
from datago_gpu.sources.http.http_client import HttpClient
from datago_gpu.sources.reference import Position, SampleRef
from tests.support.listing import collect, config_for, ids, names

COUNT = 60


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("gallery")
    for number, name in enumerate(names(COUNT)):
        Image.new("RGB", (40 + number, 30), (number, 90, 200)).save(root / f"{name}.jpg")
        sidecar: dict[str, Any] = {"source": f"camera-{number % 3}", "attributes": {"views": number}, "tags": ["t"]}
        if number % 2:
            sidecar["coca_embedding"] = [1.0] + [0.0] * 767
        (root / f"{name}.json").write_text(json.dumps(sidecar))
    return root


@pytest.fixture(scope="module")
def server(gallery: Path) -> Iterator[DataroomServer]:
    with DataroomServer(gallery, payload_port=0, watch_interval_s=None) as running:
        yield running


def listed(server: DataroomServer, start: Position = Position(), **source: Any) -> list[Any]:  # noqa: B008
    return collect(config_for(server.url, key=server.key, **source), start)


@pytest.mark.parametrize("page_size", [1, 7, 60, 500])
def test_the_whole_gallery_is_listed_in_order(server: DataroomServer, page_size: int) -> None:
    refs = listed(server, page_size=page_size)
    assert ids(refs) == names(COUNT)
    info = refs[4].info
    assert (info.source, json.loads(info.attributes), info.tags) == ("camera-1", {"views": 4}, ["t"])


@pytest.mark.parametrize("world_size", [2, 5, 12, 20, 48, 50])
@pytest.mark.parametrize("how", [{}, {"random_sampling": True}, {"random_sampling": True, "random_method": "server"}])
def test_ranks_cover_the_gallery_without_overlap(server: DataroomServer, world_size: int, how: dict[str, Any]) -> None:
    shares = [ids(listed(server, rank=rank, world_size=world_size, **how)) for rank in range(world_size)]
    assert sorted(itertools.chain(*shares)) == names(COUNT)


def test_filters_and_embeddings_reach_the_server(server: DataroomServer) -> None:
    refs = listed(server, sources="camera-0,camera-2", attributes="views__gte:30", embedding_empty="false")
    assert ids(refs) == [name for n, name in enumerate(names(COUNT)) if n % 3 != 1 and n >= 30 and n % 2]
    refs = listed(server, require_embeddings=True, min_aspect_ratio=3.0)
    odd = [n % 2 for n in range(COUNT) if 40 + n >= 90]
    assert [isinstance(ref, SampleRef) for ref in refs] == [bool(each) for each in odd]
    assert all(len(ref.info.embedding) == 4 * 768 for ref in refs if isinstance(ref, SampleRef))


def test_a_walk_resumes_in_the_middle(server: DataroomServer) -> None:
    everything = listed(server, page_size=9)
    for ref in everything[::7]:
        rest = listed(server, Position(0, ref.index, ref.cursor), page_size=9)
        assert ids(rest) == ids(everything[ref.index :])


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"tags": "missing"}, "tags do not exist"),
        ({"attributes": "views__prefix:1"}, "400"),
        ({"attributes": "views:abc"}, "attributes also gives this"),
        ({"key": "0" * 40}, "refused the API key (403: Invalid token.)"),
        ({"path": ""}, "api_url end in /api/"),
        ({"path": "api/v2/"}, "api_url end in /api/"),
    ],
)
def test_what_the_server_refuses_is_said(server: DataroomServer, source: dict[str, Any], said: str) -> None:
    url = server.url.removesuffix("api/") + source.pop("path", "api/")
    with pytest.raises(SourceError) as caught:
        collect(config_for(url, **{"key": server.key, **source}))
    assert said in str(caught.value)
    assert server.key not in str(caught.value)


def test_payloads_come_without_the_key_and_expired_addresses_are_renewed(gallery: Path) -> None:
    """The payloads' port refuses any Authorization, as an object store does."""
    with DataroomServer(gallery, payload_port=0, url_ttl_s=4.0, watch_interval_s=None) as server:
        config = config_for(server.url, key=server.key)
        name = names(COUNT)[0]

        async def main() -> None:
            async with (
                HttpClient(config.http_config) as http,
                aclosing(Dataroom(config, http).refs(Position())) as refs,
            ):
                ref = await anext(refs)
                assert isinstance(ref, SampleRef)
                assert ref.renew is not None
                payload = (gallery / f"{name}.jpg").read_bytes()
                assert (await http.get(ref.url, max_bytes=1 << 20)).body == payload
                end = time.monotonic() + 20
                status = 0
                while status != 403 and time.monotonic() < end:  # expiry is a fact of the clock
                    try:
                        await http.get(ref.url, max_bytes=1 << 20)
                    except HttpFailure as failure:
                        status = failure.status
                    await asyncio.sleep(0.1)
                assert status == 403
                assert (await http.get(await ref.renew(), max_bytes=1 << 20)).body == payload

        asyncio.run(main())
