"""What ARM's reference attack finds on a trained model: where τ_c of a later training is read off.

cmai reference local-dir:runs/cmcv-mbat/model
"""

from __future__ import annotations

from typing import Any


def reference_figures(spec: str, recipe: str = "cmai") -> dict[str, Any]:
    """Return S_c under the reference attack of a recipe with ARM.

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
    scenes = max(500, chosen.validation_pairs, settings.pairs)
    arrays = training_arrays(vocabulary, "validation", scenes, false_captions=True)
    batch = reference_batch(chosen, arrays, settings.pairs).to(model.device)
    scores = reference_scores(take_apart(model), model.heads, batch, settings)
    mean = float(scores.mean())
    return {
        "mean": round(mean, 4),
        "variance": round(float(scores.var()), 4),
        "pairs": len(scores),
        "tau": round(mean, 2),
    }


if __name__ == "__main__":
    import sys

    from cmai_core.cli import main

    raise SystemExit(main(["reference", *sys.argv[1:]]))
