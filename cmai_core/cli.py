"""The command `cmai`: one function a command; what a command needs is imported inside it, so that `--help` is quick.

Exit status: 0, 1 where a self-check fails, 2 for a mistake of the caller (two lines on stderr: what is wrong, what to
do), 130 when interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from cmai_core import __version__
from cmai_core.errors import OptionError
from cmai_core.files import atomic, check_folder, check_writable, is_stdout, write_json
from cmai_core.progress import Progress
from cmai_core.terminal import (
    SHARE_AND_TIME,
    check_outputs,
    deliver,
    exit_status,
    interruptible,
    printable,
    progress_bar,
    read_object,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    printable()
    if arguments[:1] == ["train"]:  # training has a command line of its own
        from cmai_core.training.__main__ import main as train

        return train(arguments[1:])
    return exit_status(lambda: _run(arguments))


def _run(arguments: list[str]) -> int | None:
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise OptionError(
                f"The argument {argument!a} holds bytes that are no characters.",
                "Rename the file or folder, or set the locale to the one its name was written in (usually UTF-8).",
            ) from None
    args = parser().parse_args(arguments)
    return args.run(args)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(prog="cmai", description="Attack, defend and inspect image-text models.")
    top.add_argument("--version", action="version", version=f"cmai {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_app(commands)
    _add_info(commands)
    _add_models(commands)
    _add_recipes(commands)
    _add_attack(commands)
    _add_evaluate(commands)
    _add_evaluate_clean(commands)
    _add_check(commands)
    _add_cmcv(commands)
    _add_data(commands)
    commands.add_parser("train", help="train a bundled model (cmai train --help)", add_help=False)
    return top


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int | None], help: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
    command.set_defaults(run=run)
    return command


# --- app --------------------------------------------------------------------------------------------------------------


def _add_app(commands: Any) -> None:
    from cmai_core.commands.app import add_options, execute

    add_options(_command(commands, "app", execute, "start the web lab, until Ctrl+C"))


# --- info and models --------------------------------------------------------------------------------------------------


def _add_info(commands: Any) -> None:
    command = _command(commands, "info", _info, "show versions, device, bundled models, datasets and the cache folder")
    command.add_argument("--json", action="store_true", help="as JSON")


def _info(args: argparse.Namespace) -> None:
    from cmai_core.data import available_datasets
    from cmai_core.models import bundled_models
    from cmai_core.paths import assets_dir, cache_dir
    from cmai_core.versions import library_versions

    facts = {
        "versions": library_versions(),
        "device": _devices(),
        "models": [card.name for card in bundled_models()],
        "datasets": {info.name: list(info.splits) for info in available_datasets()},
        "cache": str(cache_dir()),
        "assets": str(assets_dir()),
    }
    if args.json:
        print(json.dumps(facts, indent=2))
        return
    print("versions  " + ", ".join(f"{name} {version}" for name, version in facts["versions"].items()))
    print("device    " + facts["device"])
    print("models    " + (", ".join(facts["models"]) or "none bundled (make models trains them)"))
    for name, splits in facts["datasets"].items():
        print(f"dataset   {name}: {', '.join(splits)}")
    print("cache     " + facts["cache"])
    print("assets    " + facts["assets"])


def _devices() -> str:
    import torch

    if torch.cuda.is_available():
        return ", ".join(f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count()))
    return f"cpu ({torch.get_num_threads()} threads)"


def _add_models(commands: Any) -> None:
    command = _command(commands, "models", _models, "list the models that can be loaded")
    command.add_argument("--json", action="store_true", help="the cards as JSON")


def _models(args: argparse.Namespace) -> None:
    from cmai_core.models import bundled_models

    cards = bundled_models()
    if args.json:
        listed = [{"name": c.name, "defended": c.defended, "problem": c.problem, **c.card} for c in cards]
        print(json.dumps(listed, indent=2))
        return
    width = max([len(card.name) for card in cards], default=0)
    for card in cards:
        kind = "damaged" if card.problem else "defended" if card.defended else "undefended"
        print(f"{card.name:<{width}}  {kind:<10}  {card.problem or card.description}".rstrip())
    if not cards:
        print("No model is bundled (make models trains them).")
    print("\nBesides these, whatever open_clip loads: ViT-B-32/laion2b_s34b_b79k, hf-hub:organisation/repository,")
    print("local-dir:/path/to/folder; and ViT-B-32/random for a real architecture with random weights.")


# --- recipes ----------------------------------------------------------------------------------------------------------


def _add_recipes(commands: Any) -> None:
    command = _command(commands, "recipes", _recipes, "list the named attacks: threat, knowledge, modality, paper")
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="with constants, options and links, as JSON")
    form.add_argument("--markdown", action="store_true", help="the table of docs/attacks.md")


def _recipes(args: argparse.Namespace) -> None:
    from cmai_core.attacks.recipes.registry import RECIPES

    if args.json:
        print(json.dumps([recipe.describe() for recipe in RECIPES.values()], indent=2))
        return
    if args.markdown:
        print("\n".join(_recipes_markdown()))
        return
    rows = [("name", "threat", "knowledge", "modality", "paper")]
    for r in RECIPES.values():
        threat = f"{r.threat} ({r.norm})" if r.norm else r.threat
        rows.append((r.slug, threat, r.knowledge, r.modality, r.citation))
    widths = [max(len(row[k]) for row in rows) for k in range(4)]
    for row in rows:
        print("  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[4]]).rstrip())


def _recipes_markdown() -> list[str]:
    from cmai_core.attacks.recipes.registry import RECIPES

    lines = ["| name | what | threat | knowledge | paper |", "|---|---|---|---|---|"]
    for r in RECIPES.values():
        threat = f"{r.threat} ({r.norm})" if r.norm else r.threat
        paper = f"[{r.citation}]({r.url})" if r.url else r.citation
        lines.append(f"| `{r.slug}` | {r.title} | {threat} | {r.knowledge} | {paper} |")
    return lines


# --- attack -----------------------------------------------------------------------------------------------------------


def _add_attack(commands: Any) -> None:
    command = _command(
        commands, "attack", _attack, "attack the pairs of a dataset, by PGD or a recipe, and report per-sample results"
    )
    add = command.add_argument
    add(
        "--spec", type=Path, metavar="FILE", help="read the experiment from a report (or its `experiment`); options add"
    )
    add("--model", help="crafted on: a bundled name or an open_clip specification (default: tabletop)")
    add("--target-model", dest="targets", action="append", help="shown the same pictures (transfer); may be repeated")
    add("--dataset", help="a dataset's name, or the path of a folder, CSV or JSONL file (default: tabletop)")
    add("--split", help="default: test")
    add("--limit", type=_limit, help="only the first so many pairs (default: 64); all: every pair")
    add("--captions", type=int, help="texts taken of each pair (default: 1)")
    add("--recipe", metavar="NAME", help="a named attack of cmai recipes (default: PGD as the options below say)")
    add(
        "--option",
        dest="options",
        action="append",
        type=_option,
        metavar="KEY=VALUE",
        help="of the recipe, in its own units (VALUE as JSON, a fraction such as 1/255, or a word); may be repeated",
    )
    add("--task", help="judged, and attacked: zero-shot, retrieval, vqa, captioning, nlvr (default: retrieval)")
    add(
        "--objective",
        help="task: its loss; margin, kl, embedding: others of images; consistency: -S_c; both: alpha*loss - beta*S_c "
        "(default: task, or the recipe's own)",
    )
    add("--alpha", type=float, help="weight of the task's loss in both (default: 1)")
    add("--beta", type=float, help="weight of S_c in both (default: 1)")
    add(
        "--norm",
        help="linf, or l2: root mean square change per pixel value; with a recipe also l0, patch "
        "(default: linf, or the recipe's own)",
    )
    add("--epsilon", type=float, help="budget in units of 1/255; l0: pixels, patch: share of the area (default: 4)")
    add("--steps", type=int, help="gradient steps (default: 20, or the recipe's own, as with all that follows)")
    add("--step-size", type=float, help="in units of 1/255 (default: 2.5*epsilon/steps)")
    add("--restarts", type=int, help="random starts, the best of which is kept (default: 1)")
    add("--momentum", type=float, help="0 to 1 (default: 0)")
    add("--no-random-start", dest="random_start", action="store_false", default=None, help="start at the clean image")
    add("--stop-on-success", action="store_true", default=None, help="leave a pair alone once its prediction is wrong")
    add("--seed", type=int, help="of the random starts (default: 0)")
    add("--batch-size", type=int, help="pairs attacked together (default: 32)")
    add("--device", help="cpu or cuda (default: cuda if there is one)")
    add("--json", type=Path, metavar="FILE", help="write the report here (-: to stdout)")
    add("--save-images", type=Path, metavar="FOLDER", help="write the adversarial images as PNG")
    add("--quiet", action="store_true", help="no progress bar")


def _limit(text: str) -> int | str:
    return text if text == "all" else int(text)


def _option(text: str) -> tuple[str, Any]:
    from cmai_core.evaluation.runs.entries import key_value

    try:
        return key_value(text)
    except OptionError as error:
        raise argparse.ArgumentTypeError(error.message) from None


def _attack(args: argparse.Namespace) -> int:
    from cmai_core.evaluation.runs.attack_run import run_experiment
    from cmai_core.evaluation.runs.experiment import AttackExperiment

    values = read_object(args.spec, "experiment", "Give a file that cmai attack --json wrote.") if args.spec else {}
    for field in fields(AttackExperiment):
        given = getattr(args, field.name)
        if field.name == "options" and given is not None:
            values["options"] = dict(values.get("options") or {}) | dict(given)
        elif given is not None:
            values[field.name] = None if given == "all" else given
    experiment = AttackExperiment.from_dict(values)
    if args.save_images and experiment.modality == "text":
        raise OptionError(f"The recipe {experiment.recipe} changes no picture.", "Leave out --save-images.")
    check_outputs({"--json": args.json})
    if args.save_images:
        check_folder(args.save_images)
    with interruptible() as cancel, progress_bar(args.quiet, form=SHARE_AND_TIME) as show:
        report = run_experiment(experiment, progress=show, cancel=cancel, device=args.device)

    def save(folder: Path) -> None:
        paths = report.result.save(folder)
        for sample, path in zip(report.data["samples"], paths, strict=True):
            sample["image"] = path.name

    files = [(args.save_images, save), (args.json, lambda path: write_json(path, report.data))]
    deliver(str(report), files)
    if report.data["cancelled"]:
        print("Interrupted: what was found until then is reported.", file=sys.stderr)
        return 130
    return 0


# --- evaluation -------------------------------------------------------------------------------------------------------


def _add_evaluate(commands: Any) -> None:
    from cmai_core.commands.evaluate import add_options, execute

    words = "measure models under a grid of attacks; goes on where it stopped"
    add_options(_command(commands, "evaluate", execute, words))


def _add_evaluate_clean(commands: Any) -> None:
    command = _command(commands, "evaluate-clean", _evaluate_clean, "measure the tasks on unattacked pairs")
    add = command.add_argument
    add("--model", default="tabletop", help="a bundled name or an open_clip specification")
    add("--dataset", default="tabletop", help="a dataset's name or a path")
    add("--split", default="test")
    add("--limit", type=_limit, default=1000, help="only the first so many pairs (default: 1000); all: every pair")
    add("--task", dest="tasks", action="append", help="only this one; may be repeated")
    add("--device", help="cpu or cuda (default: cuda if there is one)")
    add("--json", type=Path, metavar="FILE", help="write the figures here (-: to stdout)")


def _evaluate_clean(args: argparse.Namespace) -> None:
    from cmai_core.data import load_dataset
    from cmai_core.models import load_model
    from cmai_core.models.truncation import warn_truncated
    from cmai_core.tasks import evaluate_clean

    check_outputs({"--json": args.json})
    dataset = load_dataset(args.dataset, split=args.split, limit=None if args.limit == "all" else args.limit)
    model = load_model(args.model, device=args.device)
    warn_truncated(model, dataset)
    figures = evaluate_clean(model, dataset, args.tasks)
    text = "" if is_stdout(args.json) else json.dumps(figures, indent=1)
    deliver(text, [(args.json, lambda path: write_json(path, figures))])


# --- self-checks ------------------------------------------------------------------------------------------------------


def _add_check(commands: Any) -> None:
    from cmai_core.commands.check import add_options

    title = "self-checks: does an attack, or a finished evaluation, measure the model or its own weakness"
    add_options(_command(commands, "check", _check, title))


def _check(args: argparse.Namespace) -> int:
    from cmai_core.commands.check import document, run
    from cmai_core.evaluation.checks import report

    check_outputs({"--json": args.json})
    with interruptible() as cancel, progress_bar(args.quiet, unit="check") as show:
        checks = run(args, show, cancel)
    deliver(report(checks), [(args.json, lambda path: write_json(path, document(args, checks)))])
    if cancel.cancelled:
        return 130
    return int(any(check.status == "fail" for check in checks))


# --- consistency verification -----------------------------------------------------------------------------------------


def _add_cmcv(commands: Any) -> None:
    from cmai_core.commands.cmcv import add_options, execute

    words = "set consistency verification to false-positive rates, and say what it flags of other clean pairs"
    add_options(_command(commands, "cmcv", execute, words))


# --- data -------------------------------------------------------------------------------------------------------------


def _add_data(commands: Any) -> None:
    command = _command(commands, "data", _data_build, "make Tabletop's training data (build), or look at it (sheet)")
    parts = command.add_subparsers(metavar="PART")
    build = _command(parts, "build", _data_build, "generate and cache the training split; goes on where it stopped")
    sheet = _command(parts, "sheet", _data_sheet, "write a contact sheet of a split as PNG")
    for target in (command, build):
        # Without defaults in the sub-parser: they would undo what was given before its name.
        default = argparse.SUPPRESS if target is build else None
        target.add_argument("--scenes", type=int, default=default, help="only the first so many (default: all)")
        target.add_argument("--workers", type=int, default=default, help="processes (default: the number of cores)")
    sheet.add_argument("--dataset", default="tabletop", help="a dataset's name or a path")
    sheet.add_argument("--split", default="test")
    sheet.add_argument("--count", type=int, default=24)
    sheet.add_argument("--columns", type=int, default=6)
    sheet.add_argument("--out", type=Path, required=True, metavar="FILE.png")


def _data_build(args: argparse.Namespace) -> None:
    for name in ("scenes", "workers"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise OptionError(f"--{name} is {value}.", "Accepted: whole numbers from 1.")
    from cmai_core.data.tabletop.arrays import training_arrays
    from cmai_core.models.tokenizer import bundled_tokenizer_dir

    with progress_bar(quiet=False, unit="scenes") as show:
        arrays = training_arrays(
            bundled_tokenizer_dir() / "tokenizer.json",
            "train",
            args.scenes,
            workers=args.workers,
            report=lambda done, total: show(Progress(done, total)),
        )
    print(f"{len(arrays)} training scenes are in the cache.")


def _data_sheet(args: argparse.Namespace) -> None:
    if args.count < 1 or args.columns < 1:
        raise OptionError("--count and --columns must be at least 1.")
    from PIL import Image

    from cmai_core.data import load_dataset

    check_writable(args.out)
    dataset = load_dataset(args.dataset, split=args.split, limit=args.count)
    images = [Image.fromarray(dataset[i].image) for i in range(len(dataset))]
    side, gap, columns = 128, 4, min(args.columns, len(images))
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (side + gap) - gap, rows * (side + gap) - gap), "white")
    for i, image in enumerate(images):
        image.thumbnail((side, side))
        x, y = i % columns * (side + gap), i // columns * (side + gap)
        sheet.paste(image, (x + (side - image.width) // 2, y + (side - image.height) // 2))
    with atomic(args.out) as temporary:
        sheet.save(temporary, "PNG")
    if not is_stdout(args.out):
        print(f"{len(images)} pictures of {args.dataset}/{args.split} in {args.out}")


if __name__ == "__main__":
    raise SystemExit(main())
