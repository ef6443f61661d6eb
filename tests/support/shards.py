"""Shards for tests: written by `tarfile`, and read through the source as a feeder reads it."""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections.abc import Iterable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from datago_gpu.config import LoaderConfig
from datago_gpu.sources import open_source
from datago_gpu.sources.http.http_client import HttpClient
from datago_gpu.sources.reference import Position, SampleRef, Skipped
from datago_gpu.sources.webdataset import shards_source
from datago_gpu.sources.webdataset.shard_reader import OpenShard

Files = Iterable[tuple[str, bytes]]


def tar_bytes(files: Files, form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of these files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, errors="surrogateescape") as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def pictures(begin: int, end: int, size: int = 3000) -> Files:
    """A .jpg (of no picture: a source looks into none) and a .cls for each number."""
    for number in range(begin, end):
        yield f"{number:04}.jpg", number.to_bytes(4, "big") * (size // 4)
        yield f"{number:04}.cls", str(number).encode()


def write_shards(root: Path, counts: Iterable[int], **more: Any) -> list[Path]:
    """Shards with so many samples each, numbered through."""
    paths, begin = [], 0
    for number, count in enumerate(counts):
        paths.append(root / f"{number:03}.tar")
        paths[-1].write_bytes(tar_bytes(pictures(begin, begin + count, **more)))
        begin += count
    return paths


def record_opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list to which the source adds each shard that it opens, by the number in the shard's name."""
    found: list[int] = []

    class Recorded(OpenShard):
        def __init__(self, address: str, *given: Any) -> None:
            found.append(int(Path(address).stem))
            super().__init__(address, *given)

    monkeypatch.setattr(shards_source, "OpenShard", Recorded)
    return found


def shard_config(url: str | Path, **more: Any) -> LoaderConfig:
    """`http` adds to http_config, all else to source_config; `seed` is the run's."""
    http = {"max_payload_mb": 1, "max_tries": 3, "max_backoff_s": 0.02, "stall_timeout_s": 2.0, **more.pop("http", {})}
    return LoaderConfig.load(
        {
            "source_type": "webdataset",
            "http_config": http,
            "seed": more.pop("seed", 0),
            "source_config": {"url": str(url), **more},
        }
    )


async def read(config: LoaderConfig, start: Position | None = None, most: int = 1 << 60) -> list[SampleRef | Skipped]:
    found: list[SampleRef | Skipped] = []
    async with (
        HttpClient(config.http_config) as http,
        aclosing(open_source(config, http).refs(start or Position())) as refs,
    ):
        async for ref in refs:
            found.append(ref)
            if len(found) >= most:
                break
    return found


def listed(url: str | Path, start: Position | None = None, **more: Any) -> list[SampleRef | Skipped]:
    return asyncio.run(read(shard_config(url, **more), start))


def keys(url: str | Path, start: Position | None = None, **more: Any) -> list[str]:
    """The ids of the samples; a Skipped is its reason."""
    return [each.id if isinstance(each, SampleRef) else each.reason for each in listed(url, start, **more)]
