"""The first screen: a bundled, precomputed attack. Nothing is loaded for it but a JSON file and two pictures."""

from __future__ import annotations

import streamlit as st

from app.components.attack_lab.result_words import example_note
from app.components.attack_lab.score_card import score_card
from app.components.common.before_after import before_after
from app.components.common.chart import chart
from app.components.common.fold import fold_table
from app.components.common.svg import histogram, histogram_table
from app.components.common.theme import escape, show
from app.services.showcase import threshold_words
from cmai_core.showcase import Showcase


def headline() -> None:
    """Draw the first screen's headline."""
    show(
        '<h1 class="cm-headline">Same picture to you, different meaning to the model</h1>'
        '<p class="cm-lead">A change too small to see makes a vision-language model lose what a picture means. '
        "Move the divider, read the consistency score S<sub>c</sub>, then attack a picture of your own.</p>"
    )


def hero(bundle: Showcase) -> None:
    """Draw picture and numbers of the bundled attack."""
    result = bundle.result
    example = result.first_example
    left, right = st.columns([1, 1], gap="medium")
    with left:
        before_after(example.clean, example.adversarial, key="hero_slider", alt=result.experiment.caption)
        show(f'<p class="cm-quote">{escape(result.experiment.caption)}</p>')
        more = " Each model faces a picture crafted on itself." if len(result.examples) > 1 else ""
        st.caption(f"A bundled example, chosen because it is clear. {example_note(result, example)}{more}")
    with right:
        for role, prediction in result.predictions.items():
            score_card(prediction, result.example_for(role), bundle.tau.get(role), origin=threshold_words(bundle, role))
        role = next((r for r in bundle.histograms if r in result.predictions), None)
        if role:
            data, prediction = bundle.histograms[role], result.predictions[role]
            chart(
                histogram(
                    data.edges,
                    {"clean": data.clean, "adversarial": data.adversarial},
                    title=f"{role.capitalize()}: {bundle.flagged[role]:.0%} of the attacked pairs lie below τ",
                    markers={"clean": prediction.clean, "adversarial": prediction.adversarial},
                    tau=bundle.tau.get(role),
                ),
                key="hero_histogram",
            )
            fold_table(
                "The histogram as a table",
                lambda: histogram_table(data.edges, {"clean": data.clean, "adversarial": data.adversarial}),
                key="fold_hero",
            )


def empty_hero() -> None:
    """Say that there is no bundled example."""
    st.info(
        "There is no bundled example yet: it is made from the bundled models. "
        "Choose a picture and a model on this page and start an attack; everything else works.",
        icon="ℹ️",
    )
