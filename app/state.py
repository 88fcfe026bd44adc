"""The names of all session state that pages share, with their first values.

Widgets keep their own values under the keys named here; everything else is plain data. Nothing large lives here but the
result on show of each page; a new one replaces it.
"""

from __future__ import annotations

import copy
import time
import uuid
from typing import Any

import streamlit as st

from cmai_core.data.plain import plain_line
from cmai_core.lab.benchmark.choices import GridChoice
from cmai_core.lab.choices import FALSE_POSITIVE_RATE
from cmai_core.lab.experiment import MAX_CAPTION, ROLES, Experiment
from cmai_core.tasks import DEFAULT_TASK

OWNER = "owner"
"""A random name for this page, the owner of its jobs."""
PAIR = "pair"
"""Id of the chosen pair (Experiment.pair)."""
UPLOAD = "upload"
"""The `uploads.Upload` in use, or None."""
SCENE = "scene"
"""JSON of the composed scene, or ""."""
CAPTION = "caption"
"""Widget: the caption."""
RESULT = "result"
"""The LabResult on show, or None (the bundled one is shown)."""
NOTICE = "notice"
"""The error that the next run shows, or None."""
LINK_READ = "link_read"
"""Whether the address has been read."""
VIEW = "view"
"""How the lab is shown: "", or "projector"."""
RECENT = "recent"
"""The experiments of this session whose results were on show, the latest first; at most RECENT_MOST."""
RECENT_MOST = 20
RECORDED = "recorded"
"""The `ExperimentFile` that was opened last, whose numbers its result is held against; None if none was."""
LINK = "link"
"""The address's query when a page was last drawn whole."""
GOING = "going"
"""(page, query, tries left) that a visitor is being sent to, until it is reached, or None."""
SHOWN = "shown"
"""(Streamlit's hash, name) of the page on show, or None."""
KEPT = "kept"
"""A plain copy of the widgets' values when a page was last drawn whole."""

ATTACK_JOB = "attack_job"
VERDICT_JOB = "verdict_job"
"""Handles of this session's running or just finished jobs, or None (a handle is small; results lie in the queue)."""
SHORTLIST_JOB = "shortlist_job"
SHORTLIST = "shortlist"
"""The verification of the likeliest captions: its job, and (content of its result, role → shortlist), or None."""
SMALLEST_JOB = "smallest_job"
SMALLEST = "smallest"
"""The search for the smallest ε: its job, and the `SmallestEpsilon` found last, or None."""
VERDICT = "verdict"
"""The LabVerdict made last, or None; it is shown while the result on show has its content."""
VERDICT_FPR = "verdict_fpr"
"""Widget: the false-positive rate that verdicts are given at."""
SETTINGS_OPEN = "all_settings"
"""Widget: whether all settings of the attack are open."""
RESULT_TAB = "result_tabs"
"""Widget: the tab of the result that is open."""
SENT = "sent_to_review"
"""(content key, role, side) → id of the entry in the review queue, of what this session has sent."""
REVIEWER = "reviewer_key"
"""What this visitor has given as the reviewers' key, or ""."""
REVIEW_SHOWN = "review_shown"
REVIEW_PAGE = "review_page"
"""Widgets: which entries of the review queue are shown."""

# Widgets of the attack form. The values are those of Experiment, so that a permalink sets them directly.
MODELS = {role: role.lower() for role in ROLES}
"""Role → widget: a name of the list, OTHER_MODEL or NO_MODEL."""
SPECS = {role: f"{role.lower()}_spec" for role in ROLES}
"""Role → widget: the specification under OTHER_MODEL."""
CRAFT_ON = "craft_on"
NORM = "norm"
EPSILON = "epsilon"
STEPS = "steps"
STEP_SIZE = "step_size"
RESTARTS = "restarts"
SEED = "seed"
OBJECTIVE = "objective"
TASK = "task"
ALPHA = "alpha"
BETA = "beta"
RECIPE = "recipe"
QUERIES = "queries"
WORDS = "words"
TRUTH = "truth"
TARGET = "target"
PRESET = "preset"
"""The recipe that the three parts make up; it follows from them and is set anew in every run."""
SETTINGS = (
    CRAFT_ON, NORM, EPSILON, STEPS, STEP_SIZE, RESTARTS, SEED, OBJECTIVE, TASK, ALPHA, BETA, RECIPE, QUERIES, WORDS,
    TRUTH, TARGET,
)  # fmt: skip
"""Widgets that hold a field of `Experiment`, under the field's name."""
FORM_KEYS = (*MODELS.values(), *SPECS.values(), CAPTION, *SETTINGS)

# Widgets of the dialogs and of the other pages.
BROWSE_SET = "browse_set"
BROWSE_QUERY = "browse_query"
BROWSE_PAGE = "browse_page"
UPLOAD_FILE = "upload_file"
COMPOSE_COUNT = "compose_count"
COMPOSE_CAPTION = "compose_caption"
COMPOSE = "compose"
"""Prefix of the composer's object widgets."""
THRESHOLD = "threshold"

# The benchmark page. Its widgets with their first values (models are filled in from the catalogue).
BENCH_MODELS = "bench_models"
BENCH_TASKS = "bench_tasks"
BENCH_IMAGE = "bench_image"
BENCH_TEXT = "bench_text"
BENCH_JOINT = "bench_joint"
BENCH_EPSILONS = "bench_epsilons"
BENCH_SET = "bench_set"
BENCH_COUNT = "bench_count"
BENCH_KIND = "bench_kind"
BENCH_EFFORT = "bench_effort"
BENCH_SEED = "bench_seed"
BENCH_TRANSFER = "bench_transfer"
BENCH_DETECTION = "bench_detection"
BENCH_TAU = "bench_tau"
BENCH_FORM: dict[str, Any] = {
    BENCH_MODELS: [], BENCH_TASKS: [DEFAULT_TASK], BENCH_IMAGE: ["fgsm", "pgd"], BENCH_TEXT: [], BENCH_JOINT: [],
    BENCH_EPSILONS: [2.0, 4.0], BENCH_SET: GridChoice.dataset, BENCH_COUNT: 32, BENCH_KIND: "full",
    BENCH_EFFORT: "quick", BENCH_SEED: 0, BENCH_TRANSFER: True, BENCH_DETECTION: False, BENCH_TAU: 0.0,
}  # fmt: skip
BENCH_RUNS = "bench_runs"
"""Widget: the runs on show. [] means the latest."""
REPLACED = "replaced_caption"
"""The sentence that the lab itself replaced last: (before, after, when), or None."""
SETTLING = 10.0
"""Seconds in which a browser may still send the sentence that the lab has replaced."""
BENCH_OPEN = "bench_open"
"""Id of the figure whose pairs are to be opened in the next run, or ""."""

_LASTING = (*FORM_KEYS, *BENCH_FORM, BENCH_RUNS, RESULT_TAB, VERDICT_FPR, REVIEW_SHOWN, REVIEW_PAGE)
"""Widgets whose values outlast the page that draws them."""

OTHER_MODEL = "other"
"""Choice of a model select box: type an OpenCLIP specification."""
NO_MODEL = "none"
"""Choice of a model select box but the first: nobody there."""


_FIRST: dict[str, Any] = {
    PAIR: "", UPLOAD: None, SCENE: "", CAPTION: "", RESULT: None, NOTICE: None, LINK_READ: False, VIEW: "",
    RECENT: [], RECORDED: None, SHORTLIST_JOB: None, SHORTLIST: None, SMALLEST_JOB: None, SMALLEST: None,
    LINK: {}, GOING: None,
    SHOWN: None, KEPT: {}, ATTACK_JOB: None, VERDICT_JOB: None, VERDICT: None, VERDICT_FPR: FALSE_POSITIVE_RATE,
    RESULT_TAB: "Answers", SENT: {}, REVIEWER: "", REVIEW_SHOWN: "open", REVIEW_PAGE: 1,
    **dict.fromkeys(SPECS.values(), ""), BENCH_RUNS: [], BENCH_OPEN: "", **BENCH_FORM,
}  # fmt: skip
"""First values of all but the models and the settings, which begin as `Experiment` has them."""


def initialise() -> None:
    """Fill in what is not there yet, and keep widgets' values alive across pages. Called in each whole run."""
    experiment = Experiment()
    first = {OWNER: uuid.uuid4().hex} | _FIRST
    first |= {name: getattr(experiment, name) for name in (*MODELS.values(), *SETTINGS)}
    # Streamlit forgets the widgets that a late request does not know of (see `navigation`): hence the copy.
    first |= st.session_state.get(KEPT, {})
    for name, value in first.items():
        if name not in st.session_state:
            st.session_state[name] = copy.copy(value)
    _keep_replaced()
    for name in _LASTING:
        # Touching a widget's value keeps it when the widget is not drawn in this run (another page, a dialog).
        st.session_state[name] = st.session_state[name]


def keep() -> None:
    """Copy what widgets hold, and the address's query. Called at the end of each whole run."""
    st.session_state[KEPT] = {name: st.session_state[name] for name in _LASTING if name in st.session_state}
    st.session_state[LINK] = st.query_params.to_dict()


def get(name: str) -> Any:
    """Return a value of this session."""
    return st.session_state[name]


def put(name: str, value: Any) -> None:
    """Set a value of this session."""
    st.session_state[name] = value


def ensure(name: str, value: Any) -> None:
    """Set a value of this session unless it has one: for what belongs to one page alone."""
    if name not in st.session_state:
        st.session_state[name] = value


def put_caption(caption: str) -> None:
    """Replace the caption in the form by one line of visible text."""
    caption = plain_line(caption)[:MAX_CAPTION]
    st.session_state[REPLACED] = (st.session_state.get(CAPTION), caption, time.monotonic())
    st.session_state[CAPTION] = caption


def _keep_replaced() -> None:
    """Undo what a part of a page that refreshes itself has sent with the old caption still in its form.

    Such a request carries the values of all fields as the browser knows them, and on a slow line or a busy machine it
    may have been on its way when the caption was replaced.
    """
    before, after, when = st.session_state.get(REPLACED) or (None, None, 0.0)
    if before is not None and st.session_state[CAPTION] == before and time.monotonic() - when < SETTLING:
        st.session_state[CAPTION] = after
