"""What every image attack must keep, as functions that name what is wrong: for the real searches and for broken ones.

`flaws` judges any attack on any model; `violations` judges an L∞ attack on −S_c of a linear model, whose best result is
known exactly. An empty list means that nothing is wrong.
"""

from __future__ import annotations

import torch

from cmai_core.attacks.engine.evaluator import Evaluator
from cmai_core.attacks.objectives.objective import Consistency
from cmai_core.attacks.result import round_to_8bit
from cmai_core.models.evaluation_mode import evaluation_mode
from cmai_core.progress import CancelToken


class Canceller:
    """Cancels at its n-th message."""

    def __init__(self, after):
        self.token, self.left = CancelToken(), after
        if after == 0:
            self.token.cancel()

    def __call__(self, update):
        self.left -= 1
        if self.left == 0:
            self.token.cancel()


class Snapshot:
    """A model in training mode with one frozen parameter and gradients lying about, and everything it had then."""

    def __init__(self, model):
        self.model = model.train()
        self.parameters = list(model.parameters())
        self.parameters[-1].requires_grad_(False)
        for parameter in self.parameters[:-1]:
            parameter.grad = torch.ones_like(parameter)
        self.state = {name: value.clone() for name, value in model.state_dict().items()}
        self.random = torch.get_rng_state()

    def changes(self):
        *trained, frozen = self.parameters
        same = all(torch.equal(self.model.state_dict()[name], value) for name, value in self.state.items())
        same &= all(module.training for module in self.model.modules())
        same &= all(p.requires_grad and torch.equal(p.grad, torch.ones_like(p)) for p in trained)
        same &= not frozen.requires_grad and frozen.grad is None
        same &= not any(module._forward_hooks or module._forward_pre_hooks for module in self.model.modules())
        found = [] if same else ["model changed"]
        if not torch.equal(torch.get_rng_state(), self.random):
            found.append("global random state changed")
        return found

    def put_back(self):
        self.model.eval()
        for parameter in self.parameters:
            parameter.requires_grad_(True)
            parameter.grad = None


def outside(attack, clean, pixels):
    """Whether pixels leave the threat's region ("ball", "patch") or the box."""
    found = []
    norm, epsilon = attack.threat.norm, attack.threat.sized(clean[0].numel()).epsilons(len(clean)).to(clean)
    delta = (pixels - clean).flatten(1)
    size = {
        "linf": lambda: delta.abs().amax(dim=1),
        "l2": lambda: delta.norm(dim=1),
        "l1": lambda: delta.abs().sum(dim=1),
        "l0": lambda: (pixels != clean).any(dim=1).flatten(1).sum(dim=1),
        "patch": lambda: torch.zeros(len(clean)),
    }[norm]()
    if (size > epsilon * (1 + 1e-9) + 1e-12).any():
        found.append("ball")
    if norm == "patch" and ((pixels != clean) & ~attack.threat.masks(clean)).any():
        found.append("ball")
    if not (pixels.min() >= 0 and pixels.max() <= 1):
        found.append("box")
    return found


def fresh(attack, model, batch, pixels):
    """Objective and success of some pixels, scored anew by nothing but the attack's own parts."""
    with evaluation_mode(model):
        shared = {}
        parts = (attack.objective.bind(model, batch, shared), attack.success.bind(model, batch, shared))
        evaluator = Evaluator(model, *parts, None, batch=batch, shared=shared)
        evaluator.clean_value = evaluator.score(batch.pixels).value
        return evaluator.score(pixels)


def flaws(kit, attack, model, batch, *, least=1, best=True, split=True, seed=3):
    """What is wrong with an attack.

    Args:
        least: successes it must reach among the samples right when clean. best: whether it promises the best iterate.
        split: whether a sample's result must not depend on the others (a universal perturbation's does).
    """
    clean, found = batch.pixels.clone(), []
    snapshot = Snapshot(model)
    try:
        result = attack(model, batch, seed=seed)
        if not torch.equal(batch.pixels, clean) or batch.pixels.requires_grad:
            found.append("input changed")
        found += snapshot.changes()
        found += outside(attack, clean, result.pixels)
        again = attack(model, batch, seed=seed)
        if not torch.equal(again.pixels, result.pixels):
            found.append("seed")
        order = list(range(len(batch.ids)))[::-1]
        if not _same(attack(model, kit.take(batch, order), seed=seed), result, order):
            found.append("order")
        half = len(order) // 2
        parts = (order[:half], order[half:])
        if split and not all(_same(attack(model, kit.take(batch, rows), seed=seed), result, rows) for rows in parts):
            found.append("split")
        found += _report(attack, model, batch, result)
        trace = result.objective_trace.nan_to_num(nan=-torch.inf).amax(dim=0)
        if best and (~result.success & (result.objective < trace - 1e-9)).any():
            found.append("best")
        if int((result.success & ~result.clean_success).sum()) < least:
            found.append("weak")
        found += _cancelled(attack, model, batch, result, best, seed)
    finally:
        snapshot.put_back()
    return found


def _same(part, whole, rows):
    return torch.allclose(part.pixels, whole.pixels[rows], atol=1e-9) and torch.equal(
        part.forwards, whole.forwards[rows]
    )


def _report(attack, model, batch, result):
    found = []
    now = fresh(attack, model, batch, result.pixels)
    if not torch.allclose(now.value, result.objective) or not torch.equal(now.success, result.success):
        found.append("report")
    rounded = fresh(attack, model, batch, round_to_8bit(result.pixels))
    if not torch.equal(rounded.success, result.success_8bit):
        found.append("rounding")
    return found


def _cancelled(attack, model, batch, whole, best, seed):
    """Cancelled at once and after two messages: says so, spends less, and returns what it has."""
    for after in (0, 2):
        stop = Canceller(after)
        result = attack(model, batch, seed=seed, progress=stop, cancel=stop.token, progress_interval=0)
        # A criterion asked once a restart may cost a pass.
        if after == 0 and (not result.cancelled or int(result.forwards.max()) > 1 or result.backwards.any()):
            return ["cancel"]
        if int(result.forwards.sum()) > int(whole.forwards.sum()) or outside(attack, batch.pixels, result.pixels):
            return ["cancel"]
        gained = result.success & ~result.clean_success
        if best and (~gained & (result.objective < result.clean_objective - 1e-9)).any():
            return ["cancel"]
    return []


def linear_optimum(model, batch, epsilon):
    """Exact maximum of −S_c of a linear model over the L∞ ball ∩ box."""
    weight = model.tower[1].weight.double()
    gradient = -(model.encode_text(list(batch.texts)) @ weight).view_as(batch.pixels)
    lower, upper = (batch.pixels - epsilon).clamp(min=0), (batch.pixels + epsilon).clamp(max=1)
    best = torch.where(gradient > 0, upper, lower)
    with torch.no_grad():
        return best, -(model(best) * model.encode_text(list(batch.texts))).sum(dim=1)


def violations(kit, make_attack, epsilon=8 / 255):
    """What is wrong with an L∞ attack on −S_c of a linear model: all of `flaws`, and "optimum" where it is not reached.

    `make_attack(objective)` builds it.
    """
    model = kit.linear_model()
    batch = kit.make_batch(model, 5)
    attack = make_attack(-Consistency())
    best = getattr(attack.search, "keep", "best") == "best"
    found = flaws(kit, attack, model, batch, least=5, best=best)
    optimum = linear_optimum(model, batch, epsilon)[1]
    result = attack(model, batch, seed=3)
    if ((optimum - result.objective) / (optimum - result.clean_objective) > 1e-6).any():
        found.append("optimum")
    return found
