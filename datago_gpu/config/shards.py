"""Settings of WebDataset shards as a source."""

from __future__ import annotations

import base64
import re
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import unquote

from msgspec import Meta

from datago_gpu.config.base import Count, Names, Natural, Settings, told, without_secrets
from datago_gpu.config.sources import Kind, RankSplit, endpoint_problem, names_in
from datago_gpu.redact import shown_address

__all__ = ["KeyDots", "WebDatasetSource", "addresses_in", "part_names", "shown_shards"]

KeyDots = Literal["first", "last"]
_SEPARATOR = re.compile(r"\[[^\]]*\]|(::)")
"""Between addresses, and what no separator stands in: the brackets of an IPv6 address."""


class WebDatasetSource(Settings, frozen=True, kw_only=True):
    """Samples in tar shards, as the WebDataset convention has them: files that share a key, one behind the other.

    Attributes:
        url: the shards: local paths (also with *, ?, `~` and `$NAME`, or a folder), http(s), s3, gs, az or hf
            addresses, with brace lists such as `train-{000000..001281}.tar`; several are separated by `::`, or a list.
            `@FILE` stands for the lines of a local file. An address that does not end like a shard is asked for a
            listing: a prefix of a bucket, or JSON over http(s).
        auth_token: sent as `Authorization: Bearer` to the http(s) origins that `url` names, and to no other.
        reference_image_type: which file of a sample is its image: its name behind the key, with or without the last
            extension ("png", "image.png", "image"). "" takes the first image.
        key_dots: which dot of a file's name ends the key of its sample: "first", as webdataset has it, or "last", for
            names such as `photo.v1.02.jpg`, where each image is a sample of its own.
        datago_form: true gives `attributes` and `sources` as datago does: every JSON, text and class file as its text,
            under its ending, and the address of the shard. `datago_gpu.compat` sets it.
        masks: further files of a sample to load as masks, named in the same way, comma-separated or a list.
        additional_images: further files to load as images, in the same way.
        latents: further files to load as arrays or bytes, in the same way.
        optional: those masks, further images and latents that a sample may lack; without any other it is skipped.
        random_sampling: true shuffles the shards, and their samples through a buffer; each epoch differs.
        shuffle_buffer: samples, with their payloads, held to draw from; fewer where they take more than `buffer_mb`.
        concurrent_downloads: shards that arrive at once. What has arrived is handed out one shard after the other.
        interleave: shards whose samples take turns. 1 hands out one shard after the other. With more, all of their
            connections bring what is needed next, and batches are mixed: for large shards from afar.
        buffer_mb: MiB that may wait in memory for their turn. While half of it is free, a shard that has arrived makes
            room for a further one.
        storage_options: for s3, gs and az: options of obstore such as {"endpoint": "http://localhost:9000"}; others
            come from the environment.
        rank: which share this process takes, as for files: whole shards where there is one for each rank, else single
            samples.
        world_size: how many processes share the shards, as for files.
        rank_split: as for files, of shards. With "listed" and fewer shards than ranks, only samples are shuffled.
    """

    place: ClassVar[str] = "source_config."
    url: Annotated[str, Meta(extra={"separator": "::"})]
    auth_token: str = ""
    reference_image_type: str = ""
    key_dots: KeyDots = "first"
    datago_form: bool = False
    masks: Names = ""
    additional_images: Names = ""
    latents: Names = ""
    optional: Names = ""
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
        token = self.auth_token.strip()
        if not (token.isascii() and token.isprintable() and " " not in token):
            return "source_config.auth_token holds blanks or characters that no token has"
        if self.interleave > self.concurrent_downloads:
            return (f"source_config.interleave ({self.interleave}) must be at most concurrent_downloads "
                    f"({self.concurrent_downloads}): raise the one or lower the other")  # fmt: skip
        names = part_names(self.masks) + part_names(self.additional_images) + part_names(self.latents)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            return f"source_config: {', '.join(map(repr, twice))} is asked for twice among masks, images and latents"
        unknown = [name for name in part_names(self.optional) if name not in names]
        if unknown:
            return (f"source_config.optional names {', '.join(map(repr, unknown))}, "
                    "which is not among masks, additional_images and latents")  # fmt: skip
        return endpoint_problem(self.storage_options)

    @property
    def parts(self) -> dict[str, Kind]:
        """What is to be loaded beside the image: name -> kind."""
        given: list[tuple[str, Kind]] = [
            (self.masks, "mask"),
            (self.additional_images, "image"),
            (self.latents, "latent"),
        ]
        return {name: kind for text, kind in given for name in part_names(text)}

    @property
    def optional_parts(self) -> dict[str, Kind]:
        """Those of `parts` that a sample may lack."""
        optional = part_names(self.optional)
        return {name: kind for name, kind in self.parts.items() if name in optional}

    def redacted(self, text: str) -> str:
        """`text` with *** for what is secret, should it be there."""
        return without_secrets(text, [self.auth_token.strip(), *self.storage_options.values(), *_passwords(self.url)])

    def __repr__(self) -> str:
        return f"WebDatasetSource({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """What rich prints, in tracebacks too: what was set, less what is secret."""
        return told(
            self,
            url=shown_shards(self.redacted(self.url)),
            auth_token="***" if self.auth_token else "",
            storage_options=dict.fromkeys(self.storage_options, "***"),
        )


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


def _passwords(url: str) -> list[str]:
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
