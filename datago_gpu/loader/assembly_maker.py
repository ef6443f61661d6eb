"""Sets up decoding: in decode processes, or in this process by threads or DALI."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from msgspec import structs

from datago_gpu.config import LoaderConfig
from datago_gpu.config.limits import Limits, decode_processes
from datago_gpu.decoders.select import Backend
from datago_gpu.errors import FeederError
from datago_gpu.feeder.decoding.decode_pool import Pool
from datago_gpu.feeder.decoding.plan_sizes import plan_for

if TYPE_CHECKING:
    from datago_gpu.decoders.decoder import Decoder
    from datago_gpu.loader.assembly import Assembly
    from datago_gpu.loader.gray import GrayImages

__all__ = ["assembly_maker", "make_pool"]

log = logging.getLogger("datago_gpu")

_TOO_LARGE = frozenset((errno.EFBIG, errno.ENOMEM))
"""The errnos where a limit of this process (ulimit -f, ulimit -v) allows no memory of this size."""

_MakeDecoder: TypeAlias = "Callable[[str], Decoder]"
"""Makes a decoder: see `Assembly`."""


def make_pool(backend: Backend, config: LoaderConfig) -> Pool | None:
    """Makes the pool of decode processes. Returns None if threads or DALI decode."""
    processes = decode_processes(config.decode_config) if backend.name == "pillow" else 0
    if not processes:
        return None
    try:
        return Pool(plan_for(config, processes))
    except FeederError as error:
        reason = str(error)
    except OSError as error:
        if error.errno not in _TOO_LARGE:
            raise FeederError(f"the decode processes cannot be started: {error}") from error
        reason = f"the memory that they share with the trainer cannot be had ({error.strerror})"
    log.warning("threads decode in place of %d processes: %s", processes, reason)
    return None


def assembly_maker(backend: Backend, config: LoaderConfig, pool: Pool | None) -> Callable[[], Assembly]:
    """Imports the decoder and numpy, and returns a function that makes the Assembly. Raises ConfigError.

    Call this while the feeder starts, which takes as long as the imports. Call it on the trainer's thread: a process
    forked while another thread imports a module gets half of that module.
    """
    from datago_gpu.decoders.make import make_placer
    from datago_gpu.loader.assembly import Assembly

    begin, source = _in_processes(config, pool) if pool else _in_this_process(backend, config), config.source_config
    gray = _gray_images(config) if config.lockstep else None
    return lambda: Assembly(
        begin(),
        make_placer(backend),
        source.optional_parts,
        parts=source.parts,
        gray=gray,
        bfloat16=config.image_config.dtype == "bfloat16",
        seed=config.seed,
        labels=source.has_labels,
    )


def _gray_images(config: LoaderConfig) -> GrayImages:
    from datago_gpu.loader.gray import GrayImages  # imports Pillow, which this process often needs for nothing else

    return GrayImages(config.image_config)


def _in_processes(config: LoaderConfig, pool: Pool) -> Callable[[], _MakeDecoder]:
    from datago_gpu.feeder.decoding.jobs import Jobs
    from datago_gpu.feeder.decoding.process_decoder import ProcessDecoder

    def begin() -> _MakeDecoder:
        jobs = Jobs(pool)
        return lambda kind: ProcessDecoder(jobs, config.image_config, config.decode_config, mask=kind == "mask")

    return begin


def _in_this_process(backend: Backend, config: LoaderConfig) -> Callable[[], _MakeDecoder]:
    from datago_gpu.decoders.make import load_decoder, make_decoder
    from datago_gpu.decoders.threads import pillow_threads
    from datago_gpu.imaging.allowance import Allowance

    load_decoder(backend)
    image, decode = structs.replace(config.image_config, flip=config.highest_flip), config.decode_config

    def begin() -> _MakeDecoder:
        memory = Allowance(Limits.of(config).decoding, pillow_threads(decode))

        def make(kind: str) -> Decoder:
            shown = image if kind == "views" else image.of_view(0)
            return make_decoder(backend, shown, decode, config.most_samples, mask=kind == "mask", memory=memory)

        return make

    return begin
