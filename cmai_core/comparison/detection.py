"""How well detectors find the successful attacks of the part FAMILIES, and how S_c tells true captions from false."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cmai_core.comparison.detectors import GIVEN, Bank, Scores, left_out, raw_scores, with_rule
from cmai_core.comparison.protocol import DRIFTING, FAMILIES, PROTOCOL, Protocol
from cmai_core.comparison.verdicts import proportion
from cmai_core.data.pair import Pair, PairDataset
from cmai_core.defenses.misaligned import misaligned_captions
from cmai_core.evaluation.figures.detection import auroc_interval, threshold_at_fpr

ALL = "all"
_SEED = PROTOCOL.instruments.seed


def detection_figures(
    model: Any, name: str, frame: Any, store: Path, protocol: Protocol, test: PairDataset, validation: PairDataset
) -> dict[str, Any]:
    """Measure how well successful attacks on one model are detected, with the attacker unaware of any detector.

    Args:
        frame: predictions of the part FAMILIES, every attack on every scene. store: the folder they come from.
        test, validation: whole splits; the bank of distances are the validation pairs after those that thresholds are
            set on.

    Returns:
        - "detectors": a list of {detector, epsilon, family, auroc {value, low, high}, tpr {rate: share}, fpr {rate:
          share}, successes, clean}: successful attacks against clean test pairs, as many as the main part has.
          family: a recipe or "all". Intervals count pictures as independent: under "all" a scene may stand there once
          for each attack, so those are too narrow.
        - "aligned": for clean pairs and for each ε: AUROC of each score between a scene's caption and a false one
          ({score: {value, low, high}}), and `quantile`: where the attacked pairs' S_c (their cosine, without heads)
          lies among the clean pairs', on average. Clean are the main part's scenes, attacked those of FAMILIES, all of
          them, as the attack DRIFTING made them, whether or not it turned the answer.
    """
    from cmai_core.tasks.retrieval import Retrieval

    part, bank_size = protocol.part(FAMILIES), protocol.instruments.bank
    count, thresholds = min(protocol.part("main").limit, len(test)), min(protocol.thresholds, len(validation))
    rest = range(thresholds, min(len(validation), thresholds + bank_size))
    bank = Bank.of(model, validation, rest or range(thresholds))
    pairs = [test[k] for k in range(count)]
    held_out = [validation[k] for k in range(thresholds)]
    own = Retrieval(max(protocol.gallery, thresholds))
    raw = raw_scores(model, own, validation, held_out, [p.image for p in held_out], bank)
    reference = with_rule(raw, raw)
    task = Retrieval(max(protocol.gallery, count))
    plain = raw_scores(model, task, test, pairs, [p.image for p in pairs], bank)
    clean = with_rule(plain, raw)
    false = misaligned_captions(pairs, _SEED)
    against = raw_scores(model, task, test, pairs, [p.image for p in pairs], bank, false)
    out: dict[str, Any] = {"detectors": [], "aligned": {"clean": _aligned(plain, against)}}
    for epsilon in part.epsilons:
        families: dict[str, Scores] = {}
        whose: dict[str, np.ndarray] = {}
        for recipe, (at, examples) in _successes(frame, name, epsilon, pairs).items():
            fooled = [pairs[k] for k in at]
            scores = raw_scores(model, task, test, fooled, _pictures(store, examples, fooled, model), bank)
            families[recipe], whose[recipe] = with_rule(scores, raw), at
        out["detectors"] += _figures(clean, families, whose, reference, protocol, epsilon)
        at, shown = _drifting(frame, name, epsilon, store, pairs, model)
        seen, texts = [pairs[k] for k in at], [false[k] for k in at]
        attacked = raw_scores(model, task, test, seen, shown, bank)
        wrong = raw_scores(model, task, test, seen, shown, bank, texts)
        score = f"S_c, {GIVEN}" if f"S_c, {GIVEN}" in plain else f"cosine, {GIVEN}"
        quantile = np.searchsorted(np.sort(plain[score]), attacked[score]) / count
        out["aligned"][f"{epsilon:g}"] = _aligned(attacked, wrong) | {"quantile": float(quantile.mean())}
    return out


def _drifting(
    frame: Any, name: str, epsilon: float, store: Path, pairs: Sequence[Pair], model: Any
) -> tuple[list[int], list[np.ndarray]]:
    """Return the scenes of the part, and their pictures as the attack on S_c made them."""
    rows = _attacked(frame, name, epsilon, pairs)
    rows = rows[rows["recipe"] == DRIFTING].sort_values("at")
    at = [int(k) for k in rows["at"]]
    return at, _pictures(store, list(rows["example"]), [pairs[k] for k in at], model)


def _attacked(frame: Any, name: str, epsilon: float, pairs: Sequence[Pair]) -> Any:
    """Return predictions of a model's own examples at one ε, in the protocol's order; `at`: the scene's number."""
    place = {pair.id: k for k, pair in enumerate(pairs)}
    rows = frame[(frame["target"] == name) & (frame["source"] == name) & (frame["epsilon"] == epsilon)]
    rows = rows[rows["item"].isin(place)]
    return rows.assign(at=[place[item] for item in rows["item"]])


def _successes(frame: Any, name: str, epsilon: float, pairs: Sequence[Pair]) -> dict[str, tuple[np.ndarray, list[str]]]:
    """Return recipe → scenes that it turned from right to wrong, and their examples."""
    rows = _attacked(frame, name, epsilon, pairs)
    won = rows[(rows["correct_clean"].astype(float) == 1) & (rows["correct"].astype(float) == 0)]
    return {
        str(recipe): (group["at"].to_numpy(), list(group["example"]))
        for recipe, group in won.groupby("recipe", sort=False)
    }


def worst_pictures(
    frame: Any, name: str, epsilon: float, store: Path, pairs: Sequence[Pair], model: Any
) -> list[np.ndarray]:
    """Return what an attacker shows of each scene: the picture that fooled the model, else the last attack's.

    A scene that the model gets wrong unattacked is shown as it is. So the figures of all models are over the same
    scenes: without those, a model would be judged on the scenes that it finds easy.
    """
    rows = _attacked(frame, name, epsilon, pairs)
    rows = rows[rows["correct_clean"].astype(float) == 1]  # where all attacks ask all scenes, the others have rows too
    order = {recipe: k for k, recipe in enumerate(dict.fromkeys(rows["recipe"]))}
    asked = rows["recipe"].map(order)
    rows = rows.assign(asked=asked, missed=rows["correct"].astype(float)).sort_values(["missed", "asked"])
    # A scene that was fooled is asked no more, so it has one wrong answer; of the others the last recipe counts.
    fooled = rows[rows["missed"] == 0].drop_duplicates("at")
    stands = rows[(rows["missed"] == 1) & ~rows["at"].isin(fooled["at"])].drop_duplicates("at", keep="last")
    out = [pair.image for pair in pairs]
    for group in (fooled, stands):
        at = group["at"].tolist()
        pictures = _pictures(store, list(group["example"]), [pairs[k] for k in at], model)
        for k, picture in zip(at, pictures, strict=True):
            out[k] = picture
    return out


def _pictures(store: Path, examples: Sequence[str], pairs: Sequence[Any], model: Any) -> list[np.ndarray]:
    from cmai_core.evaluation.runs.predictions import adversarial
    from cmai_core.evaluation.runs.predictor import make_batch, pictures
    from cmai_core.evaluation.store.store import Store

    with Store.read(store) as opened:
        out = []
        for start in range(0, len(pairs), 64):
            clean = pictures(make_batch(model, pairs[start : start + 64], 1).pixels)
            some = list(examples)[start : start + 64]
            out += [adversarial(opened, example, image)[0] for example, image in zip(some, clean, strict=True)]
    return out


def _figures(
    clean: Scores,
    families: Mapping[str, Scores],
    whose: Mapping[str, np.ndarray],
    reference: Scores,
    protocol: Protocol,
    epsilon: float,
) -> list[dict[str, Any]]:
    rng = np.random.default_rng(_SEED)
    out = []
    for detector, values in clean.items():
        tau = {rate: threshold_at_fpr(reference[detector], rate) for rate in protocol.rates}
        sets = {family: scores[detector] for family, scores in families.items()}
        if sets:
            sets = {ALL: np.concatenate(list(sets.values())), **sets}
        for family, attacked in sets.items():
            rates = {f"{rate:g}": (_flagged(values, t), _flagged(attacked, t)) for rate, t in tau.items()}
            named = {"detector": detector, "epsilon": epsilon, "family": family}
            named |= {"successes": len(attacked), "clean": len(values)}
            named["auroc"] = asdict(auroc_interval(values, attacked, generator=rng, resamples=400))
            named["fpr"] = {rate: fpr for rate, (fpr, _) in rates.items()}
            named["tpr"] = {rate: tpr for rate, (_, tpr) in rates.items()}
            out.append(named)
    return out + _learned(clean, families, whose, epsilon)


def _learned(
    clean: Scores, families: Mapping[str, Scores], whose: Mapping[str, np.ndarray], epsilon: float
) -> list[dict[str, Any]]:
    """Learn detectors with one attack family left out; scenes are halved, so that none is trained on and reported."""
    if f"V, {GIVEN}" not in clean:
        return []
    count = len(next(iter(clean.values())))
    half = {family: at % 2 == 0 for family, at in whose.items()} | {"clean": np.arange(count) % 2 == 0}
    found = left_out(clean, families, half)
    rng = np.random.default_rng(_SEED)
    out = []
    for family in families:
        if family not in found:
            continue
        good, bad = found[f"clean, without {family}"], found[family]
        named = {"detector": "CMCV, learned without this family", "epsilon": epsilon, "family": family}
        named |= {"successes": len(bad), "clean": len(good)}
        out.append(named | {"auroc": asdict(auroc_interval(good, bad, generator=rng, resamples=400))})
    return out


def _aligned(true: Scores, false: Scores) -> dict[str, Any]:
    """Return AUROC of each score of the given caption: a true caption should score higher than a false one."""
    rng = np.random.default_rng(_SEED)
    names = [name for name in true if name.endswith(f", {GIVEN}") and not name.startswith("CMCV")]
    return {
        name: asdict(auroc_interval(true[name], false[name], generator=rng, resamples=400, paired=True))
        for name in names
    }


def _flagged(scores: np.ndarray, tau: float) -> dict[str, float]:
    return proportion(int((scores < tau).sum()), len(scores))
