"""Is verified answering worth having where the attacker knows of it? Measured on validation scenes first.

    cmai compare pilot tabletop-hard-negative                  # goes on where it was stopped
    cmai compare pilot tabletop-tecoa --shortlists 5 30 --scenes 200

A model answers retrieval by its cosines alone, and with the k likeliest captions verified. Each way of answering is
attacked by all of `ROUNDS` (`comparison.cascade`), so that the figure is a worst case.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmai_core.comparison.cascade import Cascade, Round, held, marks_of, standing
from cmai_core.comparison.tables import markdown, percent
from cmai_core.comparison.verdicts import rights, share
from cmai_core.errors import CmaiError, DataError
from cmai_core.files import write_json
from cmai_core.progress import CancelToken, ProgressCallback

if TYPE_CHECKING:
    from cmai_core.tasks.verified import VerifiedAnswers

COSINE = 0
"""The shortlist's length that stands for answering by cosines alone."""
SHORTLISTS = (COSINE, 5, 10, 30)
_TASK = "retrieval"


ROUNDS = (
    Round("cosine", "pgd:steps=20,objective=margin", bare=True),
    Round("V alone", "verifier-pgd:steps=20", verified=True),
    Round("both stages", "verified-pgd:steps=20", verified=True),
    Round("shortlist, then V", "shortlist-verifier:steps=20", verified=True),
    Round("APGD", "apgd:steps=100,objective=margin"),
    Round("APGD, 5 restarts", "apgd:steps=100,restarts=5,objective=task"),
    Round("both stages, 100 steps", "verified-pgd:steps=100,restarts=5", verified=True),
    Round("APGD-T", "apgd-t:steps=25"),
    Round("Square", "square:queries=1000"),
)
NOISE = 20
"""Draws of random signs times ε, a check: they must take far less than any attack."""


@dataclass(frozen=True)
class Terms:
    """What is asked.

    Attributes:
        scenes: first validation scenes. gallery: captions that are retrieved from. epsilon: in units of 1/255.
        temperature, gamma, kappa: of the rule (`VerifiedAnswers`). seed: of all random numbers.
    """

    scenes: int = 500
    gallery: int = 1000
    epsilon: float = 2.0
    temperature: float = 1e3
    gamma: float = 1.0
    kappa: float = 0.0
    seed: int = 0

    def rule(self, shortlist: int) -> VerifiedAnswers | None:
        """Return the rule for a shortlist; None where the model's cosines answer."""
        from cmai_core.tasks.verified import VerifiedAnswers

        if shortlist == COSINE:
            return None
        return VerifiedAnswers(shortlist=shortlist, temperature=self.temperature, gamma=self.gamma, kappa=self.kappa)


class Pilot:
    """The pilot of one model in a file.

    Args:
        path: JSON, made where there is none. model: with consistency heads. dataset: of which the first scenes are
            attacked. terms: what is asked.

    Raises:
        CmaiError: the file is of other weights or terms.
    """

    def __init__(self, path: Path, model: Any, dataset: Any, terms: Terms):
        self.path, self.model, self.dataset, self.terms = path, model, dataset, terms
        own = {"model": model.name, "hash": model.hash, "terms": asdict(terms)}
        self.found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else own | {"shortlists": {}}
        if {name: self.found.get(name) for name in own} != own:
            raise CmaiError(f"{path} holds a pilot of other weights or terms.", "Give another --folder.")

    def answer(self, shortlist: int) -> Any:
        """Return the model as it answers with a shortlist."""
        from cmai_core.defenses.system import System

        rule = self.terms.rule(shortlist)
        return self.model if rule is None else System(self.model, answering={_TASK: rule})

    def measure(
        self, shortlist: int, *, progress: ProgressCallback | None = None, cancel: CancelToken | None = None
    ) -> dict[str, Any]:
        """Run the rounds that are not there yet for one way of answering; each is kept when it is done.

        Raises:
            Cancelled: the rounds before are kept.
        """
        entry = self.found["shortlists"].setdefault(str(shortlist), {"rounds": {}})
        cascade = self._cascade(shortlist)
        if "clean" not in entry:
            right, noisy = cascade.right(), cascade.right(cascade.noise, NOISE)
            both = [a and b for a, b in zip(right, noisy, strict=True)]
            entry |= {"clean": marks_of(right), "noise": marks_of(both)}
            self._keep()
        for attack in ROUNDS:
            if attack.name in entry["rounds"] or (attack.verified and shortlist == COSINE):
                continue
            tools = {"progress": progress, "cancel": cancel, "said": f"k={shortlist}, "}
            entry["rounds"][attack.name] = cascade.attacked(attack, standing(entry), **tools)
            self._keep()
        return entry

    def _keep(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self.found)

    def _cascade(self, shortlist: int) -> Cascade:
        from cmai_core.tasks.retrieval import Retrieval

        task = Retrieval(max(self.terms.gallery, self.terms.scenes))
        asked = (self.terms.scenes, self.terms.epsilon, self.terms.seed)
        return Cascade(self.model, self.answer(shortlist), task, self.dataset, *asked)


def table(folder: Path) -> str:
    """Tabulate the pilots of a folder.

    Raises:
        DataError: there is none.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise DataError(f"No pilot lies in {folder}.", "Run `cmai compare pilot MODEL`.")
    names = [attack.name for attack in ROUNDS]
    head = [
        "model",
        "ε",
        "answered by",
        "scenes",
        "clean",
        "noise",
        *names,
        "worst case",
        "taken only between the levels",
    ]
    rows = []
    for file in files:
        found = json.loads(file.read_text(encoding="utf-8"))
        for shortlist, entry in sorted(found["shortlists"].items(), key=lambda item: int(item[0])):
            how = "cosine" if int(shortlist) == COSINE else f"V of {shortlist}"
            row = [f"`{found['model']}`", f"{found['terms']['epsilon']:g}/255", how, str(len(entry["clean"]))]
            row += [percent(share(entry["clean"])), percent(share(entry["noise"]))]
            for name in names:
                done = entry["rounds"].get(name)
                asked = done and rights(done["marks"])
                row.append("–" if done is None else f"{int((~asked).sum())} of {len(asked)}")
            between = sum(done["only_unrounded"] for done in entry["rounds"].values())
            rows.append([*row, percent(share(held(entry))), str(between)])
    return markdown(head, rows)
