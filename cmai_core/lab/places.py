"""Which datasets the lab's pages offer, all from the registry; a place is "<dataset>/<split>"."""

from __future__ import annotations

from cmai_core.data.registry import DATASETS, kind_of, split_title
from cmai_core.lab.experiment import parse_pair_id


def shown_places() -> dict[str, str]:
    """Return the places whose pairs can be chosen, with their titles."""
    found = {}
    for info in DATASETS.values():
        for split in info.shown:
            place = f"{info.name}/{split}"
            found[place] = info.title if len(info.shown) == 1 else split_title(place)
    return found


def surveyed_places() -> dict[str, str]:
    """Return the places on which many pairs can be attacked, with their titles: held-out and shifted ones, too."""
    places = (
        f"{info.name}/{split}" for info in DATASETS.values() for split in (*info.shown, *info.held_out, *info.shifts)
    )
    return {place: split_title(place) for place in places}


def place_of(pair: str) -> str:
    """Return where the pairs are that a pair (`Experiment.pair`) stands among.

    Its own split, or for an upload or a composed scene the first of its kind.

    Raises:
        CmaiError: there is no such pair.
    """
    item = parse_pair_id(pair)
    if item is not None:
        return f"{item[0]}/{item[1]}"
    kind = kind_of(pair)
    return next(f"{info.name}/{info.shown[0]}" for info in DATASETS.values() if info.kind == kind and info.shown)


def is_offered(pair: str) -> bool:
    """Tell whether the attack lab can open a dataset's pair."""
    try:
        return parse_pair_id(pair) is not None
    except ValueError:
        return False
