"""Picture and one word at once, by best response and by SGA: with captions that stay true and with any."""

from __future__ import annotations

from typing import Any

import torch

from cmai_core.attacks import ThreatModel
from cmai_core.attacks.joint_attack import JointAttack
from cmai_core.attacks.joint_schedules.best_response import BestResponse
from cmai_core.attacks.joint_schedules.schedules import SGA, Scales
from cmai_core.attacks.objectives.text import Mismatch, Misretrieved, PairConsistency
from cmai_core.attacks.text_searches.masked_lm import MaskedLMProposer
from cmai_core.attacks.text_searches.search import BeamSearch
from cmai_core.attacks.threats.text import TextThreat
from cmai_core.budget import Budget
from cmai_core.comparison.protocol import Joint
from cmai_core.comparison.verdicts import marks
from cmai_core.data.pair import PairDataset
from cmai_core.evaluation.runs.predictor import make_batch
from cmai_core.progress import CancelToken, ProgressCallback

OURS = "best-response"
TRUE, FREE = "scene", "none"
# Image passes without gradients that best response needs more than SGA.
_OVERHEAD = 2


def attacks(joint: Joint, truth: str) -> dict[str, JointAttack]:
    """Make the joint attacks, each with the same budgets; the first is by best response on −S_c.

    Args:
        truth: as in `TextThreat`: "scene" (the caption stays true), "none".
    """
    text = BeamSearch(proposer=MaskedLMProposer())
    ours = BestResponse(text=text, steps=max(1, joint.passes - _OVERHEAD))
    sga = SGA(text=text, steps=max(1, joint.passes // len(Scales().ratios)))
    searches = {
        OURS: (ours, -PairConsistency()),
        f"{OURS}, picture→text": (ours, Mismatch("text")),
        f"{OURS}, text→picture": (ours, Mismatch("image")),
        "sga": (sga, -PairConsistency()),
    }
    return {
        name: JointAttack(
            threat=ThreatModel("linf", Budget("linf", joint.epsilon)),
            text_threat=TextThreat(words=joint.words, truth=truth),
            objective=objective,
            schedule=schedule,
            success=Misretrieved("image") | Misretrieved("text"),
            name=name,
        )
        for name, (schedule, objective) in searches.items()
    }


def joint_verdicts(
    model: Any,
    dataset: PairDataset,
    joint: Joint,
    *,
    seed: int = 0,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> dict[str, Any]:
    """Measure retrieval in both directions: a scene's picture and caption attacked, the others clean.

    Args:
        dataset: its first `joint.limit` scenes are attacked together.

    Returns:
        For "scene" and "none" (the caption stays true; anything goes): `clean`, `held` (worst case over the attacks)
        and `attacks` (name → right) as in `verdicts`; `changed`: captions changed by the attacks and `false`: how many
        of them became false; `s_c_clean`, `s_c`: means.
    """
    out = {}
    for truth, limit in ((TRUE, joint.limit), (FREE, joint.free)):
        pairs = [dataset[k] for k in range(min(limit, len(dataset)))]
        batch = make_batch(model, pairs, 1)
        found = {}
        for name, attack in attacks(joint, truth).items():
            found[name] = attack(model, batch, seed=seed, progress=progress, cancel=cancel)
            if cancel is not None:
                cancel.check()
        one = found[OURS]
        lost = torch.stack([one.clean_success, *(result.success_8bit for result in found.values())]).any(dim=0)
        changed = [
            (label, words)
            for result in found.values()
            for label, words in zip(result.label_changed, result.words_changed, strict=True)
            if words
        ]
        out[truth] = {
            "clean": marks((~one.clean_success).tolist()),
            "held": marks((~lost).tolist()),
            "attacks": {name: marks((~result.success_8bit).tolist()) for name, result in found.items()},
            "changed": len(changed),
            "false": sum(label is True for label, _ in changed),
            "s_c_clean": float(one.clean_consistency.mean()),
            "s_c": float(torch.stack([result.consistency_8bit for result in found.values()]).amin(dim=0).mean()),
        }
    return out
