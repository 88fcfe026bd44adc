"""Starts the lab as `streamlit run` does, and writes down of every job whether anybody still waited for it.

    python benchmarks/watched_lab.py JOURNAL run app/streamlit_app.py …

One JSON object a line: the job's label, seconds it waited and ran, seconds of its running after its tab was closed, and
whether it began after that. It looks from outside, at when connections end, and knows nothing of how the lab notices.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def watch(journal: Path) -> None:
    """Wraps the queue and Streamlit's session manager."""
    from streamlit.runtime.scriptrunner import get_script_run_ctx
    from streamlit.runtime.websocket_session_manager import WebsocketSessionManager

    from cmai_core.jobs import JobQueue

    closed: dict[str, float] = {}
    jobs: dict[str, tuple[str, float]] = {}
    submit, run, disconnect = JobQueue.submit, JobQueue._run, WebsocketSessionManager.disconnect_session

    def noted(self, session_id):
        closed[session_id] = time.monotonic()
        return disconnect(self, session_id)

    def submitted(self, *arguments, **options):
        job = submit(self, *arguments, **options)
        context = get_script_run_ctx(suppress_warning=True)
        jobs[job.id] = "" if context is None else context.session_id, time.monotonic()
        return job

    def watched(self, job):
        session, since = jobs.get(job.id, ("", time.monotonic()))
        begun = time.monotonic()
        run(self, job)
        end = time.monotonic()
        left = closed.get(session, end)
        line = {
            "label": job.label, "waited": begun - since, "ran": end - begun,
            "for_nobody": max(0.0, end - max(begun, left)), "begun_for_nobody": left < begun,
        }  # fmt: skip
        with journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    JobQueue.submit, JobQueue._run = submitted, watched
    WebsocketSessionManager.disconnect_session = noted


if __name__ == "__main__":
    watch(Path(sys.argv[1]))
    from streamlit.web.cli import main

    sys.argv = ["streamlit", *sys.argv[2:]]
    main()
