"""What do stragglers cost? Payloads from a server that answers one request in a hundred 2 s late, whichever it is.

    python -m tests.long.stragglers [--runs 3] [--share 0.01] [--late 2.0]

The feeder process takes 40 KB payloads in order (nothing is decoded): from the server without stragglers, with them,
and with them but without extra requests (http_config.hedge_share 0). Target: with stragglers at least 80% of the rate
without. Then the same by the HTTP client alone, for the time that a payload takes, and how many requests are extra.
All other answers take 10 to 30 ms, as those of an object store in the same region may.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from benchmarks.common import Contest, machine, parser, printed
from benchmarks.feeder import OURS, padded_jpeg

CLIENT = """
import asyncio, json, sys, time
import uvloop
from datago_gpu.config import HttpConfig
from datago_gpu.sources.http.hedge import Hedged
from datago_gpu.sources.http.client import HttpClient
url, count, concurrent, share = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[5])
config = HttpConfig(concurrent_downloads=concurrent, hedge_share=share)
seconds = []
async def worker(hedged, numbers):
    for number in numbers:
        clock = time.perf_counter()
        await hedged.get(f"{url}/{number % 100}.jpg", max_bytes=10**6)
        seconds.append(time.perf_counter() - clock)
async def main():
    async with HttpClient(config) as http:
        hedged, numbers = Hedged(http, config), iter(range(count))
        await asyncio.gather(*(worker(hedged, numbers) for _ in range(concurrent)))
    seconds.sort()
    figures = [1e3 * seconds[int(len(seconds) * share)] for share in (0.5, 0.99, 0.999)]
    print(json.dumps([*figures, 100 * hedged.extra / count]))
uvloop.run(main())
"""

CONTESTANTS = {"without stragglers": (0, 1), "with stragglers": (1, 1), "with stragglers, no extra requests": (1, 0)}
"""Name -> whether there are stragglers, whether there are extra requests."""
TARGET = 0.8
PAGE = 500


def serve(count: int, share: float, late_s: float) -> None:
    """The server's process: prints its address; the words "0" and "1" on stdin turn stragglers off and on."""
    import uvloop

    from tests.support.servers import Answer, MisbehavingServer, Request, json_answer

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


@contextmanager
def server(*arguments: float) -> Iterator[tuple[str, Callable[[int], None]]]:
    """Its address, and a function that turns stragglers off (0) and on (1)."""
    command = [sys.executable, "-m", "tests.long.stragglers", "--serve", *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        incoming, outgoing = process.stdin, process.stdout

        def stragglers(on: int) -> None:
            incoming.write(f"{on}\n")
            incoming.flush()
            outgoing.readline()

        try:
            yield outgoing.readline().strip(), stragglers
        finally:
            process.stdin.close()


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        serve(int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
        return
    options = parser(__doc__ or "")
    options.add_argument("--count", type=int, default=20_000, help="payloads a run")
    options.add_argument("--concurrent", type=int, default=64)
    options.add_argument("--share", type=float, default=0.01, help="of the answers that come late")
    options.add_argument("--late", type=float, default=2.0, help="seconds")
    args = options.parse_args()
    print(machine())
    rates = Contest("the feeder, payloads in order", "payloads/s", args.runs)
    percentiles: dict[str, list[float]] = {}
    with server(args.count, args.share, args.late) as (url, stragglers):

        def run(script: str, late: int, extra: int) -> Any:
            stragglers(late)
            count = args.count if extra else args.count // 4  # it takes long enough
            share = "0.05" if extra else "0"
            return printed(script, url, str(count), str(args.concurrent), str(4 * args.concurrent), share, "0")

        rates.hold({name: partial(run, OURS, *which) for name, which in CONTESTANTS.items()})
        for name, which in CONTESTANTS.items():
            percentiles[name] = run(CLIENT, *which)
    rates.show()
    report(rates, percentiles)
    if args.json:
        figures: dict[str, Any] = {"machine": machine(), "rates": rates.figures, "client": percentiles}
        args.json.write_text(json.dumps(figures, indent=1))


def report(rates: Contest, percentiles: dict[str, list[float]]) -> None:
    """What the target is about, and the client's figures."""
    for name in list(CONTESTANTS)[1:]:
        print(f"  ratio {rates.ratio(name, 'without stragglers'):.2f}, {name} (target {TARGET} with extra requests)")
    print("\na payload, HTTP client alone            p50 ms     p99 ms   p99.9 ms   extra requests")
    for name, (p50, p99, p999, extra) in percentiles.items():
        print(f"  {name:34} {p50:9.1f}  {p99:9.1f}  {p999:9.1f}   {extra:.2f}%")


if __name__ == "__main__":
    main()
