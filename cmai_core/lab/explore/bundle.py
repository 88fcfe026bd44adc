"""The bundled run, which the page Explore shows before anything is loaded.

    python -m cmai_core.lab.explore.bundle            # makes assets/explore from assets/models; some minutes

Reading it needs neither torch nor a model. It carries the hashes of the models it was made with; a test holds them
against the bundled ones.
"""

from __future__ import annotations

import time
from pathlib import Path

from cmai_core.data.registry import DATASETS, DEFAULT_DATASET
from cmai_core.lab.experiment import DEFENDED, UNDEFENDED, Experiment
from cmai_core.lab.explore.run import ExploreRun
from cmai_core.lab.explore.storage import read_run, save_run
from cmai_core.paths import assets_dir
from cmai_core.progress import Progress

PAIRS, STEPS, EPSILONS = 896, 10, (2.0, 4.0)
MOST_BYTES = 3_000_000


def bundle_path() -> Path:
    """Return where the bundled run lies."""
    return assets_dir() / "explore" / "run.zip"


def bundled_run(path: Path | None = None) -> ExploreRun | None:
    """Return the bundled run; None where none has been made.

    Raises:
        DataError: it is there but cannot be read.
    """
    path = path or bundle_path()
    return read_run(path) if path.is_file() else None


def build(path: Path | None = None, pairs: int = PAIRS) -> ExploreRun:
    """Attack the first test pairs on the lab's models A and B, project them, and write the file."""
    from cmai_core.data import load_dataset
    from cmai_core.lab.explore.layout import with_maps
    from cmai_core.lab.explore.make import make_run
    from cmai_core.models import load_model

    info = DATASETS[DEFAULT_DATASET]
    models = {"A": load_model(UNDEFENDED), "B": load_model(DEFENDED)}
    run = make_run(
        models,
        load_dataset(info.name, split=info.usual, limit=info.most),
        count=pairs,
        experiment=Experiment(a=UNDEFENDED, b=DEFENDED, steps=STEPS),
        epsilons=EPSILONS,
        precision="bfloat16",
        progress=_Printed(),
    )
    run = with_maps(run, tell=lambda words: print(words, flush=True))
    path = path or bundle_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_run(run, path)
    return run


class _Printed:
    """Progress as a line now and then."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, update: Progress) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + 20
            print(f"{update.stage}: {update.fraction:.0%}", flush=True)


if __name__ == "__main__":
    made = build()
    print(f"Made {bundle_path()}: {len(made)} pairs, {bundle_path().stat().st_size:,} bytes.")
