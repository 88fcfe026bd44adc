"""`cmai app`: starts the web lab, with what its owner allows visitors."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from cmai_core.errors import DataError, OptionError

OWN_NAMES = ("localhost", "127.0.0.1", "::1")
_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # nothing that is read as something else


def app(
    port: Annotated[int, typer.Option(help="of the server")] = 8501,
    host: Annotated[str, typer.Option(help="0.0.0.0 opens it to your network")] = "127.0.0.1",
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--name",
            metavar="NAME",
            help="a name by which browsers reach it, through a proxy for example (*.example.org for all below it); "
            "may be repeated (default: with the host 127.0.0.1 this machine's own names, else any)",
        ),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC",
            help="a model that visitors may choose beside the bundled ones (ViT-B-32/laion2b_s34b_b79k, hf-hub:…, "
            "local-dir:…); may be repeated",
        ),
    ] = None,
    allow_any: Annotated[
        bool,
        typer.Option(
            "--allow-any",
            help="visitors may type any model, folders of this machine included: for a lab that only you can reach",
        ),
    ] = False,
    max_download: Annotated[
        float | None, typer.Option(metavar="GB", help="most that one model's download may have (default: 5)")
    ] = None,
    review_key: Annotated[
        str | None,
        typer.Option(
            metavar="WORD",
            help="what reviewers type to see and judge flagged pairs (default: a new one, printed at the start)",
        ),
    ] = None,
    open_review: Annotated[
        bool, typer.Option("--open-review", help="every visitor may see and judge flagged pairs")
    ] = False,
) -> None:
    """Start the web lab, until Ctrl+C."""
    variables, options = settings(locals())
    import runpy

    from cmai_core.paths import lab_dir

    start = lab_dir() / "app" / "server.py"
    if not start.is_file():
        raise DataError(f"The web lab is not there: {start}.", "Install CMAI anew, or use a checkout.")
    shown = "localhost" if host in ("127.0.0.1", "0.0.0.0") else host
    print(f"CMAI lab: http://{shown}:{port}   (stop with Ctrl+C)")
    if variables.get("CMAI_REVIEW_KEY") and not review_key and not open_review:
        print(f"Reviewers' key, for the page Review: {variables['CMAI_REVIEW_KEY']}")
    sys.stdout.flush()
    os.environ.update(variables)
    os.chdir(lab_dir())  # where Streamlit looks for .streamlit/config.toml
    sys.argv = ["streamlit", "run", str(start), *options]
    # In this process, so that signals reach it.
    runpy.run_module("streamlit", run_name="__main__", alter_sys=True)


def settings(given: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """Translate the command's options into environment variables for the lab, and options for Streamlit.

    Args:
        given: option → value, as `app` takes them.

    Raises:
        OptionError: one of them is out of range.
    """
    port, host, allow, max_download = (given[name] for name in ("port", "host", "allow", "max_download"))
    if not 1 <= port <= 65535:
        raise OptionError(f"--port is {port}.", "Accepted: whole numbers from 1 to 65535.")
    if max_download is not None and not 0 <= max_download <= 1e6:
        raise OptionError(f"--max-download is {max_download}.", "Accepted: gigabytes from 0.")
    for spec in allow or ():
        if not spec.strip() or "\n" in spec:
            raise OptionError(f"--allow is {spec!r}.", "Give a model's specification, as cmai models lists them.")
    key = given["review_key"] if given["review_key"] is not None else os.environ.get("CMAI_REVIEW_KEY") or None
    if key is not None and len(key.strip()) < 8:
        where = "--review-key" if given["review_key"] is not None else "CMAI_REVIEW_KEY"
        raise OptionError(f"{where} is too short.", "Give 8 characters or more, or leave it out: one is made up.")
    variables = {}
    if allow:
        variables["CMAI_ALLOW"] = "\n".join(spec.strip() for spec in allow)
    if given["allow_any"]:
        variables["CMAI_ALLOW_ANY"] = "1"
    if max_download is not None:
        variables["CMAI_MAX_DOWNLOAD_GB"] = f"{max_download:g}"
    if given["open_review"]:
        variables["CMAI_OPEN_REVIEW"] = "1"
    variables["CMAI_REVIEW_KEY"] = key or _word()
    options = ["--server.address", host, "--server.port", str(port)]
    names = list(given["names"] or ())
    if host in OWN_NAMES and not (not names and os.environ.get("STREAMLIT_SERVER_ALLOWED_HOSTS")):
        names += OWN_NAMES  # any other name in a request is a stranger's, pointed at this machine
    for name in names:
        options += ["--server.allowedHosts", name]
    return variables, options


def _word() -> str:
    """Return a key that can be typed: 12 letters and digits, 59 bits."""
    import secrets

    letters = [secrets.choice(_ALPHABET) for _ in range(12)]
    return "-".join("".join(letters[k : k + 4]) for k in (0, 4, 8))
