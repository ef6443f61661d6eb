"""Turns what a source says about the class of a sample into the sample's label."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self, runtime_checkable

import msgspec

from datago_gpu.config.source_settings import SourceSettings
from datago_gpu.errors import ConfigError
from datago_gpu.sources.attributes import NO_ATTRIBUTES

__all__ = ["BAD_LABEL", "NO_LABEL", "UNLABELLED", "ClassLabels", "Classified", "check_classes", "classes_of"]

UNLABELLED = -1
"""The label of a sample without a class, or of an unknown one, where the settings ask for labels."""
NO_LABEL = "no-label"
"""Reason of a flaw: the sample has no class."""
BAD_LABEL = "bad-label"
"""Reason of a flaw: the sample's class is neither a label nor the name of a class."""
_NUMBER = re.compile(r"-?[0-9]{1,18}")
_LARGEST = 2**63 - 1
_NO_CLASS = "the sample has no class"
_SHOWN = 60


@runtime_checkable
class Classified(Protocol):
    """A source that finds the names of its classes itself."""

    async def classes(self) -> list[str] | None:
        """Returns the names, in the order of their labels; None or none if the labels are only numbers. Raises
        SourceError, ConfigError."""
        ...


async def classes_of(source: object, settings: SourceSettings) -> list[str] | None:
    """Returns the names of the classes of a source; None if the labels are only numbers, or if there are none."""
    if settings.class_names or not isinstance(source, Classified):
        return settings.class_names or None
    return await source.classes() or None


def check_classes(found: Mapping[str, list[str] | None]) -> list[str] | None:
    """Returns the classes that the sources of a mix have in common. found: name of each source -> its classes.

    Raises ConfigError if two sources have different classes, because a label would then mean two of them.
    """
    named = [name for name, classes in found.items() if classes is not None]
    for name in named[1:]:
        if found[name] != found[named[0]]:
            raise ConfigError(
                f"sources {named[0]!r} and {name!r} of the mix have different classes, so a label means another class "
                "in each: set source_config.classes of all of them to the same list"
            )
    return found[named[0]] if named else None


class ClassLabels:
    """Knows the labels of classes.

    names: of the classes, in the order of their labels; if there are none, every class is a whole number. asked:
    whether the settings ask for labels. Otherwise, samples without a usable label are usual, and have the label None.
    """

    def __init__(self, names: Sequence[str], *, asked: bool) -> None:
        self._names, self._asked = len(names), asked
        self._numbers = {name: number for number, name in enumerate(names)}

    @classmethod
    def by(cls, source: SourceSettings) -> Self:
        """Returns the labels of the classes that the settings name."""
        return cls(source.class_names, asked=source.has_labels)

    def of(self, value: Any) -> tuple[int | None, dict[str, str]]:
        """Returns the label that a value means, and the flaws of the sample: reason -> what is wrong.

        value: a number, the name of a class, or None or "" for no class. -1 means no class, too, as in the test sets of
        Hugging Face.
        """
        number = UNLABELLED if value is None or value == "" else self._number(value)
        if number == UNLABELLED:
            return self._without(NO_LABEL, _NO_CLASS)
        if number is not None and 0 <= number <= (self._names - 1 if self._names else _LARGEST):
            return number, {}
        known = f"none of the {self._names} classes" if self._names else "no whole number, and classes is not set"
        return self._without(BAD_LABEL, f"{_shown(value)} is {known}")

    def stored(self, label: int | None) -> tuple[int | None, dict[str, str]]:
        """Returns the same for a label that an index holds, where -1 was found for a sample of a source with labels."""
        return (UNLABELLED, {NO_LABEL: _NO_CLASS}) if label == UNLABELLED else self.of(label)

    def in_attributes(self, attributes: bytes, name: str) -> tuple[int | None, dict[str, str]]:
        """Returns the same for the attribute of that name. attributes: JSON that `check_attributes` has returned."""
        return self.of(msgspec.json.decode(attributes).get(name) if attributes != NO_ATTRIBUTES else None)

    def _number(self, value: Any) -> int | None:
        if isinstance(value, str):
            if value in self._numbers:
                return self._numbers[value]
            text = value.strip()
            return int(text) if _NUMBER.fullmatch(text) else self._numbers.get(text)
        if isinstance(value, float):
            return int(value) if value.is_integer() else None
        return int(value) if isinstance(value, int) else None

    def _without(self, reason: str, detail: str) -> tuple[int | None, dict[str, str]]:
        return (UNLABELLED, {reason: detail}) if self._asked else (None, {})


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
