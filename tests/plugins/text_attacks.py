"""An attack on texts from another package: a word is written in capitals."""

from __future__ import annotations

from cmai_core.attacks.specs import WORDS, Recipe

SHOUT = Recipe(
    slug="shout",
    title="Shouting",
    word="shouting",
    family=WORDS,
    modality="text",
    knowledge="scores",
    threat="words, written in capitals",
    make="other.text_attacks:make",
    compare="robustness against spelling",
    objective="consistency",
    cost=20.0,
)


class Capitals:
    """Proposes each word in capitals."""

    def propose(self, texts, words, randoms):
        """Give the candidates of each text."""
        from cmai_core.attacks.text_searches.proposers import Candidate

        found = []
        for text, chosen in zip(texts, words, strict=True):
            split = text.split(" ")
            places = range(len(split)) if chosen is None else [k for k in chosen if k < len(split)]
            found.append(
                [Candidate(" ".join([*split[:k], split[k].upper(), *split[k + 1 :]]), k, "capitals") for k in places]
            )
        return found

    def describe(self) -> str:
        """Name it in reports."""
        return "capitals"


def make(*, words: int = 1, objective=None, success=None, task=None, dataset=None):
    """Make the attack of the recipe."""
    from cmai_core.attacks.objectives.success import Raised
    from cmai_core.attacks.objectives.text import PairConsistency
    from cmai_core.attacks.text_attack import TextAttack
    from cmai_core.attacks.text_searches.search import ImportanceSearch
    from cmai_core.attacks.threats.text import TextThreat

    return TextAttack(
        threat=TextThreat(words=words, truth="none"),
        objective=objective or -PairConsistency(),
        success=success or Raised(),
        search=ImportanceSearch(proposer=Capitals()),
    )


def use() -> object:
    """Run it on captions."""
    import cmai_core as cmai

    report = cmai.attack("tabletop", "tabletop", recipe="shout", limit=2)
    return report.data["attack"]["name"] == "shout" and len(report.data["samples"]) == 2
