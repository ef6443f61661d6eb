"""Groups the files of a shard into samples, by the WebDataset convention and the settings.

A file name consists of the sample's key and the name of the part. The key is everything up to the first dot of the base
name, including folders. The rest, in lower case, is the part. The files of one sample are adjacent. For names with
further dots, the setting `key_dots` "last" makes the key end at the last dot.
"""

from __future__ import annotations

import logging
import re
from typing import Literal

from datago_gpu.config import LoaderConfig
from datago_gpu.config.file_names import EXTENSIONS
from datago_gpu.config.limits import Limits
from datago_gpu.config.settings import Kind
from datago_gpu.config.shards import KeyDots, WebDatasetSource
from datago_gpu.sources.class_labels import ClassLabels
from datago_gpu.sources.reference import (
    BAD_ATTRIBUTES,
    FURTHER_IMAGES,
    Part,
    SampleRef,
    Skipped,
    Span,
    printable_path,
    utf8_text,
)
from datago_gpu.sources.sample_info import SampleInfo
from datago_gpu.sources.webdataset.shard_attributes import attributes_of
from datago_gpu.sources.webdataset.tar import BadShard

__all__ = ["Collector", "split_name"]

logger = logging.getLogger(__name__)

_NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
_NAME_TO_LAST = re.compile(r"^((?:.*/|)[^/]+)[.]([^./]*)$")
_META = re.compile(r"__[^/]*__($|/)")
_IMAGES = frozenset(extension[1:] for extension in EXTENSIONS)
_ATTRIBUTES = frozenset(("json", "txt", "cls"))
_SORT: dict[KeyDots, str] = {
    "first": "sort the archive (tar --sort=name)",
    "last": "sort the archive; or, if names such as 'a.mask.png' are between them, set key_dots to 'first'",
}
_MOST_ROLES = 10_000
_MOST_FILES = 10_000
"""The most files of one key. More files are no real sample, and would all be held in memory."""
_MOST_KEYS = 1_000_000
"""The most keys of one shard that are remembered."""
_MOST_ATTRIBUTE_BYTES = 1024 * 1024
"""The most bytes of JSON and text of one sample: as Python objects they may take 20 times as much."""

_LACKING: dict[Kind, str] = {"mask": "no-mask", "image": "no-additional-image", "latent": "no-latent"}


def split_name(path: str, dots: KeyDots = "first") -> tuple[str, str] | None:
    """Returns key and part of a file; None if it belongs to no sample, as files whose name begins with a dot.

    With "first", the result is that of the package `webdataset`, except for names such as `a/._1.jpg`, as macOS writes
    them: that package makes a sample `a/` of them.
    """
    match = (_NAME if dots == "first" else _NAME_TO_LAST).match(path)
    if match is None or _META.match(path) or path.rpartition("/")[2].startswith("."):
        return None
    return match[1], match[2].lower()


class Collector:
    """Collects the files of one shard into samples, in their order. For each file, call `begin`, which may raise
    BadShard, and, if it says so, `keep`.

    shard: its name in messages. Holds the wanted files of one sample at a time in memory.
    """

    def __init__(self, config: LoaderConfig, shard: str) -> None:
        source = config.source_config
        assert isinstance(source, WebDatasetSource)
        self._shard = shard
        self._max_bytes = Limits.of(config).payload
        self._reference = source.reference_image_type.strip().lower().removeprefix(".")
        self._further, self._optional = source.parts, source.optional_parts
        self._dots = source.key_dots
        self._as_text = source.datago_form
        self._label, self._labels = source.label, ClassLabels.by(source)
        self._source = printable_path(shard) if source.datago_form else "webdataset"
        self._roles: dict[str, str] = {}
        self._keys: set[int] = set()
        """Hashes of the keys of this shard so far."""
        self._unsorted = False
        """Whether a key was repeated after other keys."""
        self._crowded = ""
        """The key of the first sample with several images and none requested by name."""
        self._crowded_samples = self._left_out = 0
        self._start("", "")

    def _start(self, key: str, name: str) -> None:
        self._key, self._name = key, name
        self._seen: set[str] = set()
        self._image: tuple[str, bytes, Span | None] | None = None
        self._parts: dict[str, tuple[bytes, Span | None]] = {}
        self._attributes: dict[str, bytes] = {}
        self._attribute_bytes = 0
        self._problem: tuple[str, str] | None = None
        self._further_images = 0

    def begin(self, name: str, size: int) -> tuple[SampleRef | Skipped | None, bool]:
        """Starts a file. Returns the sample that is now complete, if any, and whether the file is wanted."""
        split = split_name(name, self._dots)
        if split is None:
            return None, False
        finished = None
        if split[0] != self._key:
            finished = self.finish()
            self._start(split[0], name)
        return finished, self._wants(name, split[1], size)

    def _wants(self, name: str, part: str, size: int) -> bool:
        self._part = part
        if part in self._seen:
            self._problem = ("bad-entry", f"two files are called {utf8_text(name)!r}")
            return False
        if len(self._seen) >= _MOST_FILES:
            raise BadShard(f"more than {_MOST_FILES} files share the key {utf8_text(self._key)[:100]!r}")
        self._seen.add(part)
        role = self._role = self._role_of(part)
        if role == "reference" and not self._reference and self._image:
            self._further_images += 1
            return False
        if not role:
            return False
        if role == "attribute":
            self._attribute_bytes += size
            if self._attribute_bytes > _MOST_ATTRIBUTE_BYTES:
                detail = f"{self._attribute_bytes} bytes of attributes, at most {_MOST_ATTRIBUTE_BYTES} are allowed"
                self._problem = ("too-large", detail)
                return False
        if size > self._max_bytes:
            if role not in self._optional:
                detail = f"{utf8_text(name)!r} has {size} bytes, above http_config.max_payload_mb"
                self._problem = ("too-large", detail)
            return False
        if role == "reference":
            self._name = name
        return self._problem is None

    def refuse(self, reason: str, detail: str) -> None:
        """Reports that the content of the current file cannot be read. A sample that requires the file is skipped."""
        if self._role not in self._optional:
            self._problem = (reason, detail)

    @property
    def kind(self) -> Literal["attribute"] | Kind:
        """Returns what the current file, which is wanted, is in its sample."""
        if self._role == "reference":
            return "image"
        return "attribute" if self._role == "attribute" else self._further[self._role]

    def keep(self, content: bytes, span: Span | None = None) -> None:
        """Stores the content of the current file, and where it lies in the shard if the caller wants to know."""
        if self._role == "reference":
            self._image = self._name, content, span
        elif self._role == "attribute":
            self._attributes[self._part] = content
        else:
            self._parts.setdefault(self._role, (content, span))

    def finish(self) -> SampleRef | Skipped | None:
        """Returns the last sample; None if there is none."""
        if not self._seen:
            return None
        self._note_oddities()
        sample = self._made()
        self._start("", "")
        return sample

    def _note_oddities(self) -> None:
        """Records oddities that are no error but may be unintended, for one warning each."""
        if self._further_images:
            self._crowded = self._crowded or utf8_text(self._key)
            self._crowded_samples += 1
            self._left_out += self._further_images
        key = hash(self._key)
        if key in self._keys:
            if not self._unsorted:
                logger.warning(
                    "%s: the files of the sample %r are not consecutive, so they count as several samples: %s",
                    printable_path(self._shard), utf8_text(self._key), _SORT[self._dots],
                )  # fmt: skip
            self._unsorted = True
        elif len(self._keys) < _MOST_KEYS:
            self._keys.add(key)

    def tell_left_out(self) -> None:
        """Warns, after the last file, of the number of images that were left out."""
        if self._left_out:
            logger.warning(
                "%s: %d samples, such as %r, contain several images, and none is requested by name: the first of each "
                "is loaded, %d are left out. Set reference_image_type; or, if names contain dots, set key_dots to "
                "'last'", printable_path(self._shard), self._crowded_samples, self._crowded, self._left_out,
            )  # fmt: skip

    def _flaws(self, problem_of_attributes: str) -> dict[str, str]:
        flaws = {BAD_ATTRIBUTES: problem_of_attributes} if problem_of_attributes else {}
        if self._further_images:
            flaws[FURTHER_IMAGES] = f"{self._further_images} more images are left out: none was requested by name"
        return flaws

    def _labelled(self, attributes: bytes) -> tuple[int | None, dict[str, str]]:
        """Returns the label of the sample, and its flaws."""
        if self._label:
            return self._labels.in_attributes(attributes, self._label)
        return self._labels.of(self._attributes.get("cls", b"").decode("utf-8", "replace").strip())

    def _made(self) -> SampleRef | Skipped:
        key, where = utf8_text(self._key), f"{self._shard}!{self._name}"
        lacking = [(name, kind) for name, kind in self._further.items() if name not in self._parts]
        lacking = [(name, kind) for name, kind in lacking if name not in self._optional]
        problem = self._problem
        if problem is None and self._image is None:
            problem = ("no-image", f"wanted is {self._reference!r}" if self._reference else "")
        if problem is None and lacking:
            problem = (_LACKING[lacking[0][1]], repr(lacking[0][0]))
        if problem is not None:
            return Skipped(0, key, printable_path(where), *problem)
        assert self._image is not None
        parts = [
            Part(name, kind, where, payload=content, optional=name in self._optional, span=span)
            for name, kind in self._further.items()
            if name in self._parts
            for content, span in (self._parts[name],)
        ]
        attributes, problem_of_attributes = attributes_of(self._attributes, as_text=self._as_text)
        label, flaws = self._labelled(attributes)
        return SampleRef(
            0,
            SampleInfo(key, source=self._source, attributes=attributes, label=label),
            path=where,
            payload=self._image[1],
            parts=parts,
            flaws=flaws | self._flaws(problem_of_attributes),
            span=self._image[2],
        )

    def _role_of(self, part: str) -> str:
        """Returns the role of a part: a requested name, "reference", "attribute", or "" for none."""
        role = self._roles.get(part)
        if role is None:
            if len(self._roles) >= _MOST_ROLES:
                self._roles.clear()
            role = self._roles[part] = self._found_role(part)
        return role

    def _found_role(self, part: str) -> str:
        stem, _, extension = part.rpartition(".")
        for name in (part, stem):
            if name in self._further:
                return name
        if self._reference:
            if self._reference in (part, stem):
                return "reference"
        elif extension in _IMAGES:
            return "reference"
        return "attribute" if extension in _ATTRIBUTES else ""
