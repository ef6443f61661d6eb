"""Tries the source of a config: whether it answers, accepts the key, returns samples that decode, and how fast."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace

import msgspec

from datago_gpu.config import (
    DataroomSource,
    FileSource,
    HttpConfig,
    LoaderConfig,
    TableSource,
    UserSource,
    WebDatasetSource,
)
from datago_gpu.config.proxies import Proxies
from datago_gpu.decoders.select import choose
from datago_gpu.doctor.check import Check, run_within
from datago_gpu.doctor.network import describe_route
from datago_gpu.errors import ConfigError, DatagoError, SourceError
from datago_gpu.loader import Loader
from datago_gpu.redact import shown_address
from datago_gpu.sources import open_source
from datago_gpu.sources.dataroom.pages import Entry
from datago_gpu.sources.http.failure import HttpFailure
from datago_gpu.sources.listed_images import no_images
from datago_gpu.sources.listers import open_lister
from datago_gpu.sources.passed_over import PassedOver
from datago_gpu.sources.reference import Position, SampleRef, Skipped

__all__ = ["checks"]

_MOST_COUNTED = 100_000
_BAD_REQUEST, _REFUSED = 400, (401, 403)


def checks(config: LoaderConfig, device: str, backend: str, timeout_s: float) -> Iterator[Check]:
    """Checks source, key (of a Dataroom), first sample and first batch, in this order. Stops after a failure."""
    for check in _checks(config, device, backend, timeout_s):
        yield check.redacted(config.redacted)


def _checks(config: LoaderConfig, device: str, backend: str, timeout_s: float) -> Iterator[Check]:
    config = _with_short_limits(config, timeout_s)
    found = [check for name, each in config.by_source().items() for check in _check_part(name, each, timeout_s)]
    yield from found
    if config.takes_rows or any(check.state == "fail" for check in found):
        return
    try:
        choose(device, backend)
    except ConfigError:
        return  # the back end's own line says it
    single: LoaderConfig = msgspec.structs.replace(
        config, limit=1, epochs=1, batch_size=1, batch_pixels=None, drop_last=False
    )
    first = _time_first_batch("first sample", single, device, backend, timeout_s)
    yield first
    if first.state == "ok":
        yield _time_first_batch("first batch", config, device, backend, timeout_s)


def _check_part(name: str, config: LoaderConfig, timeout_s: float) -> Iterator[Check]:
    """Checks the source, or one source of a mix. name: of the source in the mix."""
    if isinstance(config.source_config, UserSource):
        found = [Check.none("source", "rows of a program's own: only the program that gives them can try them")]
    else:
        found = list(_check_source(config, timeout_s))
    for check in found:
        yield replace(check, name=f"{check.name} of {name!r}") if name else check


def _with_short_limits(config: LoaderConfig, timeout_s: float) -> LoaderConfig:
    """Returns the config with few tries and short waits, and without side effects."""
    http = config.http_config
    quick: HttpConfig = msgspec.structs.replace(
        http,
        connect_timeout_s=min(http.connect_timeout_s, timeout_s / 4),
        stall_timeout_s=min(http.stall_timeout_s, timeout_s / 4),
        total_timeout_s=min(http.total_timeout_s, timeout_s / 2),
        max_tries=min(http.max_tries, 2),
        max_backoff_s=min(http.max_backoff_s, 1.0),
    )
    return msgspec.structs.replace(config, http_config=quick, skipped_file=None, max_failures=None)


def _check_source(config: LoaderConfig, timeout_s: float) -> Iterator[Check]:
    source = config.source_config
    try:
        if isinstance(source, DataroomSource):
            yield from run_within(timeout_s, lambda: asyncio.run(_dataroom(config, source)))
        elif isinstance(source, FileSource) and not source.is_stored:
            yield run_within(timeout_s, lambda: asyncio.run(_folder(config, source, timeout_s)))
        else:
            yield run_within(timeout_s, lambda: asyncio.run(_first_listed(config)))
    except (TimeoutError, DatagoError) as error:  # the first of which is an OSError, too
        yield Check.fail("source", str(error), "" if "pip install" in str(error) else _remedy(config))
    except OSError as error:
        yield Check.fail("source", f"{error.filename or ''}: {error.strerror}", _remedy(config))


def _remedy(config: LoaderConfig) -> str:
    source = config.source_config
    if isinstance(source, DataroomSource):
        return "check source_config.api_url (or DATAROOM_API_URL) and the network; the line 'proxy' shows the proxies"
    if isinstance(source, WebDatasetSource):
        return "check source_config.url, auth_token and the network"
    if isinstance(source, TableSource):
        return "check source_config.path, the names of its columns and, of addresses, auth_token and the network"
    return "check source_config.root_path, and that this user may read it"


async def _folder(config: LoaderConfig, source: FileSource, timeout_s: float) -> Check:
    """Counts the images, or as many as possible in half of the time limit."""
    deadline, lister = time.monotonic() + timeout_s / 2, open_lister(config)
    root, shown, images, folders, captioned = lister.root, lister.shown, 0, 0, 0
    more, passed = "", PassedOver()
    async with aclosing(lister.pages(b"", passed)) as pages:
        async for page in pages:  # each with the images of one folder
            images, folders = images + len(page.names), folders + bool(page.names)
            captioned += sum(map(bool, page.extras))
            if images >= _MOST_COUNTED or (images and time.monotonic() > deadline):
                more = "at least "
                break
    if images:
        where = "1 folder" if folders == 1 else f"{folders:,} folders"
        told = passed.description(root)
        others = f"; passed over: {told}" if told else ""
        classes = await lister.classes()
        labelled = f" and {len(classes):,} classes" if classes else ""
        labelled += f", {captioned:,} with captions," if source.captions else ""
        return Check.ok("source", f"{more}{images:,} images in {where}{labelled} below {shown}{others}")
    return Check.fail("source", str(no_images(root, shown, source.selection, passed)), "check source_config.root_path")


async def _dataroom(config: LoaderConfig, source: DataroomSource) -> list[Check]:
    """Yields two checks: whether the server answers, and whether it accepts the key."""
    from datago_gpu.sources.dataroom.api import DataroomApi
    from datago_gpu.sources.http.http_client import HttpClient

    async with HttpClient(config.http_config) as http:
        api = DataroomApi(source, config.http_config, http)
        address = shown_address(api.base)
        try:
            page = await api.page(api.address("images/", {**source.filters(), "fields": "id", "page_size": "1"}))
        except SourceError as error:
            status = error.__cause__.status if isinstance(error.__cause__, HttpFailure) else 0
            if status == _BAD_REQUEST:
                return [Check.fail("source", str(error), "correct the filters in source_config")]
            if status not in _REFUSED:
                raise
            reached = Check.ok("source", f"{address} answers")
            return [reached, Check.fail("API key", str(error), "ask the operator of the server for a key")]
        count = await api.count(source.filters())
    says = "does not report how many images pass the filters" if count is None else f"{count:,} images pass the filters"
    key = Check.ok("API key", "accepted" if source.key else "none is set, and the server requires none")
    if not page.results:
        empty = Check.fail("source", f"{address} answers, but no image passes the filters", "loosen the filters")
        return [empty, key]
    first = page.results[0]
    payload = api.payload_address(first.image_direct_url or "") if isinstance(first, Entry) else None
    return [Check.ok("source", f"{address} answers: {says}"), key, *_check_payload_host(payload, config)]


def _check_payload_host(address: str | None, config: LoaderConfig) -> Iterator[Check]:
    """Reports how the host of the first payload is accessed, if there is a proxy."""
    proxies = Proxies(config.http_config.proxy, trust_env=config.http_config.trust_env)
    if proxies and address:
        yield Check.ok("proxy of payloads", describe_route(address, proxies))


async def _first_listed(config: LoaderConfig) -> Check:
    """Reads the first sample of shards or object storage, without a shuffle, which would read far ahead."""
    from datago_gpu.sources.http.http_client import HttpClient

    plain = config.with_source(random_sampling=False, where="")
    began = time.perf_counter()
    async with HttpClient(plain.http_config) as http, aclosing(open_source(plain, http).refs(Position())) as refs:
        async for ref in refs:
            if isinstance(ref, Skipped) and ref.index < 0:
                return Check.fail("source", f"{ref.where}: {ref.reason} {ref.detail}", _remedy(config))
            return Check.ok("source", f"{_describe(ref)} arrived after {time.perf_counter() - began:.1f} s")
    return Check.fail("source", "the source contains no samples", _remedy(config))


def _describe(ref: SampleRef | Skipped) -> str:
    return f"sample {ref.id!r} of {ref.where}"


def _time_first_batch(name: str, config: LoaderConfig, device: str, backend: str, timeout_s: float) -> Check:
    """Makes a loader and measures the time to its first batch."""
    began = time.perf_counter()
    try:
        with Loader(config, device=device, backend=backend) as loader:
            timer = threading.Timer(timeout_s, loader.close)
            timer.daemon = True
            timer.start()
            try:
                batch = next(loader, None)
            finally:
                timer.cancel()
            seconds, stats = time.perf_counter() - began, loader.stats()
    except DatagoError as error:
        return Check.fail(name, str(error), "check that sample, or look at the source with datago-gpu preview")
    skipped = ", ".join(f"{count} {reason}" for reason, count in stats.skipped.items())
    skipped = f"; skipped before: {skipped}" if skipped else ""
    if batch is not None and name == "first sample":
        height, width = batch[0].original_size
        return Check.ok(name, f"{batch.ids[0]!r}, {width} x {height} px, decoded after {seconds:.1f} s{skipped}")
    if batch is not None:
        bucket = f" of {batch.bucket[1]} x {batch.bucket[0]}" if batch.bucket else ""
        return Check.ok(name, f"{len(batch)} samples{bucket} after {seconds:.1f} s{skipped}")
    if seconds < timeout_s:
        return Check.fail(
            name, f"the source ended before that{skipped}", "with drop_last, only full batches are delivered"
        )
    fetched = sum(stage.items for stage in stats.stages if stage.name == "fetch")  # not there before anything came
    found = f"none within {timeout_s:g} s; {fetched} samples were loaded{skipped}"
    return Check.warn(
        name,
        found,
        "a batch is complete when its bucket is full: use smaller batches or fewer buckets, or raise --timeout",
    )
