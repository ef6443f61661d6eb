"""The base of the settings of all sources: what they load beside the image, and what no message may show of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from datago_gpu.config.class_list import Classes, classes_in, classes_problem
from datago_gpu.config.settings import Kind, Natural, Settings, changed_settings, without_secrets
from datago_gpu.errors import ConfigError

__all__ = ["SourceSettings", "expression_problem", "hidden", "kinds_of", "parts_problem", "token_problem"]


class SourceSettings(Settings, frozen=True, kw_only=True):
    """The settings of a source."""

    place: ClassVar[str] = "source_config."
    where: str = ""
    min_short_edge: Natural = 0
    classes: Classes = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        problem = expression_problem("where", self.where) if self.where.strip() else None
        problem = problem or (classes_problem(self.classes) if self.classes else None)
        if problem:
            raise ConfigError(problem)

    @property
    def where_names(self) -> frozenset[str]:
        """The names that `where` uses."""
        if not self.where.strip():
            return frozenset()
        from datago_gpu.config.expression import parse_expression  # most configs have no expression
        from datago_gpu.config.expression_tree import columns_in

        return frozenset(column.name for column in columns_in(parse_expression(self.where)))

    @property
    def class_names(self) -> list[str]:
        """The names of the classes that the settings give; none if they give none."""
        return classes_in(self.classes)

    @property
    def has_labels(self) -> bool:
        """Whether the settings ask for labels: then every batch has them."""
        return bool(self.classes)

    @property
    def parts(self) -> dict[str, Kind]:
        """What is to be loaded beside the image: name -> kind."""
        return {}

    @property
    def optional_parts(self) -> dict[str, Kind]:
        """Those of `parts` that a sample may lack."""
        return {}

    def redacted(self, text: str) -> str:
        """`text` with *** for what is secret, should it be there."""
        return without_secrets(text, self._secrets())

    def _secrets(self) -> Iterable[str]:
        """Returns the values that no message may show."""
        return ()

    def _shown(self) -> dict[str, Any]:
        """Returns the form in which settings that hold secrets may be shown: name -> value."""
        return {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """What rich prints, in tracebacks too: what was set, less what is secret."""
        return changed_settings(self, **self._shown())


def expression_problem(setting: str, text: str) -> str | None:
    """What is wrong with the expression of a setting, in words."""
    from datago_gpu.config.expression import ExpressionError, parse_expression  # most configs have no expression

    try:
        parse_expression(text)
    except ExpressionError as error:
        return f"source_config.{setting}: {error}"
    return None


def hidden(options: Mapping[str, str]) -> dict[str, str]:
    """Returns the options of object storage with *** for their values."""
    return dict.fromkeys(options, "***")


def kinds_of(masks: Iterable[str], images: Iterable[str], latents: Iterable[str]) -> dict[str, Kind]:
    """Returns the kind of each name."""
    given: list[tuple[Iterable[str], Kind]] = [(masks, "mask"), (images, "image"), (latents, "latent")]
    return {name: kind for names, kind in given for name in names}


def parts_problem(names: Sequence[str], optional: Iterable[str]) -> str | None:
    """What is wrong with the names of masks, additional images and latents, in words. optional: may be lacking."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        return f"source_config: {', '.join(map(repr, twice))} occurs twice in masks, additional_images and latents"
    unknown = [name for name in optional if name not in names]
    if unknown:
        return (f"source_config.optional names {', '.join(map(repr, unknown))}, "
                "which is not in masks, additional_images or latents")  # fmt: skip
    return None


def token_problem(token: str) -> str | None:
    """What is wrong with a token that is sent in a header, in words. Its value is not told."""
    given = token.strip()
    if given.isascii() and given.isprintable() and " " not in given:
        return None
    return "source_config.auth_token contains spaces or characters that are not allowed in a token"
