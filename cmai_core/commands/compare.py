"""`cmai compare`: the comparison of the defences, its published results and their report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from cmai_core.commands.parameters import Device, Quiet, Threads, use_threads
from cmai_core.errors import DataError, OptionError
from cmai_core.progress import Progress
from cmai_core.terminal import SHARE_AND_WORDS, interruptible, progress_bar, resumable

FOLDER = Path("runs") / "results"
"""Where results and adversarial examples are kept while they are made."""
GOES_ON = "the same command goes on from here."
Folder = Annotated[Path, typer.Option(help="results and examples while they are made")]

compare = typer.Typer(help="Compare the defences under one protocol, and report what was published.")


@compare.command("run")
def run(
    models: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL...", help="names of bundled models, or NAME=SPECIFICATION (default: all)"),
    ] = None,
    parts: Annotated[list[str] | None, typer.Option(metavar="PART...", help="default: all")] = None,
    protocol: Annotated[
        str, typer.Option(help="published, or next: with targeted attacks (another hash)")
    ] = "published",
    split: Annotated[
        str | None,
        typer.Option(help="test, or validation while developing (another hash, another folder); default: test"),
    ] = None,
    folder: Folder = FOLDER,
    device: Device = None,
    threads: Threads = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="copy each model's finished results to assets/results")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Measure models under the protocol; goes on where it stopped."""
    use_threads(threads)
    from cmai_core.comparison.protocol import PROTOCOLS
    from cmai_core.comparison.run import Comparison, part_names, results_dir
    from cmai_core.comparison.run import publish as copy

    _check_names("--protocol", [protocol], PROTOCOLS)
    _check_names("--parts", parts or (), part_names())
    terms = PROTOCOLS[protocol]
    terms = replace(terms, split=split) if split is not None else terms
    comparison = Comparison(folder, terms, device=device, published=results_dir() if publish else None)
    given = [text.partition("=") for text in models or terms.models]
    with resumable(GOES_ON):
        for name, spec in {name: spec or name for name, _, spec in given}.items():
            bar = progress_bar(quiet, form=SHARE_AND_WORDS, words=_stage_of(name))
            with interruptible() as cancel, bar as show:
                comparison.measure(name, spec, parts or None, progress=show, cancel=cancel)
            if publish:
                print(f"published {name} to {copy(comparison, [name])}")


def _stage_of(name: str) -> Callable[[Progress], str]:
    return lambda update: f"{name}: {update.stage}"


def _check_names(option: str, given: Any, known: Any) -> None:
    """Refuse names that are not known.

    Raises:
        OptionError: one of them is not.
    """
    for name in given:
        if name not in known:
            raise OptionError(f"{option} is {name}.", f"Accepted: {', '.join(known)}.")


@compare.command("report")
def report(
    folder: Annotated[Path | None, typer.Option(help="results (default: assets/results)")] = None,
    write: Annotated[bool, typer.Option("--write", help="write docs/results.md and its figures")] = False,
) -> None:
    """Print the report of the published results."""
    from cmai_core.comparison.report import published_report, write_report

    if not write:
        print(published_report(folder), end="")
        return
    page = Path("docs") / "results.md"
    write_report(page, folder)
    print(f"wrote {page}")


@compare.command("correction")
def correction(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="with published results")],
    epsilons: Annotated[
        list[float] | None, typer.Option(metavar="E...", help="in units of 1/255 (default: all)")
    ] = None,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Measure what targeted attacks take of published figures."""
    use_threads(threads)
    from cmai_core.comparison.correction import correct
    from cmai_core.comparison.run import results_dir

    with resumable(GOES_ON):
        correct(results_dir(), models, epsilons or None, quiet=quiet)


@compare.command("pilot")
def pilot(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="with consistency heads")],
    shortlists: Annotated[
        list[int] | None, typer.Option(metavar="K...", help="captions verified; 0: cosines answer (default: 0 5 10 30)")
    ] = None,
    scenes: Annotated[int, typer.Option(help="first validation scenes")] = 500,
    epsilon: Annotated[float, typer.Option(help="in units of 1/255")] = 2.0,
    folder: Annotated[Path, typer.Option(help="where it is kept while it is made")] = Path("runs") / "pilot",
    show: Annotated[bool, typer.Option("--table", help="print what is there, and measure nothing")] = False,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Attack verified answering on validation scenes, ever harder; goes on where it stopped."""
    use_threads(threads)
    from cmai_core.comparison.pilot import SHORTLISTS, Pilot, Terms, table

    if not show:
        from cmai_core.data import load_dataset
        from cmai_core.models import load_model

        dataset, terms = load_dataset("tabletop", split="validation"), Terms(scenes=scenes, epsilon=epsilon)
        with resumable(GOES_ON):
            for spec in models:
                model = load_model(spec)
                asked = Pilot(folder / f"{model.name}-{epsilon:g}.json", model, dataset, terms)
                bar = progress_bar(quiet, form=SHARE_AND_WORDS, words=_stage_of(model.name))
                with interruptible() as cancel, bar as report:
                    for shortlist in shortlists or SHORTLISTS:
                        asked.measure(shortlist, progress=report, cancel=cancel)
    print(table(folder))


@compare.command("seeds")
def seeds(
    models: Annotated[list[str], typer.Argument(metavar="MODEL@SEED=SPECIFICATION...")],
    folder: Folder = FOLDER,
    quiet: Quiet = False,
) -> None:
    """Measure further seeds of the best defences, whose models are not shipped."""
    specs = dict(text.partition("=")[::2] for text in models)
    for name, spec in specs.items():
        if name.count("@") != 1 or not spec:
            raise OptionError(f"{name!r} is not MODEL@SEED=SPECIFICATION.", "Such as tabletop-tecoa@1=local-dir:…")
    from cmai_core.comparison.run import Comparison, results_dir
    from cmai_core.comparison.seeds import measure_seeds

    with resumable(GOES_ON):
        measure_seeds(Comparison(folder), specs, results_dir(), quiet)


@compare.command("trials")
def trials(
    recipes: Annotated[list[str], typer.Argument(metavar="RECIPE...", help="training recipes")],
    folder: Annotated[Path, typer.Option(help="trainings and figures")] = Path("runs") / "trials",
    base: Annotated[str, typer.Option(help="model that all start from")] = "tabletop-2",
    epsilons: Annotated[
        list[float] | None, typer.Option(metavar="E...", help="that are tried, in units of 1/255 (default: 3 4.5 6)")
    ] = None,
    scenes: Annotated[int, typer.Option(help="validation scenes measured on")] = 300,
    training_scenes: Annotated[int | None, typer.Option(help="use only the first so many training scenes")] = None,
    seed: Annotated[int, typer.Option(help="of the trainings")] = 0,
    device: Device = None,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Choose each recipe's ε by short trainings, on validation scenes alone; goes on where it stopped."""
    use_threads(threads)
    from cmai_core.comparison.trials import EPSILONS, Terms, run_trials, table

    tried = tuple(epsilons or EPSILONS)
    terms = Terms(base, epsilons=tried, seed=seed, scenes=scenes, training_scenes=training_scenes)

    def tell(name: str, figures: dict[str, Any]) -> None:
        worst = ", ".join(f"{100 * value:.1f}" for value in figures["worst"])
        print(f"{name}: clean {100 * figures['clean']:.1f}, worst {worst}", flush=True)

    with resumable(GOES_ON), interruptible() as cancel, progress_bar(quiet, form=SHARE_AND_WORDS) as show:
        out = run_trials(recipes, folder, terms, device=device, progress=show, cancel=cancel, report=tell)
    print(table(out))


@compare.command("train")
def train(
    recipes: Annotated[list[str], typer.Argument(metavar="RECIPE...", help="training recipes")],
    folder: Annotated[Path, typer.Option(help="gets a folder a recipe")] = Path("runs") / "second",
    trials: Annotated[Path, typer.Option(help="folder of the trials that chose ε")] = Path("runs") / "trials",
    base: Annotated[str, typer.Option(help="model that all start from")] = "tabletop-2",
    replay: Annotated[str, typer.Option(help="model whose schedule is followed, of recipes that replay one")] = "",
    seed: Annotated[int, typer.Option(help="of the trainings")] = 0,
    device: Device = None,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Train recipes for the second comparison, with the ε that their trials chose; goes on where it stopped."""
    use_threads(threads)
    from cmai_core.comparison.second import chosen_epsilons, train_second

    changes = {"replay": replay} if replay else {}
    with resumable(GOES_ON), interruptible() as cancel, progress_bar(quiet, form=SHARE_AND_WORDS) as show:
        options: dict[str, Any] = {"base": base, "seed": seed, "device": device, "progress": show, "cancel": cancel}
        made = train_second(recipes, folder, chosen_epsilons(trials), changes=changes, **options)
    for place in made:
        print(place)


@compare.command("cards")
def cards() -> None:
    """Write the published figures into the cards of the bundled models."""
    from cmai_core.comparison.cards import write_cards
    from cmai_core.comparison.results import read_results, stale
    from cmai_core.comparison.run import results_dir
    from cmai_core.models.families.bundled import bundled_dir

    results = read_results(results_dir())
    if old := stale(results):
        raise DataError(f"The results of {', '.join(old)} are of other weights.", "Run the comparison again.")
    print(f"written: {', '.join(write_cards(results, bundled_dir()))}")


@compare.command("protocol")
def protocol() -> None:
    """Print the terms of the comparison as Markdown."""
    from cmai_core.comparison.protocol import markdown

    print(markdown(), end="")
