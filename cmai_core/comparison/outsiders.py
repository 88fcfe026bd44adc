"""PGD of Foolbox and torchattacks for a grid: "foolbox@cmai_core.comparison.outsiders:foolbox_pgd".

Foolbox (Rauber et al. 2020, JOSS 5(53) 2607) and torchattacks (Kim 2020, arXiv 2010.01950) are no dependencies of this
project (`pip install 'cmai[peers]'`), so their objects are made when they are asked for. The grid gives them ε
and a classifier to attack (`evaluation.runs.external`).

The published results hold this module's path as the attacks' name, and the protocol's hash covers it: it cannot move.
"""

from __future__ import annotations

from typing import Any

from cmai_core.comparison.protocol import PROTOCOL

STEPS = PROTOCOL.instruments.outside_steps
RELATIVE_STEP = 0.25


def __getattr__(name: str) -> Any:
    """Return `foolbox_pgd` or `torchattacks_pgd`; AttributeError for other names, and where the library is missing."""
    try:
        if name == "foolbox_pgd":
            import foolbox

            return foolbox.attacks.LinfPGD(steps=STEPS, rel_stepsize=RELATIVE_STEP)
        if name == "torchattacks_pgd":
            import torchattacks
            from torch import nn

            return torchattacks.PGD(nn.Linear(1, 1), eps=2 / 255, alpha=RELATIVE_STEP * 2 / 255, steps=STEPS)
    except ImportError as error:
        raise AttributeError(f"{error} (pip install 'cmai[peers]')") from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
