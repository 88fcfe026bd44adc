"""How commands become a command line: Typer functions, imported when they are asked for.

A command is a function whose parameters Typer understands and whose docstring says what it does, or a `typer.Typer`
with commands of its own. It returns its exit status (None: 0).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from cmai_core.errors import OptionError

WIDEST = 200
"""Characters of a command's line in a list."""
ARGUMENTS = "cmai.arguments"
"""Key of `Context.meta`: the words that a command was given."""

# The base class of everything that is wrong with a command line, wherever this version of Typer keeps it.
UsageError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "UsageError")


def markup() -> str | None:
    """Rich's help on a terminal, plain text in a pipe, a file or a terminal that asks for it."""
    rich = sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    return "rich" if rich else None


class Command(TyperCommand):
    """A command whose repeatable options also take several values at once: `--models a b` is `--models a --models b`.

    An option whose metavar stands in brackets may have no value at all: `--recipes` alone is one empty text.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[ARGUMENTS] = tuple(args)
        return super().parse_args(ctx, spread(args, ctx, self.get_params(ctx)))

    def get_short_help_str(self, limit: int = 0) -> str:
        return super().get_short_help_str(WIDEST)  # whole sentences in the list of commands, on two lines if need be


class Group(TyperGroup):
    """A group of commands, with whole sentences in the list of those above it."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def get_short_help_str(self, limit: int = 0) -> str:
        return super().get_short_help_str(WIDEST)


def spread(args: Sequence[str], ctx: Any, params: Sequence[Any]) -> list[str]:
    """Write options with several values as several options, and unambiguous beginnings of names in full.

    Raises:
        typer.BadParameter: an option that stands there without its value.
    """
    options = {name: param for param in params if param.param_type_name == "option" for name in param.opts}
    found: list[str] = []
    rest = list(args)
    while rest:
        word = full_name(rest.pop(0), options)
        option = options.get(word)
        if word == "--":
            return [*found, word, *rest]
        if option is None or option.is_flag or option.count:
            found.append(word)
            continue
        values: list[str] = []
        while rest and not rest[0].startswith("--") and (option.multiple or not values):
            values.append(rest.pop(0))
        if not values and not (option.metavar or "").startswith("["):
            raise typer.BadParameter("it needs a value.", ctx=ctx, param=option)
        for value in values or [""]:
            found += [word, value]
    return found


def full_name(word: str, options: Mapping[str, Any]) -> str:
    """Complete the beginning of an option's name where only one begins so."""
    name, sign, value = word.partition("=")
    if not name.startswith("--") or name in options:
        return word
    fitting = [option for option in options if option.startswith(name)]
    return f"{fitting[0]}{sign}{value}" if len(fitting) == 1 and name != "--" else word


class LazyCommands(Mapping[str, Any]):
    """Name → command of a registry, made (and its module imported) when it is asked for."""

    def __init__(self, parts: Mapping[str, Any]):
        self._parts = parts
        self._built: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._built:
            self._built[name] = built(name, self._parts[name])
        return self._built[name]

    def __contains__(self, name: object) -> bool:
        return name in self._parts

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


def built(name: str, part: Callable[..., Any] | typer.Typer) -> Any:
    """Make a command of a function, or a group of commands of a `typer.Typer`."""
    if isinstance(part, typer.Typer):
        app = part
    else:
        app = typer.Typer(add_completion=False)
        app.command(name)(part)
    app.info.cls = Group
    for command in app.registered_commands:
        command.cls = Command
    made: Any = typer.main.get_command(app)
    made.name = name
    made.params = [param for param in made.params if param.name not in ("install_completion", "show_completion")]
    for command in (made, *getattr(made, "commands", {}).values()):
        command.rich_markup_mode = markup()
    return made


def group(parts: Mapping[str, Any], callback: Callable[..., None]) -> TyperGroup:
    """Make the group of all commands; `callback` has the options before the command's name, and its docstring."""
    app = typer.Typer(cls=Group, add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})
    app.callback()(callback)
    made: Any = typer.main.get_group(app)
    made.commands, made.rich_markup_mode = LazyCommands(parts), markup()
    return made


def run(command: Any, name: str, arguments: Sequence[str]) -> int:
    """Run a command line; return its exit status.

    Raises:
        OptionError: it cannot be read.
    """
    try:
        with command.make_context(name, list(arguments)) as context:
            return command.invoke(context) or 0
    except typer.Exit as end:
        return end.exit_code
    except UsageError as error:
        raise _mistake(error, name) from None


def read(command: Any, name: str, arguments: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Read a command line without running it: the full name of the command, and its parameters' values.

    Raises:
        OptionError: it cannot be read.
    """
    context = None
    rest = list(arguments)
    try:
        while True:
            context = command.make_context(name, rest, parent=context)
            rest = [*context._protected_args, *context.args]
            if not (rest and hasattr(command, "commands")):
                return context.command_path, dict(context.params)
            name, command, rest = command.resolve_command(context, rest)
    except UsageError as error:
        raise _mistake(error, name) from None


def _mistake(error: Any, name: str) -> OptionError:
    """Two lines: what is wrong, and how the command is called."""
    path = error.ctx.command_path if error.ctx is not None else name
    usage = " ".join(error.ctx.command.get_usage(error.ctx).split()) if error.ctx is not None else f"Usage: {name}"
    return OptionError(" ".join(error.format_message().split()), f"u{usage[1:]} ({path} --help says more)")
