"""Whether DALI can parse every header that the feeder lets pass, and reads the same size.

    python -m tests.long.headers [--seconds 60] [--seed 0]

DALI 2.4 fails a whole batch at a header that it cannot parse, and after a few of these in large batches the process
dies. So the feeder's own reader must be the stricter one: what it calls plain goes to DALI without another look. This
script makes damaged JPEGs, PNGs and WebPs without end: bytes are changed, put in and taken out, whole segments and
chunks are put in. It asks nvImageCodec, which is DALI's reader, about those that the feeder lets pass. nvImageCodec
writes to stderr, in red, whenever it refuses one.
"""

from __future__ import annotations

import random
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator

from benchmarks.common import machine, parser
from datago_gpu.decoders.nvcheck import header_problem
from datago_gpu.imaging.header import read_header
from tests.long.mutations import good_files

__all__ = ["disagreements", "mutants"]

_MARKERS = (*range(0xC0, 0x100), 0, 1)
_CHUNKS = (b"eXIf", b"tEXt", b"tRNS", b"PLTE", b"IDAT", b"IEND", b"IHDR", b"gAMA", b"iTXt", b"fcTL", b"zzZz")
_WEBP_CHUNKS = (b"VP8 ", b"VP8L", b"VP8X", b"EXIF", b"XMP ", b"ICCP", b"ALPH", b"ANIM", b"junk")


def mutants(seed: int = 0) -> Iterator[bytes]:
    """Damaged files without end. The same seed makes the same files."""
    rng, files = random.Random(seed), list(good_files(48).values())
    while True:
        data = bytearray(rng.choice(files))
        for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
            rng.choice((_change, _change, _cut, _insert, _insert_part))(rng, data)
        yield bytes(data)


def disagreements(payloads: Iterator[bytes]) -> Iterator[tuple[bytes, str | None]]:
    """Yields each payload that the feeder lets pass, as it goes on to DALI, and what DALI says against it."""
    for payload in payloads:
        header = read_header(payload)
        if header.plain:
            tidy = header.tidy(payload)
            yield tidy, header_problem(tidy, *header.upright_size)


def _place(rng: random.Random, data: bytearray) -> int:
    return rng.randrange(min(len(data), rng.choice((40, 200, 1000, len(data)))))


def _change(rng: random.Random, data: bytearray) -> None:
    at = _place(rng, data)
    data[at] = rng.choice((rng.randrange(256), data[at] ^ 1 << rng.randrange(8), 0, 0xFF))


def _cut(rng: random.Random, data: bytearray) -> None:
    if len(data) > 80:
        at = _place(rng, data)
        del data[at : at + rng.choice((1, 2, 4, 16))]


def _insert(rng: random.Random, data: bytearray) -> None:
    at = _place(rng, data)
    data[at:at] = bytes(rng.choice((0, 0xFF, 0xD8, 0xE1, rng.randrange(256))) for _ in range(rng.choice((1, 2, 4))))


def _insert_part(rng: random.Random, data: bytearray) -> None:
    """Put in a segment or a chunk, at its place in most cases, and of the length that it tells in most cases."""
    body = rng.choice((b"", b"Exif\0\0", b"Adobe", b"Exif\0\0II*\0\x08\0\0\0\0\0", b"\x08\0\x10\0\x10\x01\x01\x11\0"))
    body += rng.randbytes(rng.choice((0, 0, 1, 6, 7, 20)))
    size = len(body) + rng.choice((0, 0, 0, -1, 1, 2, -7, 60_000))
    if data.startswith(b"\x89PNG"):
        name = rng.choice(_CHUNKS)
        part = struct.pack(">I", size & 0xFFFFFFFF) + name + body + struct.pack(">I", zlib.crc32(name + body))
        places = [8, 33, max(8, len(data) - 12)]
    elif data.startswith(b"RIFF"):
        part = rng.choice(_WEBP_CHUNKS) + struct.pack("<I", size & 0xFFFFFFFF) + body
        places = [12, 30, len(data)]
    else:
        part = struct.pack(">BBH", 0xFF, rng.choice(_MARKERS), size + 2 & 0xFFFF) + body
        scan = data.find(b"\xff\xda")
        places = [2, max(2, scan), len(data)]
    at = rng.choice((*places, _place(rng, data)))
    data[at:at] = part


def main() -> None:
    options = parser(__doc__ or "", runs=1)
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--seed", type=int, default=0)
    args = options.parse_args()
    print(machine())
    tried, passed, refused, end = 0, 0, Counter[str](), time.perf_counter() + args.seconds

    def until_the_end() -> Iterator[bytes]:
        nonlocal tried
        for payload in mutants(args.seed):
            if time.perf_counter() > end:
                return
            tried += 1
            yield payload

    for payload, problem in disagreements(until_the_end()):
        passed += 1
        if problem:
            refused[problem] += 1
            print(f"{problem}: {payload[:64].hex()}... ({len(payload)} bytes)")
    print(f"\n{tried} damaged files, {passed} passed by the feeder, {refused.total()} of them refused by DALI")
    sys.exit(bool(refused))


if __name__ == "__main__":
    main()
