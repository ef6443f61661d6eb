"""zstd, of the standard library where it has that."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["zstd_compress", "zstd_of_window"]


def zstd_compress(data: bytes, *, checksum: bool = False) -> bytes:
    """Returns one frame."""
    return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: int(checksum)})


def zstd_of_window(pieces: Iterable[bytes], window_log: int) -> bytes:
    """Returns one frame, made piece by piece, that needs a window of 2 to the power of `window_log` bytes."""
    options: dict[Any, int] = {
        zstd.CompressionParameter.compression_level: 1,
        zstd.CompressionParameter.window_log: window_log,
    }
    compressor = zstd.ZstdCompressor(options=options)
    return b"".join([*map(compressor.compress, pieces), compressor.flush()])
