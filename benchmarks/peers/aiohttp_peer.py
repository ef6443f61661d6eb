"""A bare aiohttp client on uvloop that reads bodies and drops them: the limit of the network side."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from harness import Spec, main


async def fetch(urls: list[str], concurrent: int) -> int:
    """Bytes read."""
    import aiohttp

    total, left = 0, iter(urls)

    async def worker(session: aiohttp.ClientSession) -> None:
        nonlocal total
        for url in left:
            async with session.get(url) as response:
                response.raise_for_status()
                async for chunk in response.content.iter_any():
                    total += len(chunk)

    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=concurrent), timeout=aiohttp.ClientTimeout(total=None), read_bufsize=2**20
    ) as session:
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


if __name__ == "__main__":
    main({"aiohttp": "aiohttp", "uvloop": "uvloop"}, {"shards": shards, "dataroom": dataroom})
