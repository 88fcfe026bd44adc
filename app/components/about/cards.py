"""Cards of the bundled models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from app.components.common.fields import one_of
from app.components.common.theme import escape, label, mark, show
from cmai_core.lab.experiment import DEFENDED
from cmai_core.tasks import DEFAULT_TASK, TASKS

_LONG = ("recipe", "steering")
"""Of a training: what only the whole card shows, being long."""


def bundled(cards: Sequence[Any]) -> None:
    """Draw all models in a table, and one model's card."""
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
    _card(names[one_of(st.selectbox("Card of", list(names), index=first, key="about_card"), list(names))])


def _overview(cards: Sequence[Any]) -> str:
    """Return all models as one table."""
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
    """Draw everything that one model's card says."""
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


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested card values as (name, text) rows."""
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
