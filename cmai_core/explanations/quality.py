"""How far the maps of a method can be trusted: every check of this package on the same pairs, as one table."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cmai_core.explanations.attention import attention_flow, last_layer_attention
from cmai_core.explanations.attribution import pixel_attribution
from cmai_core.explanations.chefer import relevance
from cmai_core.explanations.faithfulness import deletion_insertion, infidelity, max_sensitivity, summary
from cmai_core.explanations.gradcam import grad_cam
from cmai_core.explanations.randomisation import cascading_randomisation
from cmai_core.options import one_of

if TYPE_CHECKING:
    import pandas as pd

    from cmai_core.data.pair import PairDataset
    from cmai_core.models.protocol import VisionLanguageModel

METHODS: dict[str, Callable[..., Any]] = {
    "relevance": relevance,
    "grad-cam": grad_cam,
    "integrated-gradients": pixel_attribution,
    "attention-flow": lambda model, pixels, texts: attention_flow(model, pixels),
    "last-layer-attention": lambda model, pixels, texts: last_layer_attention(model, pixels),
}
"""Name → (model, pixels N×3×S×S, texts) → N maps."""
COLUMNS = ("target", "method", "check", "mean", "least", "most", "pairs", "sound")


def explanation_quality(
    model: VisionLanguageModel, dataset: PairDataset, method: str = "relevance", *, seed: int = 0
) -> pd.DataFrame:
    """Check the maps that a method makes of S_c of the pairs' first captions.

    Args:
        dataset: all of its pairs are used. method: of METHODS. seed: of everything random.

    Returns:
        One row a check with COLUMNS, over the pairs: gains of deletion and insertion over random order (above 0 is
        better than chance), infidelity (0 is perfect, 1 knows nothing), sensitivity (0 is stable), and the correlation
        with the map of a model whose image tower is random (near 0). `sound` says which way is good.

    Raises:
        OptionError: another method.
        ModelError: the method needs parts that the model does not have.
    """
    import pandas as pd

    one_of("method", method, tuple(METHODS))
    explain = METHODS[method]
    pairs = [dataset[k] for k in range(len(dataset))]
    pixels, texts = model.preprocess([pair.image for pair in pairs]), [pair.captions[0] for pair in pairs]
    maps = explain(model, pixels, texts)
    random = {"generator": torch.Generator().manual_seed(seed)}
    gains = summary(deletion_insertion(model, pixels, texts, maps, **random))
    found = {(name, "above 0"): values for name, values in gains.items()}
    found["infidelity", "near 0"] = infidelity(model, pixels, texts, maps, **random)
    found["sensitivity", "near 0"] = max_sensitivity(explain, model, pixels, texts, **random)
    randomised = cascading_randomisation(explain, model, pixels, texts, **random)
    found["correlation with random weights", "near 0"] = randomised.final
    rows = []
    for (check, sound), values in found.items():
        known = values[~np.isnan(values)]
        figures = [float(f(known)) if len(known) else np.nan for f in (np.mean, np.min, np.max)]
        rows.append([model.spec, method, check, *figures, len(known), sound])
    return pd.DataFrame(rows, columns=list(COLUMNS))
