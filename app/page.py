"""What a page of the lab is: a declaration, which this module draws.

A page is one object, in one file, with one row in `app/registry.py`; another package adds one by an entry point of the
group `cmai.pages`, under the page's name:

    PAGE = JobPage(name="drift", title="Drift", icon=":material/moving:", heading="How far do scores drift?", lead="…",
                   needs=(MODEL,), form=form, request=request, models=models, work=work, view=view, ...)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import navigation, state, subject
from app.components.common.guard import guard, show_notice
from app.components.common.live import cancel_button, live_job
from app.components.common.stale import result_of
from app.components.common.theme import heading
from app.needs import Need, unmet
from app.registry import PAGES
from app.services.jobs import collect_job, quiet_thread, submit_job
from app.services.models import load_models, model_cache
from cmai_core.errors import CmaiError

if TYPE_CHECKING:
    from cmai_core.lab.belonging import Difference


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page with a body of its own.

    Attributes:
        name: path in the address, the same as in the registry.
        title, icon: in the navigation; the icon as Streamlit names it (":material/info:").
        heading, lead: what stands at its top; without a heading the body draws its own.
        body: draws everything below. needs: what it cannot do without.
        query: what of the page's own state belongs into its address, by name. read_query: takes it from an address that
            was opened, before anything is drawn; other names and any value may stand there. reads: names that it knows
            and does not always write.
    """

    name: str
    title: str
    icon: str
    heading: str = ""
    lead: str = ""
    body: Callable[[], None] | None = None
    needs: tuple[Need, ...] = ()
    query: Callable[[], Mapping[str, str]] | None = None
    read_query: Callable[[Mapping[str, str]], None] | None = None
    reads: tuple[str, ...] = ()

    def draw(self) -> None:
        """Draw the page, or what it lacks."""
        self._head()
        lacking = unmet(self.needs, subject.current())
        if lacking is not None:
            show_unmet(*lacking)
        elif self.body is not None:
            with guard():
                self.body()

    def _head(self) -> None:
        if self.heading:
            heading(self.heading, self.lead)


@dataclass(frozen=True, kw_only=True)
class JobPage(Page):
    """A page with a form, a job that its button starts, and the job's result.

    The lab draws the button, progress, Cancel and errors; it keeps the result, and dims it when the form has moved on.
    Everything but `work` runs in the page's script; `work` runs in the worker thread and must not use `st`.

    Attributes:
        button: words on the button. again: on the one beside a dimmed result. noun: of the work, in its progress.
        form: draws the widgets.
        request: what the widgets ask for; raises a `CmaiError` for what is missing or out of range.
        models: request → role → specification of the models that the work needs; they are downloaded and loaded first.
        work: (request, role → model, progress, cancel) → result; runs in the worker thread.
        view: draws a result. empty: draws what stands there before the first one.
        said: what a result belongs to, as a sentence without a full stop.
        moved_on: how the form has moved on from a result; empty if it has not.
        folded: where given, the form is folded away under these words: the page begins with a result.
    """

    button: str
    again: str
    noun: str
    form: Callable[[], None]
    request: Callable[[], Any]
    models: Callable[[Any], Mapping[str, str]]
    work: Callable[[Any, Mapping[str, Any], Any, Any], Any]
    view: Callable[[Any], None]
    empty: Callable[[], None]
    said: Callable[[Any], str]
    moved_on: Callable[[Any], Sequence[Difference]]
    folded: str = ""

    @property
    def job_key(self) -> str:
        """Key of the job's handle in the session's state."""
        return f"page_{self.name}_job"

    @property
    def result_key(self) -> str:
        """Key of the result on show in the session's state."""
        return f"page_{self.name}_result"

    def draw(self) -> None:
        """Draw heading, form, button and result."""
        for key in (self.job_key, self.result_key):
            state.ensure(key, None)
        self._head()
        running = collect_job(self.job_key, self.result_key)
        lacking = unmet(self.needs, subject.current())
        with self._frame(unfolded=running or lacking is not None):
            with guard():
                self.form() if lacking is None else show_unmet(*lacking)
            self._button(running, usable=lacking is None)
        show_notice()
        with guard():
            self._result(running)

    def _frame(self, unfolded: bool) -> Any:
        """Return what the form stands in."""
        key = f"card_{self.name}_form"
        if self.folded:
            return st.expander(self.folded, expanded=unfolded, icon=":material/tune:", key=key)
        return st.container(border=True, key=key)

    def start(self) -> None:
        """Validate the form and queue the work; an error is shown in the next run, and nothing is lost."""
        try:
            request = self.request()
            specs = dict(self.models(request))
            cache = model_cache()

            def work(progress: Any, cancel: Any) -> Any:
                with quiet_thread():
                    return self.work(request, load_models(specs, cache, progress), progress, cancel)

            handle = submit_job(self.noun, work, models=specs.values())
        except CmaiError as error:
            state.put(state.NOTICE, error)
            return
        state.put(self.job_key, handle)

    def _button(self, running: bool, usable: bool) -> None:
        if running:
            cancel_button(self.job_key, f"cancel_{self.name}")
        else:
            st.button(
                self.button, type="primary", key=f"start_{self.name}", icon=":material/play_arrow:",
                on_click=self.start, disabled=not usable,
            )  # fmt: skip

    def _result(self, running: bool) -> None:
        made = state.get(self.result_key)
        if running:
            live_job(state.get(self.job_key), self.noun)
        elif made is None:
            self.empty()
        else:
            with result_of(self.moved_on(made), self.said(made), key=self.name, run=self.start, run_label=self.again):
                self.view(made)


def show_unmet(need: Need, reason: str) -> None:
    """Say what a page lacks, with a button to the page where it can be had."""
    st.info(reason, icon="ℹ️")
    if need.page:
        page = PAGES.find(need.page)
        if st.button(f"To the page {page.title}", key=f"to_{need.page}", icon=page.icon):
            navigation.go(need.page)
