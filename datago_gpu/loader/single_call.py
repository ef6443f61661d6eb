"""Decodes images in a single call, without a Loader: on threads of this process, or with DALI, and without any further
process. Checks, crops and pixels are those of a Loader with the same settings.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

from msgspec import structs

from datago_gpu.config import DecodeConfig, ImageConfig, LoaderConfig
from datago_gpu.config.limits import Limits
from datago_gpu.decoders.select import Backend, choose
from datago_gpu.decoders.threads import decoding_threads, pillow_threads
from datago_gpu.errors import ConfigError, DecodeError
from datago_gpu.feeder.admit import Admission
from datago_gpu.feeder.admitted import Admitted
from datago_gpu.feeder.message import Layout
from datago_gpu.feeder.wire import Counts, Mark
from datago_gpu.imaging.allowance import Allowance
from datago_gpu.loader.assembly_maker import assembly_maker
from datago_gpu.loader.row_packing import bytes_in
from datago_gpu.sources.reference import Position, SampleRef, Skipped
from datago_gpu.sources.sample_info import SampleInfo

if TYPE_CHECKING:
    from datago_gpu.batch import Batch

__all__ = ["decode"]

_MOST = 4096
"""The most images of a batch, as of `batch_size`."""
_NO_ARENA_MB = 2**20
"""A single call has no arena that pictures must fit into."""


def decode(
    payloads: Iterable[bytes | bytearray | memoryview],
    image_config: ImageConfig | Mapping[str, Any] | None = None,
    device: object = "auto",
    backend: str | None = "auto",
    *,
    on_error: Literal["raise", "skip"] = "raise",
    decode_config: DecodeConfig | Mapping[str, Any] | None = None,
) -> Batch:
    """Decodes some encoded images to a Batch, with the pixels that a Loader with these settings gives.

    payloads: up to 4,096 encoded images (JPEG, PNG, ...): bytes, or other buffers of single bytes.
    image_config, decode_config: as in a LoaderConfig. `processes` and `prefetch` have no effect.
    device, backend: as for a Loader.
    on_error: what to do about an image that cannot be decoded. "raise": DecodeError for the first one found. "skip":
        leave it out; DecodeError only if none is left.

    The ids of the Batch are the positions in `payloads`, as text. With `crop_and_resize`, `image` is one array if all
    images have the same bucket, else a list, and `bucket` is None. For one array in any case, give `min_aspect_ratio`
    and `max_aspect_ratio` the same value, such as 1.0.

    All work is done in this process, and no thread stays behind. Any thread may call this, also several at once. Each
    call makes its decoder anew, with DALI a pipeline: for a stream of images, a Loader is faster.

    Raises DecodeError, whose `id` is the position, and ConfigError if the arguments cannot work.

    >>> from pathlib import Path
    >>> payloads = [Path(f"photos/{name}.jpg").read_bytes() for name in ("astronaut", "blossom")]
    >>> batch = decode(payloads, {"crop_and_resize": True, "default_image_size": 256}, device="cpu")
    >>> batch.image.shape, batch.ids
    ((2, 256, 256, 3), ['0', '1'])
    """
    if on_error not in ("raise", "skip"):
        raise ConfigError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
    encoded = _check(payloads)
    chosen = choose(device, backend)
    config = _config(image_config, decode_config, chosen, len(encoded))
    bad: dict[int, DecodeError] = {}
    admitted = []
    for outcome in _admit(config, encoded):
        if isinstance(outcome, Admitted):
            admitted.append(outcome)
        else:
            bad[outcome.index] = DecodeError(outcome.id, outcome.where, outcome.reason, outcome.detail)
    _raise_first(bad, on_error, all_bad=not admitted)
    batch, failures = _decode(config, chosen, admitted)
    for at, problem in failures.items():
        ref = admitted[at].ref
        bad[ref.index] = DecodeError(ref.id, ref.where, "undecodable", problem)
    _raise_first(bad, on_error, all_bad=batch is None)
    assert batch is not None
    return batch


def _check(payloads: Iterable[bytes | bytearray | memoryview]) -> list[bytes]:
    """Returns the payloads as a list of bytes. Raises ConfigError."""
    if isinstance(payloads, bytes | bytearray | memoryview | str):
        raise ConfigError(f"payloads must be a list of encoded images, got {type(payloads).__name__}: use [payload]")
    encoded = []
    for at, payload in enumerate(payloads):
        found = bytes_in(payload)
        if found is None:
            raise ConfigError(f"payloads[{at}] must be the bytes of an encoded image, got {type(payload).__name__}")
        encoded.append(bytes(found))
    if not encoded:
        raise ConfigError("payloads is empty")
    if len(encoded) > _MOST:
        raise ConfigError(f"payloads has {len(encoded)} images, but a call takes at most {_MOST}: use several calls")
    return encoded


def _config(image: object, decode: object, backend: Backend, count: int) -> LoaderConfig:
    given = {"image_config": image, "decode_config": decode, "batch_size": count, "arena_mb": _NO_ARENA_MB}
    config = LoaderConfig.load_for_rows({name: value for name, value in given.items() if value is not None})
    if backend.name != "pillow":
        return config
    threads = min(count, pillow_threads(config.decode_config))  # not one that would have nothing to do
    return structs.replace(config, decode_config=structs.replace(config.decode_config, threads=threads))


def _admit(config: LoaderConfig, encoded: list[bytes]) -> list[Admitted | Skipped]:
    """Checks the payloads. Decodes those for which the header does not decide, on threads."""
    admission = Admission(config, Allowance(Limits.of(config).decoding))
    refs = [SampleRef(at, SampleInfo(str(at)), url=f"payloads[{at}]") for at in range(len(encoded))]
    found = list(map(admission.quick, refs, encoded))
    left = [at for at, outcome in enumerate(found) if outcome is None]
    if left:
        with ThreadPoolExecutor(min(len(left), decoding_threads(config.decode_config))) as threads:
            outcomes = threads.map(lambda at: admission.thorough(refs[at], encoded[at]), left)
            for at, outcome in zip(left, outcomes, strict=True):
                found[at] = outcome
    return [outcome for outcome in found if outcome is not None]


def _decode(config: LoaderConfig, backend: Backend, admitted: list[Admitted]) -> tuple[Batch | None, dict[int, str]]:
    """Returns the Batch, and index -> problem of each image that is not in the Batch."""
    if len({sample.bucket for sample in admitted}) > 1:
        if config.image_config.views:
            raise ConfigError(
                "image_config.views makes a dense array of each view, but these images have different buckets: give "
                "min_aspect_ratio and max_aspect_ratio the same value, such as 1.0, or leave views out"
            )
        config = structs.replace(config, image_config=structs.replace(config.image_config, mixed_buckets=True))
    layout = Layout(admitted)
    memory = mmap.mmap(-1, layout.size)
    for place, payload in zip(layout.places, layout.payloads, strict=True):
        memory[place : place + len(payload)] = payload
    assembly = assembly_maker(backend, config, None)()
    try:
        assembly.submit(layout.message(0, 0, 0, Mark(Position()), [], Counts()), memory)
        assembled = assembly.collect()
    finally:
        assembly.close()
    return assembled.batch, assembled.failures


def _raise_first(bad: dict[int, DecodeError], on_error: str, *, all_bad: bool) -> None:
    if bad and (on_error == "raise" or all_bad):
        raise bad[min(bad)]
