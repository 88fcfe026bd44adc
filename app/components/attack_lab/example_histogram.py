"""Where the bundled example lies among the pairs around it."""

from __future__ import annotations

import streamlit as st

from app.components.common.chart import chart
from app.components.common.fold import fold_table
from app.components.common.svg import histogram, histogram_table
from app.services.showcase import threshold_words
from cmai_core.showcase import Showcase


def example_histogram(bundle: Showcase) -> None:
    """Draw S_c of the pairs counted, for each model, with the example's own scores."""
    shown = [role for role in bundle.histograms if role in bundle.result.predictions]
    for place, role in zip(st.columns(max(1, len(shown))), shown, strict=False):
        data, prediction = bundle.histograms[role], bundle.result.predictions[role]
        counts = {"clean": data.clean, "adversarial": data.adversarial}
        with place:
            chart(
                histogram(
                    data.edges,
                    counts,
                    title=f"Model {role}: {bundle.flagged[role]:.0%} of the attacked pairs lie below τ",
                    markers={"clean": prediction.clean, "adversarial": prediction.adversarial},
                    tau=bundle.tau.get(role),
                ),
                key=f"example_histogram_{role}",
            )
            st.caption(threshold_words(bundle, role))
            fold_table(
                "The histogram as a table",
                lambda edges=data.edges, counts=counts: histogram_table(edges, counts),
                key=f"fold_example_{role}",
            )
