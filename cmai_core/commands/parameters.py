"""Parameters that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cmai_core.data.registry import dataset_words
from cmai_core.errors import OptionError

Device = Annotated[str | None, typer.Option(help="cpu or cuda (default: cuda if there is one)")]
Threads = Annotated[int | None, typer.Option(help="processor threads")]
Quiet = Annotated[bool, typer.Option("--quiet", help="no progress bar")]
Dataset = Annotated[str, typer.Option(help=dataset_words())]
Split = Annotated[str, typer.Option(help="of the dataset")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="write it as JSON here (-: to stdout)")]


def pair_limit(text: str) -> int | None:
    """Read a number of pairs, None for "all".

    Raises:
        OptionError: it is neither a whole number nor "all".
    """
    if text == "all":
        return None
    if not text.isdecimal():
        raise OptionError(f"--limit is {text}.", "Accepted: whole numbers from 1, or all.")
    return int(text)


def use_threads(threads: int | None) -> None:
    """Set the number of processor threads; None leaves it.

    Raises:
        OptionError: below 1.
    """
    if threads is None:
        return
    if threads < 1:
        raise OptionError(f"--threads is {threads}.", "Accepted: whole numbers from 1.")
    import torch

    torch.set_num_threads(threads)
