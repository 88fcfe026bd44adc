"""A command of another package."""

from typing import Annotated

import typer


def stars(count: Annotated[int, typer.Option(help="how many")] = 3) -> None:
    """Print stars."""
    print("*" * count)


def use() -> object:
    """Run it by `cmai`, and find it in the list of commands."""
    import contextlib
    import io

    from cmai_core import cli

    with contextlib.redirect_stdout(io.StringIO()) as printed:
        status = [cli.main(["stars", "--count", "5"]), cli.main(["--help"])]
    return status == [0, 0] and printed.getvalue().startswith("*****\n") and "Print stars." in printed.getvalue()
