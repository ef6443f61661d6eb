"""The help of commands whose flags are settings: a section for each record of settings, with types and defaults."""

from __future__ import annotations

from collections.abc import Iterator
from types import NoneType
from typing import Any

import click
import msgspec

from datago_gpu.cli.flags import SECTIONS, Setting, members, setting_of

__all__ = ["SettingsCommand", "setting_texts"]

_LINE = 112
"""Maximum number of characters in a line of the help."""
_TYPES: dict[Any, str] = {int: "INTEGER", float: "NUMBER", str: "TEXT", tuple: "NUMBER,..."}


class SettingsCommand(click.Command):
    """A command whose `--help` lists its settings in sections. A flag that several sources share is listed for each."""

    def get_help(self, ctx: click.Context) -> str:
        """Returns the help, as wide as the terminal, but at most _LINE characters."""
        ctx.max_content_width = _LINE
        return super().get_help(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the command's own options first, then the settings."""
        flags = {param.name: param for param in self.params if isinstance(param, Setting)}
        own = [param.get_help_record(ctx) for param in self.get_params(ctx) if not isinstance(param, Setting)]
        with formatter.section("Options"):
            formatter.write_dl([record for record in own if record and record[1]])
        for title, section, kind in SECTIONS:
            texts, fields = setting_texts(kind), msgspec.structs.fields(kind)
            given = [(flag, field) for field in fields if (flag := setting_of(flags, section, field))]
            with formatter.section(title):
                formatter.write_dl([(_flag_usage(flag), _help_text(texts[field.name], field)) for flag, field in given])


def _flag_usage(flag: Setting) -> str:
    """Returns the flag and the values it accepts."""
    if flag.is_flag:
        return f"{flag.opts[0]} / {flag.secondary_opts[0]}"
    kinds = [_TYPES.get(each, str(each)) for each in members(flag.wanted) if each not in (NoneType, "")]
    return f"{flag.opts[0]} {'NAME,NAME' if flag.separator == ',' else '|'.join(dict.fromkeys(kinds))}"


def _help_text(text: str, field: msgspec.structs.FieldInfo) -> str:
    """Returns the meaning of a setting, with its default if there is one."""
    text = text[:1].upper() + text[1:]
    if field.required or field.default in (None, ""):
        return text
    shown = {True: "yes", False: "no"}[field.default] if isinstance(field.default, bool) else field.default
    return f"{text} [default: {shown}]"


def setting_texts(kind: type[msgspec.Struct]) -> dict[str, str]:
    """Returns setting -> text, from the docstring of the class."""
    texts: dict[str, str] = {}
    for name, line in _attribute_lines(kind):
        texts[name] = f"{texts[name]} {line}" if name in texts else line
    return texts


def _attribute_lines(kind: type[msgspec.Struct]) -> Iterator[tuple[str, str]]:
    """Yields the lines of "Attributes:", each with the setting that it belongs to."""
    name = ""
    for line in (kind.__doc__ or "").partition("Attributes:")[2].splitlines():
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        if text and indent < 8:  # the text after the list
            return
        if indent == 8:
            name, _, text = text.partition(": ")
        if text:
            yield name, text
