"""The servers of the soak, in a process of their own: a Dataroom's listing and its files, both misbehaving at random.

    python -m tests.long.soak_server COUNT SEED

Prints the API's address. Reads lines from stdin: "on" and "off" turn the faults on and off (each is answered by a line
with the counts of requests and faults so far), the end of it ends the process.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.long.soak_catalog import Item, catalog
from tests.support.servers import Answer, MisbehavingServer, Request, json_answer

ETAG = {"ETag": '"a"'}
FAULTS: dict[str, tuple[float, Callable[[Answer, random.Random], Answer]]] = {
    "500": (0.006, lambda _, rng: Answer(rng.choice((500, 502, 504)), b"<h1>Server Error</h1>")),
    "503": (0.006, lambda _, rng: Answer(503, b"SlowDown", {"Retry-After": rng.choice(("0", "1"))})),
    "429": (0.006, lambda *_: Answer(429, headers={"Retry-After": "0"})),
    "dropped": (0.006, lambda *_: Answer(drop=True)),
    "closed": (0.01, lambda good, _: replace(good, close=True)),
    "reset": (0.006, lambda good, rng: replace(good, reset_after=_part(good, rng))),
    "cut": (0.006, lambda good, rng: replace(good, cut_after=_part(good, rng))),
    "cut, no Range": (0.004, lambda good, rng: replace(good, ranges=False, cut_after=_part(good, rng))),
    "wrong length": (0.004, lambda good, _: replace(good, ranges=False, length=len(good.body) + 7, close=True)),
    "chunked": (0.02, lambda good, _: replace(good, chunked=True)),
    "chunked, cut": (0.004, lambda good, rng: replace(good, chunked=True, cut_after=_part(good, rng))),
    "stalled": (0.001, lambda good, rng: replace(good, stall_after=_part(good, rng))),
    "silent": (0.001, lambda good, _: replace(good, silent=True)),
    "slow": (0.01, lambda good, rng: replace(good, delay_s=rng.uniform(0.2, 1.0))),
}
"""Fault of any answer -> its share of them, and what is answered in place of the good one."""

PAGE_FAULTS = {"short": 0.05, "empty, with next": 0.03, "empty, as if the end": 0.03, "no page": 0.02}


def _part(good: Answer, rng: random.Random) -> int:
    return rng.randrange(len(good.body) + 1)


class Faulty:
    """Two servers with the same samples, and a die."""

    def __init__(self, items: list[Item], seed: int, api: MisbehavingServer, files: MisbehavingServer) -> None:
        self.items, self.rng, self.api, self.files = items, random.Random(seed), api, files
        self.on, self.counts = False, Counter[str]()
        self._odd_page_before = False
        self.entries = [self._entry(item) for item in items]
        for item in items:
            self._serve(f"/{item.id}/image", Answer(item.status, item.body, ETAG, ranges=True))
            for part in item.parts:
                status = 404 if part.body is None else 200
                self._serve(f"/{item.id}/{part.name}", Answer(status, part.body or b"", ETAG, ranges=True))
        api.route("/api/images/", self._page)
        api.route("/api/images/count/", lambda _: self._answered(json_answer({"count": len(items)})))
        for server in (api, files):
            server.requests = deque(maxlen=1)  # type: ignore[assignment]  # they would grow for ever

    def _entry(self, item: Item) -> dict[str, Any]:
        latents = [
            {"latent_type": part.name, "is_mask": part.is_mask, "file_direct_url": self._url(item.id, part.name)}
            for part in item.parts
        ]
        usual = {
            "id": item.id,
            "source": "camera",
            "attributes": {"caption": f"about {item.id}"},
            "tags": ["x"],
            "image_direct_url": self._url(item.id, "image"),
            "duplicate_state": None,
            "coca_embedding": {"vector": [0.5, -1.0, 2.0], "author": "nobody"},
            "latents": latents,
        }
        return {**usual, **item.fields}

    def _url(self, name: str, what: str) -> str:
        return f"{self.files.url}/{name}/{what}?signature=abc"

    def _serve(self, path: str, good: Answer) -> None:
        self.files.route(path, lambda _: self._answered(good))

    def _answered(self, good: Answer) -> Answer:
        self.counts["requests"] += 1
        if self.on:
            die = self.rng.random()
            for name, (share, fault) in FAULTS.items():
                die -= share
                if die < 0:
                    self.counts[name] += 1
                    return fault(good, self.rng)
        return good

    def _page(self, request: Request) -> Answer:
        asked = request.parameters
        first = int(asked["cursor"][3:]) + 1 if asked.get("cursor") else 0
        found = self.entries[first : first + int(asked["page_size"])]
        last, fault = (found[-1]["id"] if found else None), self._page_fault()
        if fault == "no page":
            return Answer(200, b"<html>Down for maintenance.</html>")
        if fault == "empty, as if the end":
            return json_answer({"next": None, "results": []})
        if fault == "empty, with next" and first:
            last, found = asked["cursor"], []
        if fault == "short" and len(found) > 1:
            found = found[: self.rng.randrange(1, len(found))]
            last = found[-1]["id"]
        query = "&".join(part for part in request.query.split("&") if not part.startswith(("cursor=", "turn=")))
        following = f"{self.api.url}/api/images/?{query}&cursor={last}&turn={self.counts['requests']}" if last else None
        return self._answered(json_answer({"next": following, "results": found}))

    def _page_fault(self) -> str:
        """Not two in a row: what looks like the end twice is the end."""
        odd, self._odd_page_before = self._odd_page_before, False
        die = self.rng.random()
        for name, share in PAGE_FAULTS.items():
            die -= share
            if die < 0 and self.on and not odd:
                self._odd_page_before = True
                self.counts[name] += 1
                return name
        return ""


def main() -> None:
    import uvloop

    uvloop.install()
    count, seed = map(int, sys.argv[1:])
    with MisbehavingServer() as api, MisbehavingServer() as files:
        faulty = Faulty(catalog(count, seed), seed, api, files)
        print(api.url + "/api/", flush=True)
        for line in sys.stdin:
            faulty.on = line.strip() == "on"
            print(json.dumps(faulty.counts), flush=True)


if __name__ == "__main__":
    main()
