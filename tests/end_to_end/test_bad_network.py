"""The whole loader against a network that misbehaves: nothing is lost, nothing comes twice, nothing hangs."""

from __future__ import annotations

import io
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest
from PIL import Image

from datago_gpu import Loader, SourceError
from tests.support.listing import KEY, Listing, names
from tests.support.servers import Answer, MisbehavingServer, Request

COUNT = 90
HASTY = {"max_backoff_s": 0.02, "stall_timeout_s": 0.3, "total_timeout_s": 5, "max_tries": 12}


Fault = Callable[[Answer], Answer]

TRANSIENT: list[Fault] = [
    lambda _: Answer(500, b"<h1>no</h1>"),
    lambda _: Answer(503, b"SlowDown", {"Retry-After": "0"}),
    lambda _: Answer(429, headers={"Retry-After": "0"}),
    lambda _: Answer(drop=True),
    lambda good: Answer(200, good.body, good.headers, close=True),
    lambda good: Answer(200, good.body, {"ETag": '"a"'}, ranges=True, cut_after=len(good.body) // 2),
    lambda good: Answer(200, good.body, good.headers, reset_after=len(good.body) // 3),
    lambda good: Answer(200, good.body, good.headers, length=len(good.body) + 7, close=True),
    lambda good: Answer(200, good.body, good.headers, chunked=True),
    lambda good: Answer(200, good.body, good.headers, chunked=True, cut_after=len(good.body) // 2),
    lambda good: Answer(200, good.body, good.headers, delay_s=0.05),
]
RARE: list[Fault] = [lambda good: Answer(200, good.body, stall_after=20), lambda _: Answer(silent=True)]


def jpeg(height: int, width: int) -> bytes:
    file = io.BytesIO()
    Image.radial_gradient("L").resize((width, height)).convert("RGB").save(file, "JPEG")
    return file.getvalue()


BODY = jpeg(48, 32)


class Store:
    """A server of payloads at /files/NAME.jpg, apart from the API's."""

    def __init__(self, server: MisbehavingServer, ids: list[str]) -> None:
        self.server = server
        self.fault: Callable[[Request, Answer], Answer | None] = lambda _request, _good: None
        for name in ids:
            server.route(f"/files/{name}.jpg", self._answer)

    def _answer(self, request: Request) -> Answer:
        good = Answer(200, BODY, {"ETag": '"a"'}, ranges=True)
        return self.fault(request, good) or good

    def url(self, name: str) -> str:
        return f"{self.server.url}/files/{name}.jpg?signature=abc"


@pytest.fixture
def api() -> Iterator[Listing]:
    with MisbehavingServer() as server:
        yield Listing(server, names(COUNT))


@pytest.fixture
def store(api: Listing) -> Iterator[Store]:
    with MisbehavingServer() as server:
        made = Store(server, names(COUNT))
        for name, entry in api.entries.items():
            entry["image_direct_url"] = made.url(name)
        yield made


@pytest.fixture(params=["pillow", "dali"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[0, 2], ids=["by the feeder", "by two processes"])
def processes(request: pytest.FixtureRequest) -> int:
    """How many download for the feeder."""
    return int(request.param)


def config(api: Listing, **more: Any) -> dict[str, Any]:
    return {
        "source_config": {"api_url": api.api_url, "api_key": KEY, "page_size": 10, **more.pop("source", {})},
        "image_config": {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 16},
        "http_config": {**HASTY, "concurrent_downloads": 8, **more.pop("http", {})},
        "batch_size": 8,
        "prefetch_buffer_size": 24,
        **more,
    }


def mischief(seed: int, share: float) -> Callable[[Request, Answer], Answer | None]:
    """A fault for a share of the requests, now and then one that takes its time."""
    random = Random(seed)

    def fault(_request: Request, good: Answer) -> Answer | None:
        if random.random() >= share:
            return None
        return random.choice(RARE if random.random() < 0.02 else TRANSIENT)(good)

    return fault


@pytest.mark.parametrize("ordered", [True, False])
def test_transient_faults_cost_only_time(
    api: Listing, store: Store, backend: str, ordered: bool, processes: int
) -> None:
    api.fault, store.fault = mischief(1, 0.3), mischief(2, 0.4)
    settings = config(api, ordered=ordered, http={"download_processes": processes})
    with Loader(settings, device="cpu", backend=backend) as loader:
        delivered = [name for batch in loader for name in batch.ids]
    assert delivered == names(COUNT) if ordered else sorted(delivered) == names(COUNT)
    assert loader.stats().skipped == {}
    assert not any(KEY in str(request) for request in store.server.requests), "the key is the API's own"


PERMANENT: dict[str, tuple[Answer, str]] = {
    "404": (Answer(404, b"<Error>NoSuchKey</Error>"), "http-404"),
    "410": (Answer(410), "http-410"),
    "an error page": (Answer(200, b"<html><body>busy, come back later</body></html>"), "unknown-format"),
    "empty": (Answer(200, b""), "empty"),
    "too large by its length": (Answer(200, b"", length=10**9, close=True), "too-large"),
    "too large as it comes": (Answer(200, bytes(3 << 20), chunked=True), "too-large"),
    "a redirect to a file": (Answer(302, headers={"Location": "file:///etc/passwd"}), "redirect"),
    "a redirect loop": (Answer(302, headers={"Location": "/files/im-00048.jpg?signature=abc"}), "redirect"),
    "never whole": (Answer(200, BODY, {"ETag": "W/1"}, cut_after=100), "cut-short"),
    "always a 500": (Answer(500), "http-500"),
}


def test_permanent_faults_cost_their_samples(api: Listing, store: Store, backend: str, processes: int) -> None:
    bad = dict(zip(names(COUNT)[20::4], PERMANENT.values(), strict=False))
    assert len(bad) == len(PERMANENT)

    def fault(request: Request, _good: Answer) -> Answer | None:
        name = request.path.removeprefix("/files/").removesuffix(".jpg")
        return bad[name][0] if name in bad else None

    store.fault = fault
    settings = config(api, http={"max_payload_mb": 2, "max_tries": 3, "download_processes": processes})
    with Loader(settings, device="cpu", backend=backend) as loader:
        delivered = [name for batch in loader for name in batch.ids]
    assert delivered == [name for name in names(COUNT) if name not in bad]
    assert loader.stats().skipped == Counter(reason for _, reason in bad.values())


@pytest.mark.parametrize("how", [Answer(drop=True), Answer(503), Answer(silent=True)])
def test_a_dead_payload_server_ends_the_run_and_costs_no_sample(
    api: Listing, store: Store, how: Answer, processes: int, caplog: pytest.LogCaptureFixture
) -> None:
    """What was fetched before is delivered, the last batch short; a new run goes on from there."""
    alive = set(names(COUNT)[:44])
    store.fault = lambda request, _good: None if request.path[7:-4] in alive else how
    settings = config(api, http={"max_tries": 4, "stall_timeout_s": 0.5, "download_processes": processes})
    batches = []
    with caplog.at_level(logging.WARNING), Loader(settings, device="cpu", backend="pillow") as loader:
        expected = rf"{store.server.url}/files/im-000\d\d.jpg: .*4 tries\)"
        with pytest.raises(SourceError, match=expected) as caught:  # noqa: PT012 - what came before the error counts
            for batch in loader:
                batches.append(batch.ids)  # noqa: PERF401
        assert "no other request" in str(caught.value)
        assert "signature" not in str(caught.value)
        state = loader.state_dict()
    assert [name for batch in batches for name in batch] == names(COUNT)[:44]
    assert [len(batch) for batch in batches] == [8, 8, 8, 8, 8, 4]
    assert loader.stats().skipped == {}
    store.fault = lambda _request, _good: None
    patient = config(api, http={"stall_timeout_s": 5, "download_processes": processes})
    with Loader(patient, device="cpu", backend="pillow") as loader:
        loader.load_state_dict(state)
        assert [name for batch in loader for name in batch.ids] == names(COUNT)[44:]


def test_a_payload_that_always_fails_costs_itself_however_often_it_is_tried(
    api: Listing, store: Store, processes: int
) -> None:
    """In the end nothing else is under way, so that all the latest tries of the server have failed."""
    store.fault = lambda request, _good: Answer(500) if "im-00040" in request.path else None
    settings = config(api, http={"max_tries": 20, "max_backoff_s": 0.005, "download_processes": processes})
    with Loader(settings, device="cpu", backend="pillow") as loader:
        delivered = [name for batch in loader for name in batch.ids]
    assert delivered == [name for name in names(COUNT) if name != "im-00040"]
    assert loader.stats().skipped == {"http-500": 1}


def test_a_payload_server_that_was_down_for_a_while_costs_only_time(api: Listing, store: Store) -> None:
    left = [60]

    def fault(_request: Request, _good: Answer) -> Answer | None:
        left[0] -= 1
        return Answer(drop=True) if left[0] >= 0 else None

    store.fault = fault
    with Loader(config(api), device="cpu", backend="pillow") as loader:
        assert [name for batch in loader for name in batch.ids] == names(COUNT)
    assert loader.stats().skipped == {}


def test_stragglers_do_not_hold_up_the_stream(api: Listing, store: Store) -> None:
    """Some requests are never answered at all, and the stall limit is far away: others are made for them."""
    seen: Counter[str] = Counter()

    def fault(request: Request, _good: Answer) -> Answer | None:
        seen[request.path] += 1
        late = int(request.path[-6:-4]) in (50, 70) and seen[request.path] == 1
        return Answer(silent=True) if late else None

    store.fault = fault
    settings = config(api, http={"stall_timeout_s": 50, "total_timeout_s": 100})
    with Loader(settings, device="cpu", backend="pillow") as loader:
        assert [name for batch in loader for name in batch.ids] == names(COUNT)
    assert sum(seen.values()) >= COUNT + 2
