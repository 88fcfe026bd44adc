"""How to bring a model, what the data is, and what the words mean."""

from __future__ import annotations

import streamlit as st

from app.access import permissions
from app.components.common.guard import plain


def own_model() -> None:
    """Draw which other models may be used: those that the owner allows, or any."""
    now = permissions.rules()
    if not now.any:
        offered = ", ".join(f"`{permissions.display_name(spec)}`" for spec in now.allow)
        st.markdown(f"#### Other models\n\nThis lab offers {offered or 'the bundled models only'}.")
    else:
        _any_model()
    _from_python()


def _any_model() -> None:
    st.markdown(
        """
#### Any model that OpenCLIP loads

In the attack lab choose **OpenCLIP model …** and type its specification, as `open_clip` names it:

| specification | what |
|---|---|
| `ViT-B-32/laion2b_s34b_b79k` | an architecture and a pretrained tag |
| `hf-hub:chs20/fare4-clip` | a repository on the Hugging Face Hub (this one is a robust CLIP) |
| `local-dir:/path/to/folder` | a folder with `open_clip_config.json` and `open_clip_model.safetensors` |
| `ViT-B-32/random` | random weights: no download, for trying the machinery |

The first two need the network once; afterwards the files come from the Hugging Face cache (`$HF_HOME`). **Offline**,
copy that cache, or place the two files into a folder and use `local-dir:`. Only safetensors, or checkpoints that load
with `weights_only=True`, are read.

Models without a text decoder (plain CLIP) take part in zero-shot classification and retrieval; question answering,
captioning and two-picture statements need a CoCa model.
"""
    )


def _from_python() -> None:
    st.markdown("From Python:")
    st.code(
        """from cmai_core.models import load_model
from cmai_core.data import load_dataset
from cmai_core.lab.experiment import Experiment
from cmai_core.lab.run import run_attack

photos = load_dataset("photos")
model = load_model("ViT-B-32/laion2b_s34b_b79k")
experiment = Experiment(pair=photos[1].id, caption=photos[1].captions[0], b="", objective="consistency")
result = run_attack(experiment, photos[1], {"A": model}, dataset=photos)
print(result.predictions["A"].clean, result.predictions["A"].adversarial)""",
        language="python",
    )


def data() -> None:
    """Draw what the datasets are."""
    from cmai_core.data.registry import available_datasets
    from cmai_core.paths import assets_dir

    for info in available_datasets():
        parts = (f"#### {plain(info.title)}", plain(f"{info.description} {info.details}"), plain(info.source))
        st.markdown("\n\n".join(parts))
    for path in (assets_dir() / "tabletop" / "README.md", assets_dir().parent / "docs" / "dataset-card.md"):
        if path.is_file():
            with st.expander("The whole dataset card"):
                st.markdown(path.read_text("utf-8"))
            break


def words() -> None:
    """Draw the glossary."""
    st.markdown(
        """
| word | meaning |
|---|---|
| **S_c** | cosine of picture and sentence, −1 to 1, in the space of the consistency heads, else the shared one |
| **τ** | threshold on S_c; a pair below it is flagged. Set where 5 % of the clean pairs are flagged |
| **CMCV** | cross-modal consistency verification: S_c, and V_verify where there is one, held against thresholds |
| **V_verify** | the probability, from 0 to 1, that the picture bears out every word of the sentence |
| **ε** | how much an attacker may change each pixel value, in steps of 1/255 (L∞), or on root mean square (L2) |
| **PGD** | projected gradient descent: many small steps along the gradient, kept within ε (Madry et al. 2018) |
| **objective** | what the attacker raises: a task's loss, −S_c, or α·loss − β·S_c |
| **white box** | the attack was made with full knowledge of this model |
| **transferred** | the attack was made on another model and only shown to this one |
| **8-bit round trip** | the picture is rounded as a PNG file holds it; only what survives this counts |
"""
    )
