"""Download processes for the addresses in a table: batches, skips and requests are those of a feeder that downloads."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from datago_gpu import LoaderConfig
from tests.feeder.download.test_pool import run
from tests.support.images import SHAPES, add_pictures
from tests.support.needs import needs
from tests.support.servers import Answer, MisbehavingServer
from tests.support.tables import write_table

needs("pyarrow")
COUNT = 24
PROOF = "Basic bmFtZTpzZWNyZXQ="  # name:secret
SHARD = "/shard.bin"
BUSY, MISSING = "/10.png", "/07.png"


@pytest.fixture
def server() -> Iterator[MisbehavingServer]:
    with MisbehavingServer() as server:
        yield server


@pytest.fixture
def config(server: MisbehavingServer, tmp_path: Path) -> dict[str, Any]:
    """Pictures at addresses, every third one within a file. They are given only to who has the password."""
    names = add_pictures(tmp_path / "pictures", [SHAPES[number % 3] for number in range(COUNT)])
    shard, rows = b"", []
    for number, name in enumerate(names):
        content = (tmp_path / "pictures" / name).read_bytes()
        if number % 3:
            path = f"/{number:02}.png"
            rows.append({"id": str(number), "url": path[1:], "offset": None, "length": None})
            answers = [Answer(404) if path == MISSING else Answer(body=content)]
            script(server, path, [Answer(503), *answers] if path == BUSY else answers)
        else:
            rows.append({"id": str(number), "url": SHARD[1:], "offset": len(shard), "length": len(content)})
            shard += content
    script(server, SHARD, [Answer(body=shard, ranges=True)])
    root = server.url.replace("://", "://name:secret@")
    source = {"path": str(write_table(tmp_path / "t.parquet", rows)), "root": root}
    return {
        "source_type": "table",
        "source_config": {**source, "random_sampling": True},
        "image_config": {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 16},
        "http_config": {"max_payload_mb": 1, "max_backoff_s": 0.02},
        "decode_config": {"processes": 0},
        "batch_size": 4,
        "arena_mb": 4,
    }


def script(server: MisbehavingServer, path: str, answers: list[Answer]) -> None:
    """Gives these answers in turn, over and over, to requests with the password."""
    turns = cycle(answers)
    server.route(path, lambda request: next(turns) if request.headers.get("authorization") == PROOF else Answer(401))


def loaded(config: dict[str, Any], processes: int, **more: Any) -> tuple[list[Any], dict[str, int]]:
    http = {**config["http_config"], "download_processes": processes}
    return run(LoaderConfig.load({**config, "http_config": http, **more}))


def requests(server: MisbehavingServer) -> list[tuple[str, str]]:
    """Returns path and Range of what was asked for, and forgets it."""
    found = sorted((each.path, each.headers.get("range", "")) for each in server.requests)
    server.requests.clear()
    return found


def test_batches_and_skips_are_the_same(server: MisbehavingServer, config: dict[str, Any]) -> None:
    plain, asked = loaded(config, 0), requests(server)
    assert asked.count((BUSY, "")) == 2
    assert (loaded(config, 2), requests(server)) == (plain, asked)
    delivered, skipped = plain
    assert skipped == {"http-404": 1}
    assert sum(len(ids) for *_, ids, _ in delivered) == COUNT - 1


def test_what_they_download_stays_in_the_cache(
    server: MisbehavingServer, config: dict[str, Any], tmp_path: Path
) -> None:
    cache = {"cache_config": {"path": str(tmp_path / "cache"), "size_gb": 1}}
    first = loaded(config, 1, **cache)
    requests(server)
    assert loaded(config, 1, **cache) == first == loaded(config, 0, **cache)
    assert set(requests(server)) == {(MISSING, "")}
