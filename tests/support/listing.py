"""A Dataroom's listing for tests, as small as can be, on the misbehaving server: ids, pages, counts, random draws."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterable
from contextlib import aclosing
from typing import Any

from datago_gpu.config import DataroomSource, HttpConfig, LoaderConfig
from datago_gpu.sources.dataroom.dataroom_source import Dataroom
from datago_gpu.sources.http.http_client import HttpClient
from datago_gpu.sources.reference import Position, SampleRef, Skipped
from tests.support.servers import Answer, MisbehavingServer, Request, json_answer

KEY = "0123456789abcdef0123456789abcdef01234567"
HASTY = HttpConfig(
    max_backoff_s=0.005,
    max_retry_after_s=0.01,
    connect_timeout_s=10,
    stall_timeout_s=0.5,
    total_timeout_s=20,
    max_tries=3,
)


def shard_of(image_id: str) -> int:
    """Any even deal will do here; the real one is the server's business."""
    return int.from_bytes(hashlib.md5(image_id.encode()).digest()[:4], "big") % 48


class Listing:
    """Serves `entries` at `/api/`. `faults` may answer in place of the listing: request -> Answer or None."""

    def __init__(self, server: MisbehavingServer, ids: Iterable[str], **fields: Any) -> None:
        self.server = server
        self.entries = {name: {"id": name, **self.fields_of(name), **fields} for name in sorted(ids)}
        self.fault: Callable[[Request, Answer], Answer | None] = lambda _request, _answer: None
        self.counted: Callable[[int], Answer] = lambda count: json_answer({"count": count})
        server.route("/api/images/", self._page)
        server.route("/api/images/count/", lambda request: self.counted(len(self._matching(request))))
        server.route("/api/images/random/", self._random)
        self.pages = 0

    @property
    def api_url(self) -> str:
        return self.server.url + "/api/"

    @staticmethod
    def fields_of(name: str) -> dict[str, Any]:
        return {
            "source": "camera",
            "attributes": {"caption": f"about {name}"},
            "tags": ["x"],
            "image_direct_url": f"https://files.example/{name}.jpg?sig=abc",
            "duplicate_state": None,
        }

    def _matching(self, request: Request) -> list[str]:
        asked = request.parameters
        count, partition = int(asked.get("partitions_count", 1)), int(asked.get("partition", 0))
        return [name for name in self.entries if shard_of(name) % count == partition]

    def _page(self, request: Request) -> Answer:
        self.pages += 1
        asked = request.parameters
        size = int(asked.get("page_size", 100))
        found = [name for name in self._matching(request) if name > asked.get("cursor", "")][:size]
        answer = self.answer(request, found)
        return self.fault(request, answer) or answer

    def answer(self, request: Request, found: list[str]) -> Answer:
        following = None
        if found:
            query = "&".join(part for part in request.query.split("&") if not part.startswith("cursor="))
            following = f"{self.server.url}/api/images/?{query}&cursor={found[-1]}"
        return json_answer({"next": following, "results": [self.entries[name] for name in found]})

    def _random(self, request: Request) -> Answer:
        asked = request.parameters
        length, number = int(asked["prefix_length"]), int(asked["num_prefixes"])
        draw = self.server.count("/api/images/random/")

        def unit(*words: object) -> float:
            digest = hashlib.md5(" ".join(map(str, words)).encode()).digest()
            return int.from_bytes(digest[:6], "big") / 2**48

        matched = 1 - (1 - 16.0**-length) ** number
        found = [name for name in self.entries if unit(draw, name) < matched]
        return json_answer({"next": None, "results": [self.entries[n] for n in found[: int(asked["page_size"])]]})


def names(count: int) -> list[str]:
    return [f"im-{number:05}" for number in range(count)]


def config_for(api_url: str, *, http: HttpConfig = HASTY, key: str = KEY, seed: int = 0, **source: Any) -> LoaderConfig:
    limit = 10**9 if source.get("random_method") == "server" else None
    return LoaderConfig(
        source_config=DataroomSource(api_url=api_url, api_key=key, **source), http_config=http, seed=seed, limit=limit
    )


def collect(config: LoaderConfig, start: Position = Position(), stop: int | None = None) -> list[SampleRef | Skipped]:  # noqa: B008
    """The samples that a source lists, all or the first `stop`. Fails where anything is left running afterwards."""

    async def main() -> list[SampleRef | Skipped]:
        found: list[SampleRef | Skipped] = []
        async with HttpClient(config.http_config) as http:
            async with aclosing(Dataroom(config, http).refs(start)) as refs:
                async for ref in refs:
                    found.append(ref)
                    if len(found) == stop:
                        break
            assert len(asyncio.all_tasks()) == 1, "a task outlives its source"
        return found

    return asyncio.run(main())


def ids(found: Iterable[SampleRef | Skipped]) -> list[str]:
    return [each.id for each in found]


def with_results(change: Callable[[list[dict[str, Any]]], Any]) -> Callable[[Answer], Answer]:
    """An answer whose list of results was changed in place, or replaced by what `change` returns."""

    def changed(answer: Answer) -> Answer:
        page = json.loads(answer.body)
        results = change(page["results"])
        return json_answer({**page, "results": page["results"] if results is None else results})

    return changed
