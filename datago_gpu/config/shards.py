"""Settings of WebDataset shards as a source."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal
from urllib.parse import unquote

from msgspec import Meta

from datago_gpu.config.settings import Count, Kind, Names, Natural, RankSplit, names_in
from datago_gpu.config.source_settings import SourceSettings, hidden, kinds_of, parts_problem, token_problem
from datago_gpu.config.storage import endpoint_problem
from datago_gpu.redact import shown_address

__all__ = ["KeyDots", "WebDatasetSource", "addresses_in", "part_names", "passwords_in", "shown_shards"]

KeyDots = Literal["first", "last"]
_SEPARATOR = re.compile(r"\[[^\]]*\]|(::)")
"""Between addresses, and what no separator stands in: the brackets of an IPv6 address."""


class WebDatasetSource(SourceSettings, frozen=True, kw_only=True):
    """Samples in tar shards, as the WebDataset convention has them: files that share a key, one behind the other.

    Attributes:
        url: the shards: local paths or folders (with `*`, `?`, `~` and `$NAME`), or addresses (http, https, s3, gs, az,
            hf). Lists in braces are expanded: `train-{000000..001281}.tar`. Several entries are separated by `::` or
            given as a list. `@FILE` stands for the lines of a local file. An address that does not end like a shard is
            listed: a prefix of object storage, or a JSON listing over http(s).
        auth_token: token sent as `Authorization: Bearer` to the http(s) origins in `url`, to no other origin, and not
            after a redirect to another origin. Default for addresses of Hugging Face: the environment variable
            HF_TOKEN, else the token of `hf auth login`.
        reference_image_type: which file of a sample is its image: the part of the file name after the key, with or
            without the last extension ("png", "image.png", "image"). "": the first image.
        key_dots: which dot of a file name ends the key of the sample. "first": as in webdataset. "last": for names such
            as `photo.v1.02.jpg`, where each image is its own sample.
        datago_form: true returns `attributes` and `sources` as datago does: the text of each JSON, text and class file
            under its extension, and the address of the shard. Set by `datago_gpu.compat`.
        masks: files of a sample to load as masks: the part of the file name after the key, comma-separated or a list.
        additional_images: files of a sample to load as additional images, named as in `masks`.
        latents: files of a sample to load as arrays or bytes, named as in `masks`.
        optional: names from `masks`, `additional_images` and `latents` that a sample may lack. Samples without one of
            the other names are skipped.
        where: which samples are loaded, as an expression over `id` and what the JSON of a sample holds:
            `similarity > 0.3 and width >= 512`. Shards are read whole: this saves decoding, not downloading.
            `stats().filtered` counts the samples left out. "": all samples.
        label: attribute that is the class of a sample: a whole number, or one of `classes`. `Batch.labels` has its
            number. "": the `.cls` file, for samples that have one.
        classes: names of the classes in the order of their labels, as a list, or as text with one name on each line.
        random_sampling: true shuffles the shards, and then their samples through a buffer. Each epoch has another
            order.
        shuffle_buffer: number of samples, with their payloads, in the shuffle buffer. Fewer if they take more than
            `buffer_mb`.
        concurrent_downloads: number of shards that are downloaded at the same time. Samples are delivered shard by
            shard, unless `interleave` is above 1.
        interleave: number of shards from which samples are taken in turn. 1: one shard after the other. Use more for
            large remote shards: all connections then download what is needed next, and batches are mixed.
        buffer_mb: memory limit in MiB for data downloaded before it is needed. While less than half is used, another
            shard is opened when one is complete.
        storage_options: options of obstore for s3, gs and az, such as `{"endpoint": "http://localhost:9000"}`. Other
            options are read from the environment.
        min_short_edge: minimum length of the shorter side, in pixels. Smaller images are skipped: `too-small` in
            `stats().skipped`. 0: no minimum.
        rank: the share of the shards that this process loads, as for files. If there are fewer shards than processes,
            single samples are shared.
        world_size: number of processes that share the shards, as for files.
        rank_split: what the ranks share in a shuffle, as for files. With "listed" and fewer shards than processes, only
            samples are shuffled.
    """

    url: Annotated[str, Meta(extra={"separator": "::"})]
    auth_token: str = ""
    reference_image_type: str = ""
    key_dots: KeyDots = "first"
    datago_form: bool = False
    masks: Names = ""
    additional_images: Names = ""
    latents: Names = ""
    optional: Names = ""
    label: str = ""
    random_sampling: bool = False
    shuffle_buffer: Count = 1000
    concurrent_downloads: Count = 8
    interleave: Count = 1
    buffer_mb: Count = 256
    storage_options: dict[str, str] = {}  # noqa: RUF012 - msgspec copies it
    rank: Natural | None = None
    world_size: Count | None = None
    rank_split: RankSplit = "shuffled"

    def _problem(self) -> str | None:
        if not self.url.strip():
            return "source_config.url is empty: name the shards, such as '/data/train-{0000..0127}.tar'"
        if problem := token_problem(self.auth_token):
            return problem
        if self.interleave > self.concurrent_downloads:
            return (f"source_config.interleave ({self.interleave}) must be at most concurrent_downloads "
                    f"({self.concurrent_downloads}): raise concurrent_downloads or lower interleave")  # fmt: skip
        names = part_names(self.masks) + part_names(self.additional_images) + part_names(self.latents)
        if problem := parts_problem(names, part_names(self.optional)):
            return problem
        return endpoint_problem(self.storage_options)

    @property
    def has_labels(self) -> bool:
        """Whether the settings ask for labels."""
        return bool(self.label or self.classes)

    @property
    def parts(self) -> dict[str, Kind]:
        """What is to be loaded beside the image: name -> kind."""
        return kinds_of(*map(part_names, (self.masks, self.additional_images, self.latents)))

    @property
    def optional_parts(self) -> dict[str, Kind]:
        """Those of `parts` that a sample may lack."""
        optional = part_names(self.optional)
        return {name: kind for name, kind in self.parts.items() if name in optional}

    def _secrets(self) -> Iterable[str]:
        return [self.auth_token.strip(), *self.storage_options.values(), *passwords_in(self.url)]

    def _shown(self) -> dict[str, Any]:
        return {
            "url": shown_shards(self.redacted(self.url)),
            "auth_token": "***",
            "storage_options": hidden(self.storage_options),
        }


def part_names(text: str) -> list[str]:
    """The names of a comma-separated list, in lower case as those of a sample's files are."""
    return [name.lower().removeprefix(".") for name in names_in(text)]


def addresses_in(url: str) -> list[str]:
    """The addresses that the setting `url` holds, as they are given."""
    begin, found = 0, []
    for match in _SEPARATOR.finditer(url):
        if match[1]:
            found.append(url[begin : match.start()].strip())
            begin = match.end()
    return [*found, url[begin:].strip()]


def without_login(address: str) -> tuple[str, str]:
    """An http(s) address without the name and the password that it may hold, and the header that these mean, if any."""
    scheme, _, rest = address.partition("://")
    authority, slash, path = rest.partition("/")
    login, _, host = authority.rpartition("@")
    if not login:
        return address, ""
    name, _, password = login.partition(":")
    proof = base64.b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode("ascii")
    return f"{scheme}://{host}{slash}{path}", f"Basic {proof}"


def passwords_in(url: str) -> list[str]:
    """What a message must not show of the setting `url`: each password, as given and as meant, and its header."""
    found = []
    for address in addresses_in(url):
        _, login = without_login(address)
        if login:
            given = address.partition("://")[2].partition("/")[0].rpartition("@")[0].partition(":")[2]
            found += [given, unquote(given), login.removeprefix("Basic ")]
    return [each for each in found if each]


def shown_shards(url: str) -> str:
    """The setting `url` as it may be shown: without queries and passwords."""
    return "::".join(each if _is_local(each) else shown_address(each) for each in addresses_in(url))


def _is_local(address: str) -> bool:
    return "://" not in address or address.strip().startswith("file://")
