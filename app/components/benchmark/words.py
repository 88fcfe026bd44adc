"""Figures, models and attacks of the benchmark in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.access import permissions
from app.components.common.theme import ROLES
from app.components.common.words import TASK_WORDS
from app.services.models import model_cards
from cmai_core.lab.benchmark.choices import recipe_words

if TYPE_CHECKING:
    pass


WORST_WORD = "worst case"

MODALITY_WORDS = {"clean": "clean", "image": "picture", "text": "words", "joint": "both"}


def figure_id(row: Any) -> str:
    """Return a name of a row of `Results.figures` that stays the same while the store grows, in every table."""
    from cmai_core.evaluation.figures.outcomes import CELL

    # How much the attacker knows follows from the rest, and not every table says it in the same words.
    return "|".join(_same(row[name]) for name in CELL if name != "knowledge")


def _same(value: Any) -> str:
    """Return a value as every table writes it: 2 and 2.0 are one number, and what is missing is nothing."""
    if value is None or value != value:
        return ""
    return f"{value:.9g}" if isinstance(value, (int, float)) or hasattr(value, "dtype") else str(value)


def percent(value: Any, low: Any = None, high: Any = None) -> str:
    """Return "76 % [70, 82]", "–" for what is not known."""
    if value is None or value != value:
        return "–"
    interval = "" if low is None or low != low else f" [{100 * low:.0f}, {100 * high:.0f}]"
    return f"{100 * value:.0f} %{interval}"


def model_word(name: str) -> str:
    """Return a model's name, with the mark of its role if it is a bundled one."""
    card = model_cards().get(name.partition(" · ")[0])
    if card is None:
        return permissions.display_name(name)
    return f"{ROLES['defended' if card.defended else 'undefended'].mark} {name}"


def attack_word(row: Any) -> str:
    """Return a figure's attack in words."""
    if row["kind"] == "clean":
        return "none (clean)"
    return f"{WORST_WORD} of {row['contenders']:g}" if row["kind"] == "worst" else recipe_words(row["recipe"])


def title_of(row: Any) -> str:
    """Return a figure in a line."""
    where = "" if row["own"] else f", crafted on {permissions.display_name(row['source'])}"
    budget = f" at {row['budget']}" if row["budget"] else ""
    seed = f", seed {row['seed']}" if row["kind"] != "clean" and row["seed"] == row["seed"] and row["seed"] else ""
    task = TASK_WORDS.get(row["task"], "S_c only")
    return f"{permissions.display_name(row['target'])} · {task} · {attack_word(row)}{budget}{where}{seed}"
