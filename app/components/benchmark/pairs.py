"""The pairs behind a figure: pictures clean and adversarial, answers, S_c, and a way into the attack lab."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st

from app import state
from app.components.benchmark.words import figure_id, percent, title_of
from app.components.common.caption_diff import caption_diff
from app.components.common.guard import guard, plain
from app.components.common.theme import escape, mark, number, show, signed
from app.components.common.visitor_words import said
from app.navigation import go
from app.services.benchmark import BenchmarkService, as_seen
from app.services.datasets import stored_pair
from app.services.models import catalogue, default_model
from cmai_core.errors import CmaiError
from cmai_core.lab.benchmark.choices import recipe_words
from cmai_core.lab.images import data_url, thumbnail

if TYPE_CHECKING:
    from cmai_core.lab.benchmark.results import Results

PAGE_SIZE = 6
SIDE = 160


@st.dialog("The pairs behind this number", width="large", icon=":material/photo_library:")
def pairs_dialog(service: BenchmarkService, made: Results, wanted: str) -> None:
    """Open the pairs behind a figure."""
    pairs_body(service, made, wanted)


def pairs_body(service: BenchmarkService, made: Results, wanted: str) -> None:
    """Draw counts, a filter, and the pairs, a page at a time."""
    from cmai_core.lab.benchmark.results import FOOLED, HELD, OPEN, WRONG, pairs_behind

    with guard():
        figure = next((row for row in made.figures.to_dict("records") if figure_id(row) == wanted), None)
        if figure is None:
            st.info("This figure is not among the runs on show any more.", icon="ℹ️")
            return
        pairs = pairs_behind(made.frame, figure)
        st.markdown(f"**{plain(title_of(figure))}**")
        st.caption(_figure_words(figure))
        words = {FOOLED: "fooled", HELD: "held", WRONG: "wrong when clean", OPEN: "only S_c is known"}
        if figure["kind"] == "clean":
            words[HELD] = "right"
        counts = {verdict: int((pairs["verdict"] == verdict).sum()) for verdict in words}
        there = [verdict for verdict in words if counts[verdict]]
        chosen = st.segmented_control(
            "Show", ["all", *there], default=there[0] if len(there) > 1 else "all", required=True,
            key=f"bench_pairs_{wanted}", label_visibility="collapsed",
            format_func=lambda v: f"all {len(pairs)}" if v == "all" else f"{words[v]} {counts[v]}",
        )  # fmt: skip
        shown = pairs if chosen not in there else pairs[pairs["verdict"] == chosen]
        if not len(shown):
            st.info("No pair has been measured for this figure yet.", icon="ℹ️")
            return
        pages = -(-len(shown) // PAGE_SIZE)
        slot = st.container()
        page = min(pages, max(1, st.pagination(pages, key=f"bench_page_{wanted}_{chosen}"))) if pages > 1 else 1
        rows = shown.iloc[(page - 1) * PAGE_SIZE : page * PAGE_SIZE].to_dict("records")
        with slot:
            for start in range(0, len(rows), 2):
                for place, column in enumerate(st.columns(2)):
                    if start + place < len(rows):
                        with column, guard():
                            pair_card(service, figure, rows[start + place], words)


def _figure_words(figure: Any) -> str:
    if figure["kind"] == "clean":
        right = percent(figure["clean"], figure["clean_low"], figure["clean_high"])
        return f"Right on {figure['clean_hits']:.0f} of {figure['clean_total']:.0f} clean pairs: {right}."
    parts = []
    if figure["asr_total"] == figure["asr_total"] and figure["asr_total"]:
        success = percent(figure["asr"], figure["asr_low"], figure["asr_high"])
        parts.append(f"Fooled: {figure['asr_hits']:.0f} of {figure['asr_total']:.0f} right when clean ({success}).")
    if figure["sc"] == figure["sc"]:
        parts.append(f"Mean S_c {number(figure['sc_clean'])} → {number(figure['sc'])}.")
    if figure["note"]:
        parts.append(figure["note"])
    return " ".join(parts)


def pair_card(service: BenchmarkService, figure: Any, row: Any, words: dict[str, str]) -> None:
    """Draw one pair."""
    with st.container(border=True, key=f"bench_pair_{row['item'].replace('/', '_')}_{row['text_index']}"):
        opened = _opened(service.folder, row)
        verdict = words[row["verdict"]]
        attack = f" · {recipe_words(row['recipe'])}" if figure["kind"] == "worst" else ""
        pictures = [("clean", opened["clean"])]
        if figure["kind"] != "clean":
            pictures.append(("adversarial", opened["adversarial"]))
        figures = "".join(
            f'<figure><img src="{url}" alt="{word} picture"><figcaption>{mark(word)}{word}</figcaption></figure>'
            for word, url in pictures
        )
        show(
            f'<div class="cm-row"><span class="cm-tag">{escape(verdict)}</span>'
            f'<span class="cm-small cm-muted">{escape(row["item"])}{escape(attack)}</span></div>'
            f'<div class="cm-pictures cm-pictures-large">{figures}</div>'
            f'<p class="cm-small" style="margin:2px 0 6px">{_sentence(opened)}</p>'
            f"{_answers(row)}{_scores(row)}"
        )
        _lab_button(figure, row, opened["caption"])


def _sentence(opened: dict[str, str]) -> str:
    if opened["after"] and opened["after"] != opened["caption"]:
        return f"“{caption_diff(opened['caption'], opened['after'])}”"
    return f"“{escape(opened['caption'])}”"


def _answers(row: Any) -> str:
    if row["answer_clean"] is None:
        return ""
    clean = f'<div class="say">{mark("clean")}{_sign(row["correct_clean"])} {escape(row["answer_clean"])}</div>'
    if row["recipe"] == "clean":
        return f'<div class="cm-small">{clean}</div>'
    right = row["verdict"] == "held" if row["verdict"] in ("held", "fooled") else row["correct"]
    after = f'<div class="say">{mark("adversarial")}{_sign(right)} {escape(row["answer"] or "–")}</div>'
    return f'<div class="cm-two cm-small">{clean}<div class="arrow" aria-label="after the attack">→</div>{after}</div>'


def _sign(correct: Any) -> str:
    if correct is None or correct != correct or str(correct) == "<NA>":
        return '<span class="cm-muted" title="truth unknown">·</span>'
    return '<span role="img" aria-label="right">✓</span>' if correct else '<span role="img" aria-label="wrong">✗</span>'


def _scores(row: Any) -> str:
    before, after = row["consistency_clean"], row["consistency"]
    if row["recipe"] == "clean":
        return f'<div class="cm-small">S<sub>c</sub> {number(before)}</div>'
    change = f" ({signed(after - before)})" if before == before and after == after else ""
    size = f" · L∞ {255 * row['linf']:.0f}/255" if row["linf"] == row["linf"] and row["linf"] is not None else ""
    return f'<div class="cm-small">S<sub>c</sub> {number(before)} → {number(after)}{change}{size}</div>'


def _opened(folder: Any, row: Any) -> dict[str, str]:
    """Return the pictures as data: URLs, and the captions, of a row of the predictions."""
    place = 0 if row["text_index"] != row["text_index"] else int(row["text_index"])
    example = row["example"] if row["recipe"] != "clean" else None
    return _opened_pair(
        str(folder), row["source"], row["dataset"], row["split"], row["item"], place, row["recipe"], example
    )


@st.cache_data(show_spinner=False, max_entries=256)
def _opened_pair(
    folder: str, source: str, dataset: str, split: str, item: str, place: int, recipe: str, example: str | None
) -> dict[str, str]:
    from cmai_core.evaluation.store.store import Store
    from cmai_core.lab.benchmark.results import open_pair

    pair = stored_pair(dataset, split, item)
    clean = as_seen(source.partition(" · ")[0], pair.image)
    with Store.read(folder) as store:
        found = open_pair(store, {"text_index": place, "recipe": recipe, "example": example}, clean, pair.captions)
    urls = {name: _url(getattr(found, name)) for name in ("clean", "adversarial")}
    return urls | {"caption": found.before, "after": found.after or ""}


def _url(picture: np.ndarray) -> str:
    return data_url(thumbnail(picture, SIDE))  # PNG: half of a small perturbation would not survive JPEG


def _lab_button(figure: Any, row: Any, caption: str) -> None:
    """Draw the way to the attack lab, or why there is none."""
    from cmai_core.lab.benchmark.link import experiment_of

    cards = {card.name: card.defended for card in catalogue()}
    others = (default_model(False), default_model(True))
    try:
        wanted, note = experiment_of(row, figure["epsilon"], caption, cards, others)
    except CmaiError as error:
        st.caption(plain(said(error)))
        return
    if note:
        st.caption(note)
    if st.button(
        "Open in the attack lab", key=f"bench_lab_{row['item']}_{row['text_index']}", icon=":material/experiment:",
    ):  # fmt: skip
        state.put(state.LINK_READ, False)
        state.put(state.RESULT, None)
        go("attack_lab", wanted.to_query())
