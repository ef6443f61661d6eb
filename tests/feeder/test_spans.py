"""Payloads that are parts of files, parts of bodies, and files beside addresses, all in one stream."""

from __future__ import annotations

import asyncio
from pathlib import Path

from datago_gpu.config import LoaderConfig
from datago_gpu.feeder.admitted import Admitted
from datago_gpu.feeder.fetch import Fetcher
from datago_gpu.feeder.payload_client import remote_of
from datago_gpu.feeder.window import Outcome, Waits, Window
from datago_gpu.sources.http.http_client import HttpClient
from datago_gpu.sources.reference import Part, Refs, SampleRef, Skipped, Span
from datago_gpu.sources.sample_info import SampleInfo
from tests.support.images import add_picture
from tests.support.servers import Answer, MisbehavingServer
from tests.support.tables import table_config


async def loaded(refs: list[SampleRef]) -> list[Outcome]:
    """Returns the outcomes of these samples, in their order."""
    config = LoaderConfig.load(table_config("/t.csv", top={"http_config": {"max_tries": 1}}))

    async def stream() -> Refs:
        for ref in refs:
            yield ref

    async with HttpClient(config.http_config) as http, remote_of(config, http, []) as remote:
        fetcher = Fetcher(config, remote)
        window = Window(
            stream(), fetcher, size=8, most_bytes=2**24, chunk=fetcher.chunk, workers=4, ordered=True,
            launched=lambda _: None, waits=Waits(),
        )  # fmt: skip
        async with window:
            found = [outcome async for outcomes in window.results() for outcome in outcomes]
        fetcher.close()
    return found


def test_parts_of_files_and_of_bodies(tmp_path: Path) -> None:
    picture = add_picture(tmp_path / "a.jpg").read_bytes()
    joined = tmp_path / "joined"
    joined.write_bytes(b"..." + picture + b"....")
    within, beyond = Span(3, len(picture)), Span(3, len(picture) + 9)
    with MisbehavingServer() as server:
        url = server.script("/joined", Answer(body=joined.read_bytes(), ranges=True))
        whole = server.script("/whole", Answer(body=bytes(9 * 2**20)))
        places = [
            {"path": str(joined), "span": within},
            {"path": str(tmp_path / "a.jpg")},
            {"url": url, "span": within},
            {"path": str(joined), "span": beyond},
            {"url": url, "span": beyond},
            {"url": whole, "span": Span(8 * 2**20 + 1, 9)},
            {"path": str(tmp_path / "gone.jpg"), "span": within},
            {"path": "/a\0b"},
            {"payload": picture, "path": "/held"},
        ]
        refs = [SampleRef(number, SampleInfo(str(number)), **place) for number, place in enumerate(places)]  # type: ignore[arg-type]
        refs.append(SampleRef(9, SampleInfo("9"), path=str(joined), span=within, parts=[
            Part("m", "image", path=str(joined), span=within), Part("n", "image", url=url, span=within),
            Part("o", "image", path=str(tmp_path / "gone.jpg"), optional=True),
        ]))  # fmt: skip
        found = asyncio.run(loaded(refs))
    reasons = [outcome.reason if isinstance(outcome, Skipped) else "" for outcome in found]
    assert reasons == ["", "", "", "cut-short", "cut-short", "no-ranges", "missing", "bad-path", "", ""]
    payloads = {bytes(outcome.payload) for outcome in found if isinstance(outcome, Admitted)}
    assert len(payloads) == 1
    last = found[-1]
    assert isinstance(last, Admitted)
    assert [part.name for part in last.parts] == ["m", "n"]
