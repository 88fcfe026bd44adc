"""`python -m cmai_core.training --recipe base --out runs/base`"""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import nullcontext
from typing import Any

from cmai_core.terminal import exit_status, interruptible, printable
from cmai_core.training.recipes import RECIPES, get_recipe
from cmai_core.training.settings import PRECISIONS


def parser() -> argparse.ArgumentParser:
    """The command line of one training."""
    p = argparse.ArgumentParser(prog="python -m cmai_core.training", description="Train a recipe on Tabletop.")
    p.add_argument("--recipe", required=True, choices=sorted(RECIPES))
    p.add_argument("--out", help="folder of checkpoint, log and model; goes on where it stopped (runs/RECIPE)")
    p.add_argument("--base", help="model to fine-tune, e.g. local-dir:runs/base/model (default: the recipe's)")
    length = p.add_mutually_exclusive_group()
    length.add_argument("--pairs", type=int, help="image-caption pairs to see (default: the recipe's)")
    length.add_argument("--minutes", type=float, help="time budget instead, fixed to pairs after the first steps")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", help="cpu or cuda (default: cuda if there is one)")
    p.add_argument("--threads", type=int, help="processor threads")
    p.add_argument("--batch", type=int, help="scenes a step")
    p.add_argument("--lr", type=float, help="peak learning rate")
    p.add_argument("--precision", choices=PRECISIONS)
    p.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        type=_change,
        metavar="NAME=VALUE",
        help="another setting of the recipe, for ablations: inner.beta=0, weights.hard=0.5 (may be repeated)",
    )
    p.add_argument("--scenes", type=int, help="use only the first so many training scenes")
    p.add_argument("--validate-every", type=int, default=1000, help="steps between validations, 0: at the end only")
    p.add_argument("--checkpoint-minutes", type=float, default=5.0)
    p.add_argument("--restart", action="store_true", help="start anew even if the folder holds a training")
    return p


def _change(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def main(argv: list[str] | None = None) -> int:
    """Runs one training; returns the exit status (0, 2 for a mistake, 130 when interrupted)."""
    arguments = sys.argv[1:] if argv is None else argv
    printable()
    args = parser().parse_args(arguments)
    said = "Interrupted; the same command goes on from the checkpoint."
    return exit_status(lambda: _train(args, arguments), said)


def _train(args: argparse.Namespace, arguments: list[str]) -> int:
    from tqdm import tqdm

    from cmai_core.training.runs import run
    from cmai_core.training.trainer import RunOptions

    given = {"batch": args.batch, "learning_rate": args.lr, "precision": args.precision}
    given = {k: v for k, v in given.items() if v is not None}
    recipe = get_recipe(args.recipe, **given, **dict(args.changes))
    options = RunOptions(
        pairs=args.pairs,
        minutes=args.minutes,
        validate_every=args.validate_every,
        checkpoint_minutes=args.checkpoint_minutes,
        restart=args.restart,
        command="python -m cmai_core.training " + " ".join(arguments),
    )
    bar = tqdm(unit=" pairs", unit_scale=True, smoothing=0.1, mininterval=1.0)
    # Between two steps; several processes would wait for the one that stopped first.
    stop = nullcontext() if "WORLD_SIZE" in os.environ else interruptible()
    with bar, stop as cancel:

        def show(state) -> None:
            bar.total = state.total or None
            bar.set_postfix_str(state.stage, refresh=False)
            bar.update(state.done - bar.n)

        def data(done: int, total: int) -> None:
            bar.write(f"data: {done} of {total} scenes")
            if cancel is not None:
                cancel.check()

        def tell(entry: dict) -> None:
            figures = entry.get("validation")
            if figures:
                bar.write(json.dumps({"step": entry["step"], **figures}))

        result = run(
            recipe,
            out_dir=args.out or f"runs/{args.recipe}",
            base=args.base,
            seed=args.seed,
            device=args.device,
            threads=args.threads,
            scenes=args.scenes,
            options=options,
            progress=show,
            cancel=cancel,
            on_log=tell,
            on_data=data,
        )
    print(
        json.dumps(
            {"model": str(result.model_dir), "pairs": result.pairs, "seconds": round(result.seconds), **result.results}
        )
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
