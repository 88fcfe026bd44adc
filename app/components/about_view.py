"""What the page Models & about says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from app import owner
from app.components.fields import among
from app.components.guard import plain
from app.components.theme import escape, label, mark, show
from cmai_core.lab.experiment import DEFENDED
from cmai_core.tasks import DEFAULT_TASK, TASKS

_LONG = ("recipe", "steering")
"""Of a training: what only the whole card shows, being long."""


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested card values as (name, text) rows."""
    rows = []
    for key, value in values.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            if set(value) >= {"value", "low", "high"}:
                rows.append((name, _interval(value)))
            else:
                rows += _flat(value, f"{name} · ")
        elif isinstance(value, float):
            rows.append((name, f"{value:.4g}"))
        elif isinstance(value, (list, tuple)):
            rows.append((name, ", ".join(map(str, value))))
        else:
            rows.append((name, str(value)))
    return rows


def _table(rows: Sequence[tuple[str, str]]) -> str:
    body = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows)
    return f"<table><tbody>{body}</tbody></table>"


def bundled(cards: Sequence[Any]) -> None:
    """One card a model."""
    if not cards:
        st.info(
            "No bundled model is here yet: whoever runs this lab can add them. Until then choose “OpenCLIP model …” in "
            "the attack lab (`ViT-B-32/random` needs no download).",
            icon="ℹ️",
        )
        return
    show(f'<div class="cm-models">{_overview(cards)}</div>')
    st.caption(
        "Image→text R@1: clean on the first 4,000 test scenes, and in the worst case over untargeted attacks by every "
        "loss of the comparison's protocol on the first 1,000, which targeted ones lower further (docs/results.md). "
        "– : not measured under it. Verifier: consistency heads of its own."
    )
    names = {card.name: card for card in cards}
    first = list(names).index(DEFENDED) if DEFENDED in names else 0
    _card(names[among(st.selectbox("Card of", list(names), index=first, key="about_card"), list(names))])


def _overview(cards: Sequence[Any]) -> str:
    """All models in one table."""
    head = ("model", "what", "clean", "2/255", "4/255", "verifier")
    rows, headline = [], TASKS[DEFAULT_TASK].headline[0]
    for card in cards:
        role = "defended" if card.defended else "undefended"
        measured = card.results if "protocol" in card.results else {}
        clean = measured.get("test", {}).get("tasks", {}).get(DEFAULT_TASK, {}).get(headline)
        robust = measured.get("robust", {})
        cells = [f"{mark(role)}<b>{escape(card.name)}</b>", escape(card.description)]
        cells += [_share(clean), _share(robust.get("2")), _share(robust.get("4")), "✓" if card.verifier else "–"]
        rows.append("".join(f"<td>{cell}</td>" for cell in cells))
    top = "".join(f"<th>{title}</th>" for title in head)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(f'<tr>{row}</tr>' for row in rows)}</tbody></table>"


def _share(entry: Mapping[str, float] | None) -> str:
    return "–" if not entry else f'<span title="{_interval(entry)}">{entry["value"]:.3f}</span>'


def _interval(entry: Mapping[str, float]) -> str:
    return f"{entry['value']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]"


def _card(card: Any) -> None:
    """Everything that one model's card says."""
    role = "defended" if card.defended else "undefended"
    with st.container(border=True, key="card_model"):
        show(
            f'<div class="cm-row"><span class="cm-h grow">{escape(card.name)}</span><span '
            f'class="cm-tag">{label(role)}</span></div>'
            f"<p>{escape(card.description)}</p>"
        )
        results, training = st.columns(2, gap="large")
        with results:
            if card.results:
                show(f'<div class="cm-step">Results</div>{_table(_flat(card.results))}')
        with training:
            show('<div class="cm-step">Training</div>')
            if card.training:
                show(_table(_flat({k: v for k, v in card.training.items() if k not in _LONG})))
            else:
                st.caption("The card does not say.")
        with st.expander("The whole card"):
            st.json(card.card, expanded=False)


def own_model() -> None:
    """Which other models there are: those that the owner allows, or any."""
    now = owner.rules()
    if not now.any:
        offered = ", ".join(f"`{owner.shown(spec)}`" for spec in now.allow)
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
experiment = Experiment(pair=photos[1].id, caption=photos[1].captions[0], defended="", objective="consistency")
result = run_attack(experiment, photos[1], {"undefended": model}, dataset=photos)
print(result.readings["undefended"].clean, result.readings["undefended"].adversarial)""",
        language="python",
    )


def data() -> None:
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
