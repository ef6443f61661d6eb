"""Settings of source_type "mix": several sources, whose samples are mixed by weights or by numbers of passes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from datago_gpu.config.dataroom import DataroomSource
from datago_gpu.config.image_config import ImageConfig
from datago_gpu.config.image_files import FileSource
from datago_gpu.config.sections import make_record
from datago_gpu.config.settings import Count, Kind, Natural, Settings, json_value
from datago_gpu.config.shards import WebDatasetSource
from datago_gpu.config.source_settings import SourceSettings
from datago_gpu.config.table import TableSource
from datago_gpu.config.user_source import UserSource
from datago_gpu.errors import ConfigError

__all__ = ["OVERRIDES", "PLAIN_SOURCES", "MixPart", "MixSource", "PlainSource"]

PlainSource = FileSource | DataroomSource | WebDatasetSource | TableSource | UserSource
"""The settings of a source that is not a mix."""

PLAIN_SOURCES: dict[str, type[PlainSource]] = {
    "file": FileSource,
    "db": DataroomSource,
    "webdataset": WebDatasetSource,
    "table": TableSource,
    "rows": UserSource,
}
_REPEATED = ("table", "rows", "file")
"""Source types whose number of samples is known before the first sample."""

OVERRIDES = frozenset(("crop", "crop_scale", "crop_aspect", "flip", "upscale"))
"""Settings of image_config that a source of a mix may have for itself: they choose the region that is shown, and
whether a picture is enlarged. All others decide the form of the arrays."""

_MOST_SOURCES = 100
_NAME = re.compile(r"[\w.-]{1,100}")


class MixPart(Settings, frozen=True, kw_only=True):
    """One source of a mix.

    Attributes:
        name: a name for the source, of letters, digits, `_`, `-` and `.`: messages, `stats()` and batches have it.
        source_type: as at the top level; "mix" is not allowed.
        source_config: the settings of the source, as at the top level, without `rank` and `world_size`.
        weight: the source's share of the samples, relative to the weights of the others. Default: 1. With 0 no sample
            of the source is loaded.
        repeat: number of passes through the source in each epoch, in place of `weight`, for all sources of a mix.
            The source types are "table", "file" and "rows" (of a sequence), whose numbers of samples are known.
        image_config: settings of the top level's `image_config` that the source has for itself: `crop`, `crop_scale`,
            `crop_aspect`, `flip` and `upscale`.
    """

    place: ClassVar[str] = ""
    name: str
    source_type: Literal["db", "file", "webdataset", "table", "rows"]
    source_config: PlainSource
    weight: Annotated[float, Meta(ge=0, le=1e12)] | None = None
    repeat: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    image_config: dict[str, Any] = {}  # noqa: RUF012 - msgspec copies it

    def _record(self, name: str, given: Any, kinds: list[type[Settings]]) -> Settings:
        if isinstance(given, Settings) and isinstance(given, tuple(kinds)):
            return given
        return make_record(PLAIN_SOURCES[self.source_type], name, given, lambda _: "")

    def _problem(self) -> str | None:
        wanted, source = PLAIN_SOURCES[self.source_type], self.source_config
        if not isinstance(source, wanted):
            return f"source_type {self.source_type!r} needs a {wanted.__name__}, got a {type(source).__name__}"
        if not _NAME.fullmatch(self.name):
            return f"name must be of 1 to 100 letters, digits, '_', '-' and '.', got {self.name!r}"
        if source.rank is not None or source.world_size is not None:
            return "rank and world_size belong to all sources together: set them in the source_config of the mix"
        if self.weight is not None and self.repeat is not None:
            return "has both weight and repeat: set one of the two"
        if self.repeat is not None and self.source_type not in _REPEATED:
            return (f"repeat needs a number of samples that is known before the first one, and source_type "
                    f"{self.source_type!r} has none: give all sources a weight, or make an index of this one "
                    "(datago-gpu index CONFIG --out index.arrow) and load it as a table")  # fmt: skip
        if isinstance(source, DataroomSource) and source.random_sampling and source.random_method == "server":
            return ("source_config.random_method 'server' draws samples without end, and a mix needs passes that end: "
                    "set random_method to 'shuffle'")  # fmt: skip
        return self._override_problem()

    def _override_problem(self) -> str | None:
        allowed = [name for name in ImageConfig.__struct_fields__ if name in OVERRIDES]
        own = ", ".join(allowed) or "nothing"
        for name in self.image_config:
            if name in allowed:
                continue
            if name in ImageConfig.__struct_fields__:
                return (f"image_config.{name} is for all sources, because they share the form of the arrays: set it in "
                        f"the image_config of the top level. A source may have {own} for itself")  # fmt: skip
            return f"unknown key image_config.{name}; a source may have {own} for itself"
        return None


class MixSource(SourceSettings, frozen=True, kw_only=True):
    """Several sources, mixed in shares that are exact to one sample, without any randomness.

    Attributes:
        sources: the sources, a list of MixPart or of dicts with `name`, `weight` or `repeat`, `source_type`,
            `source_config` and `image_config`.
        stop: which pass ends an epoch of sources with weights. "first": an epoch ends where the next sample would be of
            a source that has no more. "all": it ends there once each source was seen in full at least once; until then,
            a source that has no more begins its next pass. With `repeat`, an epoch ends after the passes of all.
        where: not for a mix: each source has its own.
        min_short_edge: not for a mix, as `where`.
        classes: not for a mix, as `where`. `loader.classes` needs the same classes in all sources that have any.
        rank: as for the sources: this process loads that share of each source.
        world_size: number of processes that share the samples, as for the sources.
    """

    sources: tuple[MixPart, ...]
    stop: Literal["first", "all"] = "first"
    rank: Natural | None = None
    world_size: Count | None = None

    def _check(self, name: str, wanted: Any) -> None:
        if name == "sources":
            msgspec.structs.force_setattr(self, name, _make_parts(self.sources))
        else:
            super()._check(name, wanted)

    def _problem(self) -> str | None:
        names = [part.name for part in self.sources]
        if not 0 < len(names) <= _MOST_SOURCES:
            return f"source_config.sources must have 1 to {_MOST_SOURCES} sources, got {len(names)}"
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            return f"source_config.sources: two sources have the name {twice[0]!r}"
        weighted = [part.name for part in self.sources if part.weight is not None]
        if self.repeats and weighted:
            repeated = next(part.name for part in self.sources if part.repeat is not None)
            return (f"source_config.sources: {weighted[0]!r} has a weight and {repeated!r} has repeat: set weight for "
                    "all sources, or repeat for all")  # fmt: skip
        of_sources = {"where": self.where.strip(), "min_short_edge": self.min_short_edge, "classes": self.classes}
        if misplaced := [name for name, value in of_sources.items() if value]:
            return f"source_config.{misplaced[0]} is not for a mix: set it in the source_config of each source"
        if not any(self.weights):
            return "source_config.sources: all weights are 0: set a weight above 0"
        rows = [part.name for part in self.sources if part.source_type == "rows"]
        if len(rows) > 1:
            return (f"source_config.sources: {rows[0]!r} and {rows[1]!r} are both rows of the program's own, and a "
                    "Loader takes one source of rows: give one sequence that has the rows of both")  # fmt: skip
        return self._repeat_problem() or self._difference_problem()

    def _repeat_problem(self) -> str | None:
        for part in self.sources if self.repeats else ():
            if part.source_type not in _REPEATED:
                return (f"source_config.sources: {part.name!r} has no repeat, and source_type {part.source_type!r} "
                        "cannot have it: give all sources a weight")  # fmt: skip
        return None

    def _difference_problem(self) -> str | None:
        """Returns which setting must not differ, because it decides what a batch holds."""
        for name, default in (("require_images", True), ("require_embeddings", False)):
            given = {part.name: getattr(part.source_config, name, default) for part in self.sources}
            if len(set(given.values())) > 1:
                shown = ", ".join(f"{value} for {part!r}" for part, value in given.items())
                return f"source_config.{name} must be the same for all sources of a mix, got {shown}"
        kinds: dict[str, tuple[str, Kind]] = {}
        for part in self.sources:
            for name, kind in part.source_config.parts.items():
                other, before = kinds.setdefault(name, (part.name, kind))
                if before != kind:
                    return (f"source_config.sources: {name!r} is a {before} of {other!r} and a {kind} of "
                            f"{part.name!r}: give the two different names")  # fmt: skip
        return None

    @property
    def repeats(self) -> bool:
        """Whether the mix is by numbers of passes; if not, by weights."""
        return any(part.repeat is not None for part in self.sources)

    @property
    def weights(self) -> list[float]:
        """The weight of each source; with `repeats`, its number of passes."""
        if self.repeats:
            return [part.repeat or 1 for part in self.sources]
        return [1.0 if part.weight is None else part.weight for part in self.sources]

    @property
    def require_images(self) -> bool:
        """Whether the sources load images."""
        return all(getattr(part.source_config, "require_images", True) for part in self.sources)

    @property
    def rows_part(self) -> MixPart | None:
        """The source whose rows are the program's own, if there is one."""
        return next((part for part in self.sources if part.source_type == "rows"), None)

    @property
    def has_labels(self) -> bool:
        """Whether the settings of a source ask for labels: then every batch has them."""
        return any(part.source_config.has_labels for part in self.sources)

    @property
    def parts(self) -> dict[str, Kind]:
        """What is to be loaded beside the image: name -> kind."""
        return {name: kind for part in self.sources for name, kind in part.source_config.parts.items()}

    @property
    def optional_parts(self) -> dict[str, Kind]:
        """Those of `parts` that a sample may lack: samples of one source may have what others do not."""
        required = [part.source_config.parts.keys() - part.source_config.optional_parts for part in self.sources]
        return {name: kind for name, kind in self.parts.items() if not all(name in each for each in required)}

    def redacted(self, text: str) -> str:
        """`text` with *** for what is secret in any of the sources."""
        for part in self.sources:
            text = part.source_config.redacted(text)
        return text


def _make_parts(given: object) -> tuple[MixPart, ...]:
    """Returns the checked sources of a mix. Raises ConfigError, which names the source."""
    given = json_value(given) if not isinstance(given, tuple) else given
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        raise ConfigError(f"source_config.sources must be a list of sources, got {type(given).__name__}")
    return tuple(_make_part(each, number) for number, each in enumerate(given))


def _make_part(given: object, number: int) -> MixPart:
    if isinstance(given, MixPart):
        return given
    where = f"source_config.sources[{number}]"
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where} must be a dict or MixPart, got {type(given).__name__}")
    if given.get("source_type") == "mix":
        raise ConfigError(f"{where} is itself a mix: list its sources in this mix, with their shares as weights")
    name = f" ({given['name']})" if isinstance(given.get("name"), str) and given["name"].isprintable() else ""
    if given.get("source_type") == "rows":
        given = {"source_config": {}, **given}
    try:
        return make_record(MixPart, "", given, lambda _: "")
    except ConfigError as problem:
        raise ConfigError(f"{where}{name}: {problem}") from None
