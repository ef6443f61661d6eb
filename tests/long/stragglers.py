"""What do stragglers cost? Payloads from a server that answers one request in a hundred 2 s late, whichever it is.

    python -m tests.long.stragglers [--runs 3] [--share 0.01] [--late 2.0]

The feeder process takes 40 KB payloads in order (nothing is decoded): from the server without stragglers, with them,
and with them but without extra requests (http_config.hedge_share 0). Gate: with stragglers at least 80% of the rate
without. Then the same by the HTTP client alone, for the time that a payload takes, and how many requests are extra.
All other answers take 10 to 30 ms, as those of an object store in the same region may.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Any

import uvloop

from benchmarks.common import machine, parser
from benchmarks.suite.figures import Table
from benchmarks.suite.peers import OURS, find, run
from benchmarks.suite.workloads import padded_jpeg
from datago_gpu.config import HttpConfig
from datago_gpu.sources.http.hedge import HedgedClient
from datago_gpu.sources.http.http_client import HttpClient
from tests.long.child import child
from tests.support.servers import Answer, MisbehavingServer, Request, json_answer

WITHOUT, WITH, NO_EXTRA = "without stragglers", "with stragglers", {"hedge_share": 0}
CONTESTANTS: dict[str, tuple[int, dict[str, Any]]] = {
    WITHOUT: (0, {}), WITH: (1, {}), "with stragglers, no extra requests": (1, NO_EXTRA),
}  # fmt: skip
"""Name -> whether there are stragglers, settings of the client."""
PAGE = 500


def serve(count: int, share: float, late_s: float) -> None:
    """The server's process: prints its address; the words "0" and "1" on stdin turn stragglers off and on."""
    uvloop.install()
    rng, on, body = random.Random(0), False, padded_jpeg(40_000)

    def payload(_: Request) -> Answer:
        late = on and rng.random() < share
        return Answer(200, body, delay_s=late_s if late else rng.uniform(0.01, 0.03))

    def page(request: Request) -> Answer:
        first = int(request.parameters.get("cursor", 0))
        entries = [{"id": f"{number:09}", "image_direct_url": f"{server.url}/{number % 100}.jpg"}
                   for number in range(first, min(count, first + PAGE))]  # fmt: skip
        following = f"{server.url}/api/images/?cursor={first + PAGE}" if first + PAGE < count else None
        return json_answer({"next": following, "results": entries})

    with MisbehavingServer() as server:
        server.requests = deque(maxlen=1)  # type: ignore[assignment]  # they would grow for ever
        server.route("/api/images/", page)
        for number in range(100):
            server.route(f"/{number}.jpg", payload)
        print(server.url, flush=True)
        for line in sys.stdin:
            on = line.strip() == "1"
            print("so be it", flush=True)


async def client(url: str, count: int, config: HttpConfig) -> list[float]:
    """The time that a payload takes, in ms: the median, 99%, 99.9%; and the extra requests in percent."""
    seconds: list[float] = []

    async def worker(hedged: HedgedClient, numbers: Iterator[int]) -> None:
        for number in numbers:
            clock = time.perf_counter()
            await hedged.get(f"{url}/{number % 100}.jpg", max_bytes=10**6)
            seconds.append(time.perf_counter() - clock)

    async with HttpClient(config) as http:
        hedged, numbers = HedgedClient(http, config), iter(range(count))
        await asyncio.gather(*(worker(hedged, numbers) for _ in range(config.concurrent_downloads)))
    seconds.sort()
    return [*(1e3 * seconds[int(len(seconds) * share)] for share in (0.5, 0.99, 0.999)), 100 * hedged.extra / count]


def main() -> int:
    if sys.argv[1:2] == ["--serve"]:
        serve(int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
        return 0
    options = parser(__doc__ or "")
    options.add_argument("--count", type=int, default=20_000, help="payloads a run")
    options.add_argument("--concurrent", type=int, default=64)
    options.add_argument("--share", type=float, default=0.01, help="of the answers that come late")
    options.add_argument("--target", type=float, default=0.8, help="the gate: share of the rate without stragglers")
    options.add_argument("--late", type=float, default=2.0, help="seconds")
    args = options.parse_args()
    print(machine())
    rates, ours = Table("the feeder, payloads in order", "payloads/s"), find(OURS, {})
    percentiles: dict[str, list[float]] = {}

    def count(http: dict[str, Any]) -> int:
        return int(args.count // 4 if http else args.count)  # without extra requests that takes long enough

    server = child("tests.long.stragglers", "--serve", args.count, args.share, args.late)
    with server as (url, stragglers):

        def feeder(late: int, http: dict[str, Any]) -> dict[str, Any]:
            stragglers(str(late))
            options = {"http": http, "window": 4 * args.concurrent}
            spec = {"kind": "payloads", "api_url": f"{url}/api/", "concurrent": args.concurrent, "options": options}
            return run(ours, {**spec, "count": count(http)})

        rates.measure({name: partial(feeder, *which) for name, which in CONTESTANTS.items()}, args.runs)
        for name, (late, http) in CONTESTANTS.items():
            stragglers(str(late))
            config = HttpConfig(concurrent_downloads=args.concurrent, **http)
            percentiles[name] = uvloop.run(client(url, count(http), config))
    report(rates, percentiles, args.target)
    if args.json:
        figures: dict[str, Any] = {"machine": machine(), "rates": rates.runs, "client": percentiles}
        args.json.write_text(json.dumps(figures, indent=1))
    return int(rates.ratio(WITH, WITHOUT) < args.target)


def report(rates: Table, percentiles: dict[str, list[float]], target: float) -> None:
    """Prints what the target is about, and the client's figures."""
    rates.show()
    for name in list(CONTESTANTS)[1:]:
        print(f"  ratio {rates.ratio(name, WITHOUT):.2f}, {name} (gate {target:g} with extra requests)")
    print("\na payload, HTTP client alone            p50 ms     p99 ms   p99.9 ms   extra requests")
    for name, (p50, p99, p999, extra) in percentiles.items():
        print(f"  {name:34} {p50:9.1f}  {p99:9.1f}  {p999:9.1f}   {extra:.2f}%")


if __name__ == "__main__":
    sys.exit(main())
