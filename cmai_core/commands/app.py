"""`cmai app`: starts the web lab, with what its owner allows visitors."""

from __future__ import annotations

import argparse
import os
import secrets
import sys

from cmai_core.errors import DataError, OptionError

OWN_NAMES = ("localhost", "127.0.0.1", "::1")
_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # nothing that is read as something else


def add_options(command: argparse.ArgumentParser) -> None:
    """Declares the options of the command."""
    add = command.add_argument
    add("--port", type=int, default=8501, help="default: 8501")
    add("--host", default="127.0.0.1", help="0.0.0.0 opens it to your network (default: 127.0.0.1)")
    add(
        "--name", dest="names", action="append", metavar="NAME",
        help="a name by which browsers reach it, through a proxy for example (*.example.org for all below it); may be "
        "repeated (default: with the host 127.0.0.1 this machine's own names, else any)",
    )  # fmt: skip
    add(
        "--allow", action="append", metavar="SPEC",
        help="a model that visitors may choose beside the bundled ones (ViT-B-32/laion2b_s34b_b79k, hf-hub:…, "
        "local-dir:…); may be repeated",
    )  # fmt: skip
    add(
        "--allow-any", action="store_true",
        help="visitors may type any model, folders of this machine included: for a lab that only you can reach",
    )  # fmt: skip
    add("--max-download", type=float, metavar="GB", help="most that one model's download may have (default: 5)")
    add(
        "--review-key", metavar="WORD",
        help="what reviewers type to see and judge flagged pairs (default: a new one, printed at the start)",
    )  # fmt: skip
    add("--open-review", action="store_true", help="every visitor may see and judge flagged pairs")


def execute(args: argparse.Namespace) -> None:
    """Serves the lab in this process, so that signals reach it, until Ctrl+C."""
    import runpy

    from cmai_core.paths import lab_dir

    variables, options = settings(args)
    start = lab_dir() / "app" / "server.py"
    if not start.is_file():
        raise DataError(f"The web lab is not there: {start}.", "Install CMAI anew, or use a checkout.")
    shown = "localhost" if args.host in ("127.0.0.1", "0.0.0.0") else args.host
    print(f"CMAI lab: http://{shown}:{args.port}   (stop with Ctrl+C)")
    if variables.get("CMAI_REVIEW_KEY") and not args.review_key and not args.open_review:
        print(f"Reviewers' key, for the page Review: {variables['CMAI_REVIEW_KEY']}")
    sys.stdout.flush()
    os.environ.update(variables)
    os.chdir(lab_dir())  # where Streamlit looks for .streamlit/config.toml
    sys.argv = ["streamlit", "run", str(start), *options]
    runpy.run_module("streamlit", run_name="__main__", alter_sys=True)


def settings(args: argparse.Namespace) -> tuple[dict[str, str], list[str]]:
    """(environment variables for the lab, options for Streamlit) that the command's options come to.

    Raises:
        OptionError: one of them is out of range.
    """
    if not 1 <= args.port <= 65535:
        raise OptionError(f"--port is {args.port}.", "Accepted: whole numbers from 1 to 65535.")
    if args.max_download is not None and not 0 <= args.max_download <= 1e6:
        raise OptionError(f"--max-download is {args.max_download}.", "Accepted: gigabytes from 0.")
    for spec in args.allow or ():
        if not spec.strip() or "\n" in spec:
            raise OptionError(f"--allow is {spec!r}.", "Give a model's specification, as cmai models lists them.")
    given = args.review_key if args.review_key is not None else os.environ.get("CMAI_REVIEW_KEY") or None
    if given is not None and len(given.strip()) < 8:
        where = "--review-key" if args.review_key is not None else "CMAI_REVIEW_KEY"
        raise OptionError(f"{where} is too short.", "Give 8 characters or more, or leave it out: one is made up.")
    variables = {}
    if args.allow:
        variables["CMAI_ALLOW"] = "\n".join(spec.strip() for spec in args.allow)
    if args.allow_any:
        variables["CMAI_ALLOW_ANY"] = "1"
    if args.max_download is not None:
        variables["CMAI_MAX_DOWNLOAD_GB"] = f"{args.max_download:g}"
    if args.open_review:
        variables["CMAI_OPEN_REVIEW"] = "1"
    variables["CMAI_REVIEW_KEY"] = given or _word()
    options = ["--server.address", args.host, "--server.port", str(args.port)]
    names = list(args.names or ())
    if args.host in OWN_NAMES and not (not names and os.environ.get("STREAMLIT_SERVER_ALLOWED_HOSTS")):
        names += OWN_NAMES  # any other name in a request is a stranger's, pointed at this machine
    for name in names:
        options += ["--server.allowedHosts", name]
    return variables, options


def _word() -> str:
    """A key that can be typed: 12 letters and digits, 59 bits."""
    letters = [secrets.choice(_ALPHABET) for _ in range(12)]
    return "-".join("".join(letters[k : k + 4]) for k in (0, 4, 8))
