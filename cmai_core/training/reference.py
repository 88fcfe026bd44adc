"""What ARM's reference attack finds on a trained model: where τ_c of a later training is read off.

python -m cmai_core.training.reference local-dir:runs/cmcv-mbat/model
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from cmai_core.terminal import exit_status


def reference_figures(spec: str, recipe: str = "cmai") -> dict[str, Any]:
    """S_c under the reference attack of a recipe with ARM.

    Args:
        spec: of a model with consistency heads.

    Returns:
        `mean` and `variance` of S_c over the reference pairs, `pairs`, and `tau`, the mean to two decimals.

    Raises:
        CmaiError: the model cannot be loaded or has no heads; a recipe without ARM.
    """
    from cmai_core.data.tabletop.arrays import training_arrays
    from cmai_core.errors import ModelError, OptionError
    from cmai_core.models import load_model
    from cmai_core.models.tokenizer import bundled_tokenizer_dir
    from cmai_core.training.recipes import get_recipe
    from cmai_core.training.steering import reference_batch, reference_scores
    from cmai_core.training.trainer import take_apart

    chosen = get_recipe(recipe)
    if chosen.controller is None:
        raise OptionError(f"The recipe {recipe} has no ARM.", "Give one that has, such as cmai.")
    model = load_model(spec)
    if model.heads is None:
        raise ModelError(f"{spec} has no consistency heads.", "Train them: `cmai train --recipe cmcv --base ...`.")
    settings = chosen.controller
    vocabulary = bundled_tokenizer_dir() / "tokenizer.json"
    arrays = training_arrays(vocabulary, "validation", max(500, settings.pairs), false_captions=True)
    batch = reference_batch(chosen, arrays, settings.pairs).to(model.device)
    scores = reference_scores(take_apart(model), model.heads, batch, settings)
    mean = float(scores.mean())
    return {
        "mean": round(mean, 4),
        "variance": round(float(scores.var()), 4),
        "pairs": len(scores),
        "tau": round(mean, 2),
    }


def main(argv: list[str] | None = None) -> int:
    """Prints the figures as JSON; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m cmai_core.training.reference", description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a model with consistency heads, such as local-dir:runs/cmcv-mbat/model")
    parser.add_argument("--recipe", default="cmai", help="whose reference attack (default: cmai)")
    args = parser.parse_args(argv)
    return exit_status(lambda: print(json.dumps(reference_figures(args.model, args.recipe))))


if __name__ == "__main__":
    sys.exit(main())
