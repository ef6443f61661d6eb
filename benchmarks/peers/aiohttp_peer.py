"""A bare aiohttp client on uvloop that reads bodies and drops them: the limit of the network side."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from harness import Spec, main


async def fetch(urls: list[str], concurrent: int, *, whole: bool = False) -> int:
    """Bytes read: piece by piece through large buffers, or `whole` bodies by the client's own."""
    import aiohttp

    total, left = 0, iter(urls)

    async def worker(session: aiohttp.ClientSession) -> None:
        nonlocal total
        for url in left:
            async with session.get(url) as response:
                response.raise_for_status()
                if whole:
                    body = await response.read()  # before `total` is looked at, which others add to meanwhile
                    total += len(body)
                else:
                    async for chunk in response.content.iter_any():
                        total += len(chunk)

    connector, buffer = aiohttp.TCPConnector(limit=concurrent), 2**16 if whole else 2**20
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=buffer) as session:
        await asyncio.gather(*(worker(session) for _ in range(concurrent)))
    return total


async def listed(spec: Spec) -> list[str]:
    """The addresses of a Dataroom's images, and of their masks."""
    import aiohttp

    urls, page = [], f"{spec.api_url}images/?page_size=500&include_fields=id,image_direct_url,latents"
    async with aiohttp.ClientSession(headers={"Authorization": f"Token {spec.api_key}"}) as session:
        while page:
            async with session.get(page) as response:
                answer = await response.json()
            for entry in answer["results"]:
                urls.append(entry["image_direct_url"])
                if spec.mask:
                    urls += [latent["file_direct_url"] for latent in entry["latents"] if latent["is_mask"]]
            page = answer["next"]
    return urls


def shards(spec: Spec) -> Iterator[Any]:
    import uvloop

    total = uvloop.run(fetch(spec.urls, 8))
    yield spec.count
    yield {"bytes": total, "first_s": None}


def dataroom(spec: Spec) -> Iterator[Any]:
    import uvloop

    async def both() -> int:
        return await fetch(await listed(spec), spec.concurrent)

    total = uvloop.run(both())
    yield spec.count
    yield {"bytes": total, "first_s": None}


def payloads(spec: Spec) -> Iterator[Any]:
    import uvloop

    urls = [spec.urls[number % len(spec.urls)] for number in range(spec.count)]
    total = uvloop.run(fetch(urls, spec.concurrent, whole=True))
    yield spec.count
    yield {"bytes": total, "first_s": None}


if __name__ == "__main__":
    main({"aiohttp": "aiohttp", "uvloop": "uvloop"}, {"shards": shards, "dataroom": dataroom, "payloads": payloads})
