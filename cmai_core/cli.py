"""The command `cmai`: the list of its commands. Each is a file in `commands/`, imported when it is asked for.

Exit status: 0, 1 where a self-check fails, 2 for a mistake of the caller (two lines on stderr: what is wrong, what to
do), 130 when interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from cmai_core import __version__
from cmai_core.commands import tree
from cmai_core.errors import OptionError
from cmai_core.registry import Registry
from cmai_core.terminal import exit_status

COMMANDS: Registry[Any] = Registry(
    "command",
    "cmai.commands",
    {
        "app": "cmai_core.commands.app:app",
        "info": "cmai_core.commands.info:info",
        "models": "cmai_core.commands.models:models",
        "recipes": "cmai_core.commands.recipes:recipes",
        "attack": "cmai_core.commands.attack:attack",
        "evaluate": "cmai_core.commands.evaluate:evaluate",
        "evaluate-clean": "cmai_core.commands.evaluate_clean:evaluate_clean",
        "measure": "cmai_core.commands.measure:measure",
        "check": "cmai_core.commands.check:check",
        "report": "cmai_core.commands.report:report",
        "cmcv": "cmai_core.commands.cmcv:cmcv",
        "answering": "cmai_core.commands.answering:answering",
        "detector": "cmai_core.commands.detector:detector",
        "policies": "cmai_core.commands.policies:policies",
        "data": "cmai_core.commands.data:data",
        "train": "cmai_core.commands.train:train",
        "bundle": "cmai_core.commands.bundle:bundle",
        "compare": "cmai_core.commands.compare:compare",
        "reference": "cmai_core.commands.reference:reference",
        "trace": "cmai_core.commands.trace:trace",
        "placement": "cmai_core.commands.placement:placement",
        "masked-lm": "cmai_core.commands.masked_lm:masked_lm",
    },
    lambda name, part: "" if callable(part) else "It is neither a function nor a typer.Typer.",
)
"""Name → a function for Typer, or a `typer.Typer` with several."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return exit_status(lambda: tree.run(tree.group(COMMANDS, _top), "cmai", _readable(words)))


def parse(arguments: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Read a command line without running it: the command's name ("cmai data sheet"), and its parameters' values.

    Raises:
        OptionError: it cannot be read.
    """
    return tree.read(tree.group(COMMANDS, _top), "cmai", _readable(list(arguments)))


def _readable(arguments: list[str]) -> list[str]:
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise OptionError(
                f"The argument {argument!a} holds bytes that are no characters.",
                "Rename the file or folder, or set the locale to the one its name was written in (usually UTF-8).",
            ) from None
    return arguments


def _say_version(asked: bool) -> None:
    if asked:
        print(f"cmai {__version__}")
        raise typer.Exit


def _top(
    version: Annotated[bool, typer.Option("--version", callback=_say_version, is_eager=True, help="say which")] = False,
) -> None:
    """Attack, defend and inspect image-text models."""


if __name__ == "__main__":
    raise SystemExit(main())
