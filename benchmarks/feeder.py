"""The feeder alone against a bare HTTP client: what listing, checking, bucketing and packing cost on top of it.

    python -m benchmarks.feeder [--runs 3]      (needs nginx on the PATH or in /usr/sbin)

nginx on loopback serves JPEGs padded to 40 and 400 KB, and pages of a Dataroom that name them. The bare client is
aiohttp with uvloop, reading bodies and dropping them. Ours is the feeder process with its reader giving the memory back
at once: nothing is decoded; also with processes that download for it. All keep the same number of requests in flight.
"""

from __future__ import annotations

import io
import json
import shutil
from functools import partial
from pathlib import Path

from PIL import Image

from benchmarks.common import Contest, contestant, machine, material_folder, parser
from benchmarks.suite.servers import free_port, nginx

OURS = """
import sys, time
from datago_gpu.config import LoaderConfig
from datago_gpu.feeder.client import Feeder
from datago_gpu.feeder.wire import EncodedBatch, Ended, Failed, Resume
url, share, processes = sys.argv[1], float(sys.argv[5]), int(sys.argv[6])
count, concurrent, window = map(int, sys.argv[2:5])
feeder = Feeder(LoaderConfig.load({
    "source_config": {"api_url": url + "/api/", "api_key": "k", "page_size": 500, "check_count": False},
    "image_config": {"crop_and_resize": True, "default_image_size": 224},
    "http_config": {"concurrent_downloads": concurrent, "hedge_share": share, "download_processes": processes},
    "prefetch_buffer_size": window, "limit": count}), Resume())
clock, taken = 0.0, 0
while not isinstance(message := feeder.receive(), Ended):
    if isinstance(message, Failed):
        raise SystemExit(message.message)
    if isinstance(message, EncodedBatch):
        feeder.report(message.number, 0)
        if clock:
            taken += len(message.ids)
        clock = clock or time.perf_counter()
print(taken / (time.perf_counter() - clock))
feeder.close()
feeder.dispose()
"""

BARE = """
import asyncio, sys, time
import aiohttp, uvloop
url, count, concurrent = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
async def worker(session, numbers):
    for number in numbers:
        async with session.get(f"{url}/payloads/{number % 100}.jpg") as response:
            await response.read()
async def main():
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=concurrent)) as session:
        numbers = iter(range(count))
        clock = time.perf_counter()
        await asyncio.gather(*(worker(session, numbers) for _ in range(concurrent)))
        print(count / (time.perf_counter() - clock))
uvloop.run(main())
"""

PROCESSES = {"": 0, ", 1 download process": 1, ", 2 download processes": 2}
"""What is behind our name -> processes that download for the feeder."""

PAGE = 500


def padded_jpeg(size: int) -> bytes:
    """A JPEG of exactly `size` bytes, filled up with comments."""
    file = io.BytesIO()
    Image.radial_gradient("L").resize((500, 375)).convert("RGB").save(file, "JPEG", quality=85)
    jpeg, missing = file.getvalue(), size - file.tell()
    comments = b""
    while missing > 0:
        part = min(missing, 60_000) if missing - 60_000 > 4 or missing <= 60_000 else missing - 10
        comments += b"\xff\xfe" + (part - 2).to_bytes(2, "big") + bytes(part - 4)
        missing -= part
    return jpeg[:2] + comments + jpeg[2:]


def lay_out(root: Path, size: int, count: int, url: str) -> None:
    """Payloads and pages, as files."""
    shutil.rmtree(root, ignore_errors=True)  # pages of another run name another port
    for name in ("payloads", "pages"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for number in range(100):
        (root / "payloads" / f"{number}.jpg").write_bytes(padded_jpeg(size))
    (root / "pages" / "end.json").write_text(json.dumps({"next": None, "results": []}))
    for page in range(-(-count // PAGE)):
        numbers = range(page * PAGE, min(count, (page + 1) * PAGE))
        entries = [
            {
                "id": f"{number:09d}",
                "source": "nginx",
                "attributes": {"number": number},
                "tags": [],
                "image_direct_url": f"{url}/payloads/{number % 100}.jpg",
            }
            for number in numbers
        ]
        following = f"{url}/api/images/?cursor={page + 1}"
        name = f"page{page or ''}.json"
        (root / "pages" / name).write_text(json.dumps({"next": following, "results": entries}))


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--count", type=int, default=60_000, help="requests of 40 KB; a fifth as many of 400 KB")
    options.add_argument("--concurrent", type=int, default=64)
    args = options.parse_args()
    print(machine())
    results = {}
    for kilobytes, count in ((40, args.count), (400, args.count // 5)):
        port = free_port()
        url, root = f"http://127.0.0.1:{port}", material_folder(args.material) / f"nginx-{kilobytes}"
        lay_out(root, kilobytes * 1000, count, url)
        contest = Contest(f"{kilobytes} KB payloads, {args.concurrent} in flight", "requests/s", args.runs)
        given = (url, str(count), str(args.concurrent), str(2 * args.concurrent), "0.05")
        contestants = {"feeder" + name: partial(contestant, OURS, *given, str(n)) for name, n in PROCESSES.items()}
        with nginx(root, port):
            contest.hold({**contestants, "bare client": partial(contestant, BARE, *given)})
        contest.show()
        for name in contestants:
            print(f"  ratio of {name} {contest.ratio(name, 'bare client'):.2f} (target 0.70)")
        results[f"{kilobytes} KB"] = contest.figures
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(), "results": results}, indent=1))


if __name__ == "__main__":
    main()
