"""Leaves out samples by the setting `where`: by what is known of a sample before its image is loaded or decoded."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from contextlib import aclosing
from threading import Lock
from typing import Any

import msgspec

from datago_gpu.config.expression import parse_expression
from datago_gpu.config.expression_tree import columns_in
from datago_gpu.errors import ConfigError, SourceError
from datago_gpu.redact import printable
from datago_gpu.sources.class_labels import Classified
from datago_gpu.sources.predicate import compile_predicate
from datago_gpu.sources.reference import PartlyDone, Position, Refs, SampleRef, Skipped, Source, Tally

__all__ = ["Where", "WhereSource"]

log = logging.getLogger("datago_gpu")

_JUDGED_FROM = 1000
"""A name that so many samples lack is probably misspelt."""
_SOON = 100
"""Or so many, if no sample has passed."""
_MOST_NAMES = 50
"""Names of attributes that are kept for messages."""
_OF_EVERY_SAMPLE = ("id", "source", "tags", "duplicate_state")


class Where:
    """Decides about samples, and remembers which names they have. Many threads may call `passes` at once."""

    def __init__(self, text: str) -> None:
        tree = parse_expression(text)
        self._text, self._passes = text.strip(), compile_predicate(tree, self._note_misfit)
        names = dict.fromkeys(column.name for column in columns_in(tree))
        self._lacking = {name: None for name in names if name not in _OF_EVERY_SAMPLE}
        """The names that no sample has had so far."""
        self._seen: dict[str, None] = {}
        self._misfits: dict[str, str] = {}
        self._current = ""
        self._lock = Lock()
        self.judged = self.passed = 0
        """Numbers of samples."""
        self._expected = -1
        """The number of samples to judge in the first epoch, once it is known."""

    def passes(self, sample: SampleRef) -> bool:
        """Returns whether the sample is loaded."""
        with self._lock:
            passes = self._judge(sample)
            if self.judged == self._expected and not self.passed:
                self._warn()
            return passes

    def expect(self, samples: int) -> None:
        """Logs which names no sample has, once so many samples have been judged, if none has passed."""
        with self._lock:
            self._expected = samples
            if self.judged >= samples and not self.passed:
                self._warn()

    def _judge(self, sample: SampleRef) -> bool:
        record = _Record(sample)
        self._current = sample.id
        self.judged += 1
        passes = self._passes(record.get) is True
        self.passed += passes
        if self._lacking and self.judged <= _JUDGED_FROM:
            self._note_names(record)
        return passes

    def check(self, judged_from: int = 1) -> None:
        """Raises an error if so many samples were judged, and none has passed. Else logs which names no sample has."""
        if self.judged >= judged_from and not self.passed:
            raise self._error()
        if self.judged < _JUDGED_FROM:
            self._warn()

    def _note_names(self, record: _Record) -> None:
        names = record.names()
        for name in [name for name in self._lacking if name in names or record.get(name) is not None]:
            del self._lacking[name]
        if len(self._seen) < _MOST_NAMES:
            self._seen |= dict.fromkeys(names)
        if self.judged == _JUDGED_FROM or (self.judged == _SOON and not self.passed):
            self._warn()

    def _warn(self) -> None:
        if self._lacking:
            log.warning("%s", self._lacking_words())
            self._lacking = {}

    def _error(self) -> ConfigError | SourceError:
        said = f"source_config.where ({self._text}) leaves out all of the {self.judged:,} samples"
        if self._lacking:
            return ConfigError(f"{said}: {self._lacking_words()}")
        return SourceError("; ".join([f"{said}: loosen it", *self._misfits.values()]))

    def _lacking_words(self) -> str:
        names = sorted({*_OF_EVERY_SAMPLE, *self._seen})
        name, *others = self._lacking
        also = f" (nor {', '.join(map(repr, others))})" if others else ""
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        if name in ("width", "height"):
            hint = "an index has the sizes of the pictures: datago-gpu index. "
        shown = printable(", ".join(names)) + (", ..." if len(self._seen) >= _MOST_NAMES else "")
        return (
            f"source_config.where names {name!r}{also}, which none of {self.judged:,} samples has; "
            f"{hint}the names are {shown}"
        )

    def _note_misfit(self, name: str, value: Any, used: str) -> None:
        if name not in self._misfits:
            shown, sample = printable(repr(value)[:80]), printable(self._current)
            self._misfits[name] = f"{name!r} of sample {sample!r} is {shown}, and {used}"
            log.warning("source_config.where: %s; such values count as none", self._misfits[name])


class _Record:
    """What is known of a sample, by name. What the source itself says comes before an attribute of the same name, but
    for `label`: there, the attribute may be the name of the class."""

    def __init__(self, sample: SampleRef) -> None:
        self._sample = sample
        self._attributes: dict[str, Any] | None = None

    def get(self, name: str) -> Any:
        """Returns a value, or None."""
        info = self._sample.info
        match name:
            case "id":
                return info.id
            case "tags":
                return info.tags
            case "width" | "height":
                side = self._sample.size[name == "width"]
                return side if side > 0 else self._of_attributes().get(name)
            case "source" | "duplicate_state":
                value = getattr(info, name)
                return self._of_attributes().get(name) if value in ("", None) else value
            case "label":
                given = self._of_attributes().get(name)
                return info.label if given is None and (info.label or 0) >= 0 else given
        return self._of_attributes().get(name)

    def names(self) -> Sequence[str]:
        """Returns the names of the attributes."""
        others = ["label"] if self._sample.info.label is not None else []
        others += ["height", "width"] if all(self._sample.size) else []
        return [*self._of_attributes(), *others]

    def _of_attributes(self) -> dict[str, Any]:
        if self._attributes is None:
            self._attributes = msgspec.json.decode(self._sample.info.attributes)
        return self._attributes


class WhereSource:
    """The `Source` of those samples of another one that pass. The others become `Skipped.filtered`, in their places."""

    def __init__(self, source: Source, text: str, *, judged_from: int = 1) -> None:
        """judged_from: number of samples from which it is an error if none passes: a rank may have few."""
        self.source, self._where, self._judged_from = source, Where(text), judged_from

    async def classes(self) -> list[str] | None:
        """See `Classified.classes`: those of the other source."""
        return await self.source.classes() if isinstance(self.source, Classified) else None

    @property
    def tally(self) -> Tally:
        """See `Source.tally`."""
        return self.source.tally

    @property
    def passed_over(self) -> dict[str, int]:
        """See `Source.passed_over`."""
        return self.source.passed_over

    @property
    def epoch_samples(self) -> int | None:
        """See `Source.epoch_samples`."""
        return self.source.epoch_samples

    async def refs(self, start: Position) -> Refs:
        """See `Source.refs`. Raises ConfigError or SourceError at the end of a first epoch in which nothing passes."""
        where, late, samples = self._where, False, 0
        async with aclosing(self.source.refs(start)) as refs:
            async for ref in refs:
                samples += isinstance(ref, SampleRef)
                if isinstance(ref, SampleRef) and ref.caption:
                    ref.passes, late = where.passes, True
                elif isinstance(ref, SampleRef) and not where.passes(ref):
                    yield Skipped.filtered(ref.index)
                    continue
                yield ref
        if _is_beginning(start) and late:
            where.expect(samples)
        elif _is_beginning(start):
            where.check(self._judged_from)


def _is_beginning(start: Position) -> bool:
    """Returns whether a listing from there on is the first one of a run, as a whole."""
    done = start.done if isinstance(start, PartlyDone) else []
    return not (start.epoch or start.index or any(last >= 0 for _, last in done))
