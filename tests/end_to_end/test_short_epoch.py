"""No epoch ends early without a word: a fault of the source is an error, and what it cost comes after a resume."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datago_gpu import Loader, SourceError, TooManyErrors
from tests.support.images import add_picture, add_pictures, file_config
from tests.support.servers import Answer, MisbehavingServer, Request, json_answer
from tests.support.shards import tar_bytes

QUICK = {"max_tries": 2, "max_backoff_s": 0.01, "concurrent_downloads": 2, "max_retry_after_s": 0}
SHARD = 5
"""Samples in each shard."""


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return add_picture(tmp_path_factory.mktemp("picture") / "a.jpg").read_bytes()


def taken(config: dict[str, Any], **more: Any) -> tuple[list[str], str, dict[str, Any]]:
    """The ids that come, the error that ends the run, and the state at its end."""
    ids: list[str] = []
    with Loader({"batch_size": 2, "http_config": QUICK, **config, **more}, device="cpu", backend="pillow") as loader:
        try:
            for batch in loader:
                ids += batch.ids
        except SourceError as error:
            return ids, str(error), loader.state_dict()
        return ids, "", loader.state_dict()


def shards(server: MisbehavingServer, picture: bytes, count: int, refusal: Callable[[int], Answer | None]) -> str:
    """The url of so many shards; the function may refuse one by its number."""
    for number in range(count):
        members = [(f"{number * SHARD + place:04}.jpg", picture) for place in range(SHARD)]
        good = Answer(200, tar_bytes(members))
        server.route(f"/s{number}.tar", lambda _request, number=number, good=good: refusal(number) or good)  # type: ignore[misc]
    return f"{server.url}/s{{0..{count - 1}}}.tar"


@pytest.mark.parametrize(("status", "word"), [(401, "renew"), (403, "renew"), (400, "renew"), (429, "limits")])
@pytest.mark.parametrize("interleave", [1, 3])
def test_a_token_that_runs_out_ends_a_run_over_shards(status: int, word: str, interleave: int, picture: bytes) -> None:
    refused = threading.Event()
    refused.set()
    with MisbehavingServer() as server:
        url = shards(server, picture, 7, lambda n: Answer(status, b"<Error/>") if refused.is_set() and n > 2 else None)
        config = {"source_type": "webdataset", "source_config": {"url": url, "interleave": interleave}}
        ids, error, state = taken(config)
        assert sorted(ids) == [f"{n:04}" for n in range(3 * SHARD)]
        assert f"http-{status}" in error
        assert word in error
        refused.clear()  # with a new token
        again, error, _ = resumed(config, state)
        assert (sorted(ids + again), error) == ([f"{n:04}" for n in range(7 * SHARD)], "")


def resumed(config: dict[str, Any], state: dict[str, Any]) -> tuple[list[str], str, dict[str, Any]]:
    ids: list[str] = []
    whole = {"batch_size": 2, "http_config": QUICK, **config}
    with Loader(whole, device="cpu", backend="pillow", state=state) as loader:
        for batch in loader:
            ids += batch.ids
        assert not loader.stats().skipped
    return ids, "", {}


def test_a_shard_that_is_refused_between_good_ones_costs_itself(picture: bytes) -> None:
    with MisbehavingServer() as server:
        url = shards(server, picture, 6, lambda n: Answer(403) if n in (1, 2, 4) else None)
        ids, error, _ = taken({"source_type": "webdataset", "source_config": {"url": url}})
        assert (len(ids), error) == (3 * SHARD, "")


def test_a_share_of_failures_counts_a_lost_shard_by_its_samples(picture: bytes) -> None:
    with MisbehavingServer() as server:
        url = shards(server, picture, 24, lambda n: Answer(404) if n % 6 == 5 else None)
        config = {"source_type": "webdataset", "source_config": {"url": url}}
        with pytest.raises(TooManyErrors, match=r"15 of 1\d\d samples were bad \(3 http-404\)"):
            taken(config, max_failures=0.1)  # 3 of 103 as shards, 15 of 115 as samples
        ids, error, _ = taken(config, max_failures=0.2)
        assert (len(ids), error) == (20 * SHARD, "")


def _page(request: Request, results: list[dict[str, str]]) -> list[dict[str, str]]:
    return [each for each in results if each["id"] > request.parameters.get("cursor", "")]


class Room:
    """A Dataroom of 80 pictures whose files are refused from number `refused` on, as long as that is set."""

    def __init__(self, server: MisbehavingServer, picture: bytes, answer: Answer) -> None:
        self.refused: int | None = 6
        results = [{"id": f"{n:04}", "source": "s", "image_direct_url": f"{server.url}/f/{n}"} for n in range(80)]
        server.route("/api/images/", lambda request: json_answer({"next": None, "results": _page(request, results)}))

        def file(request: Request) -> Answer:
            number = int(request.path.rpartition("/")[2])
            return answer if self.refused is not None and number >= self.refused else Answer(200, picture)

        for number in range(80):
            server.route(f"/f/{number}", file)
            renewed = json_answer({"image_direct_url": results[number]["image_direct_url"]})
            server.route(f"/api/images/{number:04}/", lambda _request, answer=renewed: answer)  # type: ignore[misc]
        self.config = {"source_config": {"api_url": f"{server.url}/api/", "api_key": "", "check_count": False}}


@pytest.mark.parametrize("status", [403, 404, 429])
@pytest.mark.parametrize("processes", [0, 1])
def test_payloads_that_are_refused_one_after_the_other_end_the_run(status: int, processes: int, picture: bytes) -> None:
    with MisbehavingServer() as server:
        room = Room(server, picture, Answer(status, headers={"Retry-After": "60"}))
        http = {"http_config": {**QUICK, "download_processes": processes}}
        ids, error, state = taken(room.config | http)
        assert ids == [f"{n:04}" for n in range(6)]
        assert f"64 samples in a row could not be loaded (64 http-{status})" in error
        room.refused = None
        again, _, _ = resumed(room.config | http, state)
        assert ids + again == [f"{n:04}" for n in range(80)]


def test_any_number_may_be_refused_where_the_setting_says_so(picture: bytes) -> None:
    with MisbehavingServer() as server:
        room = Room(server, picture, Answer(404))
        ids, error, _ = taken(room.config, max_refused_in_a_row=None)
        assert (len(ids), error) == (6, "")
        ids, error, _ = taken(room.config, max_refused_in_a_row=3)
        assert (len(ids), "3 samples in a row" in error) == (6, True)


def test_nothing_comes_behind_an_error(tmp_path: Path) -> None:
    """Neither the error once more nor another one, of the budget for bad samples."""
    add_pictures(tmp_path, [(40, 40)] * 2)
    (tmp_path / "0002.jpg").write_bytes(b"no picture")
    (tmp_path / "0003.jpg").symlink_to(tmp_path / "nowhere")
    config = file_config(tmp_path, max_failures=0.2, max_refused_in_a_row=1)
    with Loader(config, device="cpu", backend="pillow") as loader:
        assert next(loader).ids == ["0000.jpg", "0001.jpg"]
        with pytest.raises(SourceError, match="could not be loaded"):
            next(loader)
        assert list(loader) == []
        assert list(loader.samples()) == []


def test_a_folder_whose_mount_goes_away_ends_the_run(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    names = add_pictures(root, [(40, 40)] * 200)
    config = file_config(root, prefetch_buffer_size=8, samples_buffer_size=4, bucket_memory_mb=1)
    with Loader(config, device="cpu", backend="pillow") as loader:
        ids = list(next(loader).ids)
        root.rename(tmp_path / "gone")
        gone = r"64 samples in a row could not be loaded \(64 missing\).*file system is no longer mounted"
        with pytest.raises(SourceError, match=gone):
            ids.extend(name for batch in loader for name in batch.ids)
        state = loader.state_dict()
    (tmp_path / "gone").rename(root)
    with Loader(config, device="cpu", backend="pillow", state=state) as loader:
        assert ids + [name for batch in loader for name in batch.ids] == names


@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize("world_size", [1, 2])
def test_filters_that_nothing_passes_are_an_error(random: bool, world_size: int) -> None:
    with MisbehavingServer() as server:
        for path in ("/api/images/", "/api/images/random/"):
            server.route(path, lambda _request: json_answer({"next": None, "results": []}))
        server.route("/api/images/count/", lambda _request: json_answer({"count": 0}))
        more = {"random_sampling": True, "random_method": "server"} if random else {}
        source = {"api_url": f"{server.url}/api/", "sources": "NOPE", "rank": 0, "world_size": world_size, **more}
        ids, error, _ = taken({"source_config": source, "limit": 5})
        assert (ids, "no image passes the filters" in error, "NOPE" in error) == ([], True, True)


def test_a_rank_without_images_of_its_own_is_no_error() -> None:
    with MisbehavingServer() as server:
        server.route("/api/images/", lambda _request: json_answer({"next": None, "results": []}))
        counts = iter([0, 0, 3])
        server.route("/api/images/count/", lambda request: json_answer(
            {"count": 0 if "partition" in request.parameters else next(counts, 3) or 3}))  # fmt: skip
        source = {"api_url": f"{server.url}/api/", "rank": 0, "world_size": 2}
        assert taken({"source_config": source})[:2] == ([], "")


def test_a_server_that_limits_the_rate_is_waited_for_apart_from_the_tries(
    picture: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Longer than the tries last; the wait is told."""
    caplog.set_level(logging.WARNING, "datago_gpu")
    with MisbehavingServer() as server:
        left = [2]

        def refusal(number: int) -> Answer | None:
            if number < 2 or left[0] <= 0:
                return None
            left[0] -= 1
            return Answer(429, headers={"Retry-After": "1"})

        url = shards(server, picture, 4, refusal)
        http = {"max_tries": 1, "max_backoff_s": 0.01, "max_retry_after_s": 60}
        config = {"source_type": "webdataset", "source_config": {"url": url}, "http_config": http}
        ids, error, _ = taken(config)
        assert (sorted(ids), error) == ([f"{n:04}" for n in range(4 * SHARD)], "")


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_two_runs_end_at_the_same_place(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever is missing: the same samples come, and the same error, in the order of the listing."""
    root = tmp_path_factory.mktemp("photos")
    add_pictures(root, [(40, 40)] * 40)
    gone = data.draw(st.sets(st.integers(0, 39)), label="gone")
    for number in gone:
        (root / f"{number:04}.jpg").unlink()
        (root / f"{number:04}.jpg").symlink_to(root / "nowhere")
    config = file_config(root, max_refused_in_a_row=data.draw(st.sampled_from([3, 8])))
    runs = []
    for _ in range(2):
        with Loader(config, device="cpu", backend="pillow") as loader:
            try:
                ids = [name for batch in loader for name in batch.ids]
            except (SourceError, TooManyErrors) as error:
                ids = [re.sub("0x.*", "", str(error))]
        runs.append(ids)
    assert runs[0] == runs[1]
