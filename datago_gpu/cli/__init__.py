"""The command line: parses, calls, prints. Each command has its own module, which is imported when it is used."""

from __future__ import annotations

import importlib
import os
import sys

import click

from datago_gpu.errors import DatagoError
from datago_gpu.interpreter import command
from datago_gpu.system import refuse_system

__all__ = ["main"]

COMMANDS = {
    "demo": "Stream the photographs that ship with the package, and draw the result.",
    "bench": "Measure the speed of a loader with any settings.",
    "preview": "Draw what a model will see: the first batches, with crops and masks.",
    "doctor": "Report what is missing or too small on this machine, and what to do about it.",
    "index": "Make a table of a source's samples, with their places and sizes.",
    "plan": "Tell the batches of a run in lockstep, without loading an image.",
    "top": "Show what the stages of a running loader do.",
    "serve": "Serve a folder of images as a Dataroom server does.",
}

INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"datago_gpu.cli.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Prints the version, also of a checkout that is not installed."""
    if wanted:
        import datago_gpu

        click.echo(f"datago-gpu {datago_gpu.__version__}")
        ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version,
              help="Show the version and exit.")  # fmt: skip
def _commands() -> None:
    """datago_gpu: the image loader that feeds GPU training loops."""


def main() -> None:
    """Entry point. Exit status: 0 done, 2 an expected error (one line on stderr), 130 interrupted.

    Python may end an interrupted process by SIGINT instead, which shells show as 130, too.
    """
    try:
        refuse_system()
        if sys.getfilesystemencoding() == "ascii":  # otherwise non-ASCII names cannot be opened or printed
            line = command("datago_gpu.cli", *sys.argv[1:])
            os.execv(line[0], line)
        _commands.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(INTERRUPTED)
    except DatagoError as error:
        first, *more = str(error).splitlines()
        click.echo(f"datago-gpu: {first}" + "".join(f" {line.strip()}" for line in more), err=True)
        sys.exit(2)
