"""The job queue: order, bounds, progress, cancellation, limits, short calls between steps, shutting down."""

import gc
import logging
import re
import threading
import time
import weakref

import pytest

from cmai_core.errors import CmaiError, OptionError
from cmai_core.jobs import JobError, JobQueue, Owner, QueueFull
from cmai_core.progress import Progress


class Steps:
    """Work of many short steps that can be held at a gate, and remembers what became of it."""

    def __init__(self, total=10_000, pause=0.001, gate=None):
        self.total, self.pause, self.gate = total, pause, gate
        self.started, self.done = threading.Event(), 0

    def __call__(self, progress, cancel):
        self.started.set()
        if self.gate is not None:
            self.gate.wait(5)
        for step in range(self.total):
            if cancel.cancelled:
                break
            self.done = step + 1
            progress(Progress(self.done, self.total, "stepping", {"step": step}))
            time.sleep(self.pause)
        return self.done


@pytest.fixture
def queue():
    with JobQueue() as queue:
        yield queue


def eventually(condition, timeout=5.0):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.005)
    return False


def test_a_job_runs_and_gives_its_result(queue):
    job = queue.submit(Steps(5), owner="a", label="five steps")
    snapshot = job.wait(5)
    assert (snapshot.state, snapshot.fraction, snapshot.label) == ("done", 1.0, "five steps")
    assert snapshot.has_result and job.result() == 5 and snapshot.message == ""
    assert snapshot.elapsed > 0 and snapshot.progress.done == 5


def test_jobs_run_one_at_a_time_in_order_with_positions(queue):
    gate, order, together = threading.Event(), [], []

    def work(name):
        def run(progress, cancel):
            together.append(name)
            assert len(together) == 1
            gate.wait(5)
            order.append(name)
            together.remove(name)

        return run

    jobs = [queue.submit(work(name), owner=name) for name in "abc"]
    assert eventually(lambda: jobs[0].snapshot().state == "running")
    assert [job.snapshot().position for job in jobs] == [0, 1, 2]
    assert [s.owner for s in queue.jobs()] == ["a", "b", "c"] and [s.owner for s in queue.jobs("b")] == ["b"]
    gate.set()
    assert [job.wait(5).state for job in jobs] == ["done"] * 3
    assert order == ["a", "b", "c"] and queue.jobs() == []


def test_who_waits_is_told_for_how_long_once_a_job_of_the_kind_has_finished(queue):
    gate = threading.Event()
    queue.submit(Steps(1, gate=gate), owner="a", label="kind")
    second = queue.submit(Steps(1), owner="b", label="kind")
    assert second.snapshot().wait is None  # nobody knows yet
    time.sleep(0.2)
    gate.set()
    assert second.wait(5).wait == 0.0
    gate.clear()
    queue.submit(Steps(1, gate=gate), owner="a", label="kind")
    waiting = [queue.submit(Steps(1), owner=name, label="kind") for name in "cd"]
    one, two = (job.snapshot().wait for job in waiting)
    assert 0.0 <= one <= two <= 1.0
    other = queue.submit(Steps(1), owner="e", label="another")
    last = queue.submit(Steps(1), owner="f", label="kind")
    assert other.snapshot().wait is not None and last.snapshot().wait is None
    gate.set()


def test_snapshots_do_not_change(queue):
    work = Steps()
    job = queue.submit(work)
    assert work.started.wait(5) and eventually(lambda: job.snapshot().progress is not None)
    early = job.snapshot()
    seen = (early.progress.done, early.elapsed)
    assert eventually(lambda: job.snapshot().progress.done > seen[0])
    assert (early.progress.done, early.elapsed) == seen
    with pytest.raises(AttributeError):
        early.state = "done"


def test_eta_shrinks_to_what_is_left(queue):
    job = queue.submit(Steps(total=200, pause=0.01))
    assert eventually(lambda: job.snapshot().eta is not None)
    snapshot = job.snapshot()
    start = time.monotonic()
    job.wait(20)
    assert snapshot.eta == pytest.approx(time.monotonic() - start, rel=0.5, abs=0.3)
    assert job.snapshot().eta is None


def test_bounds_over_all_and_per_owner():
    with JobQueue(max_pending=3, max_per_owner=2) as queue:
        gate = threading.Event()
        first = queue.submit(Steps(1, gate=gate), owner="a")
        queue.submit(Steps(1), owner="a")
        with pytest.raises(QueueFull, match=r"\b2\b"):
            queue.submit(Steps(1), owner="a")
        queue.submit(Steps(1), owner="b")
        with pytest.raises(QueueFull, match=r"\b3\b"):
            queue.submit(Steps(1), owner="c")
        gate.set()
        first.wait(5)
        assert eventually(lambda: not queue.jobs())
        queue.submit(Steps(1), owner="c").wait(5)
    with pytest.raises(OptionError):
        JobQueue(max_pending=0)


def test_cancelling_a_running_job_keeps_the_best_so_far(queue):
    work = Steps()
    job = queue.submit(work)
    assert eventually(lambda: work.done > 3)
    at = work.done
    job.cancel()
    snapshot = job.wait(5)
    assert snapshot.state == "cancelled" and snapshot.message == "Cancelled."
    assert job.result() == work.done <= at + 3


def test_cancelling_a_waiting_job_never_starts_it(queue):
    gate = threading.Event()
    first, second = queue.submit(Steps(1, gate=gate)), Steps(1)
    waiting = queue.submit(second)
    waiting.cancel()
    assert waiting.snapshot().state == "cancelled"
    gate.set()
    first.wait(5)
    queue.call(lambda: None)
    assert not second.started.is_set()
    with pytest.raises(JobError, match=re.escape(waiting.snapshot().message)):
        waiting.result()


def test_work_may_raise_cancelled(queue):
    started = threading.Event()

    def work(progress, cancel):
        started.set()
        while True:
            cancel.check()
            time.sleep(0.001)

    job = queue.submit(work)
    started.wait(5)
    job.cancel()
    assert job.wait(5).state == "cancelled" and not job.snapshot().has_result


def test_cancelling_what_has_finished_changes_nothing(queue):
    job = queue.submit(Steps(1))
    job.wait(5)
    job.cancel()
    assert job.snapshot().state == "done" and job.result() == 1


def held(queue):
    """Holds the worker; returns the gate that frees it."""
    gate, work = threading.Event(), Steps(1)
    work.gate = gate
    queue.submit(work, owner=Owner("t", "holder", "elsewhere"))
    assert work.started.wait(5)
    return gate


def test_turns_go_round_between_visitors_and_not_between_their_pages():
    ran = []

    def work(name):
        return lambda progress, cancel: ran.append(name)

    with JobQueue(max_per_owner=9) as queue:
        gate = held(queue)
        many = [queue.submit(work(f"a{k}"), owner=Owner(f"page {k}", "a", "one")) for k in range(3)]
        late = queue.submit(work("b"), owner=Owner("p", "b", "two"))
        class_mate = queue.submit(work("c"), owner=Owner("p", "c", "two"))
        assert [job.snapshot().position for job in (*many, late, class_mate)] == [1, 3, 5, 2, 4]
        gate.set()
        assert class_mate.wait(5).finished and many[2].wait(5).finished
        assert ran == ["a0", "b", "a1", "c", "a2"]


def test_who_has_just_had_a_turn_waits_for_the_others():
    ran = []
    with JobQueue(max_per_owner=9) as queue:
        queue.submit(lambda p, c: ran.append("a"), owner=Owner("1", "a", "a")).wait(5)
        gate = held(queue)
        for name in "aba":
            last = queue.submit(lambda p, c, name=name: ran.append(name), owner=Owner("2", name, name))
        gate.set()
        last.wait(5)
    assert ran == ["a", "b", "a", "a"]


def test_visitors_without_end_do_not_fill_the_queue_from_one_address():
    with JobQueue(max_pending=6, max_per_owner=2, max_per_address=4) as queue:
        gate = held(queue)
        for k in range(4):
            queue.submit(Steps(1), owner=Owner(f"t{k}", f"v{k}", "one"))
        with pytest.raises(QueueFull, match=r"\b4\b"):
            queue.submit(Steps(1), owner=Owner("t9", "v9", "one"))
        mine = queue.submit(Steps(1), owner=Owner("t", "somebody", "two"))
        assert mine.snapshot().position == 2 and queue.pending == 6
        gate.set()
        mine.wait(5)
        assert eventually(lambda: not queue.pending)


def test_pages_of_one_visitor_share_their_bound():
    with JobQueue(max_per_owner=2) as queue:
        gate = held(queue)
        for k in range(2):
            queue.submit(Steps(1), owner=Owner(f"page {k}", "a", "one"))
        with pytest.raises(QueueFull, match=r"\b2\b"):
            queue.submit(Steps(1), owner=Owner("page 3", "a", "one"))
        gate.set()


def test_an_owner_who_has_left_frees_the_queue():
    present = {"gone", "here"}
    with JobQueue(present=lambda owner: owner.tab in present) as queue:
        gone = Steps()
        lost = [queue.submit(gone, owner="gone"), queue.submit(Steps(), owner="gone")]
        stays = queue.submit(Steps(total=300, pause=0.005), owner="here")
        assert gone.started.wait(5) and not lost[0].snapshot().finished
        present.discard("gone")
        assert eventually(lambda: all(job.snapshot().finished for job in lost), 3)
        assert [job.snapshot().state for job in lost] == ["cancelled", "cancelled"]
        assert "page was closed" in lost[0].snapshot().message
        assert stays.wait(20).state == "done" and queue.here("here") and not queue.here("gone")


def test_jobs_of_an_owner_are_cancelled():
    with JobQueue() as queue:
        more = [queue.submit(Steps(), owner="x") for _ in range(3)]
        assert queue.cancel_owner("x") == 3 and queue.cancel_owner("nobody") == 0
        assert [job.wait(5).state for job in more] == ["cancelled"] * 3


def test_time_limit_stops_a_job_and_says_so():
    with JobQueue(time_limit=100) as queue:
        work = Steps()
        job = queue.submit(work, time_limit=0.2)
        snapshot = job.wait(5)
        assert snapshot.state == "cancelled" and "time limit" in snapshot.message and job.result() == work.done
        assert snapshot.elapsed < 2
        assert queue.submit(Steps(1), time_limit=1e9).time_limit == 100


def test_errors_become_messages(queue, caplog):
    def mendable(progress, cancel):
        raise CmaiError("Epsilon is 300.", "Use at most 64.")

    def broken(progress, cancel):
        raise KeyError("/secret/path")

    first, second = queue.submit(mendable), queue.submit(broken)
    assert (first.wait(5).message, first.wait(5).hint) == ("Epsilon is 300.", "Use at most 64.")
    with caplog.at_level(logging.ERROR, logger="cmai_core.jobs.queue"):
        snapshot = second.wait(5)
    assert snapshot.state == "failed" and snapshot.message == "Internal error." and "secret" not in snapshot.hint
    with pytest.raises(CmaiError, match="300"):
        first.result()
    assert queue.submit(Steps(1)).wait(5).state == "done"  # the worker lives on
    assert any("KeyError" in (r.exc_text or "") for r in caplog.records)


def test_old_results_are_dropped_and_handles_keep_nothing_alive():
    class Big:
        pass

    with JobQueue(keep_results=2) as queue:
        jobs, alive = [], []
        for _ in range(4):
            big = Big()
            alive.append(weakref.ref(big))

            def work(progress, cancel, big=big):
                progress(Progress(1, 1, data={"image": big}))
                return big

            jobs.append(queue.submit(work, label="big"))
            jobs[-1].wait(5)
        del big, work
        gc.collect()
        assert [r() is not None for r in alive] == [False, False, True, True]
        assert [job.snapshot().has_result for job in jobs] == [False, False, True, True]
        with pytest.raises(JobError):
            jobs[0].result()


def test_result_before_the_end(queue):
    gate = threading.Event()
    job = queue.submit(Steps(1, gate=gate), label="slow")
    with pytest.raises(JobError, match="slow"):
        job.result()
    gate.set()


# Short calls


def test_calls_run_on_the_worker_between_the_steps_of_a_job(queue):
    work = Steps()
    job = queue.submit(work, owner="a")
    queue.submit(Steps(1), owner="b")
    assert work.started.wait(5)
    start = time.monotonic()
    thread = queue.call(threading.current_thread, timeout=5)
    assert thread.name == "cmai-jobs" and time.monotonic() - start < 1
    assert job.snapshot().state == "running"
    job.cancel()


def test_calls_go_before_waiting_jobs(queue):
    gate, order = threading.Event(), []
    first = queue.submit(lambda progress, cancel: gate.wait(5))
    assert eventually(lambda: first.snapshot().state == "running")
    last = queue.submit(lambda progress, cancel: order.append("job"))
    caller = threading.Thread(target=lambda: queue.call(lambda: order.append("call")))
    caller.start()
    assert eventually(lambda: len(queue._calls) == 1)
    gate.set()
    caller.join(5)
    last.wait(5)
    assert order == ["call", "job"]


def test_a_call_passes_its_error_on_and_may_nest(queue):
    with pytest.raises(ZeroDivisionError):
        queue.call(lambda: 1 / 0)

    def own():
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        queue.call(own)
    assert queue.call(lambda: queue.call(lambda: 7)) == 7


def test_a_call_that_waits_too_long_is_withdrawn(queue):
    gate, ran = threading.Event(), []
    job = queue.submit(lambda progress, cancel: gate.wait(5))
    assert eventually(lambda: job.snapshot().state == "running")
    with pytest.raises(JobError, match=r"0\.05"):
        queue.call(lambda: ran.append(1), timeout=0.05)
    gate.set()
    queue.call(lambda: None)
    assert ran == []


def test_calls_are_bounded():
    with JobQueue(max_calls=1) as queue:
        gate = threading.Event()
        job = queue.submit(lambda progress, cancel: gate.wait(5))
        assert eventually(lambda: job.snapshot().state == "running")
        caller = threading.Thread(target=lambda: queue.call(lambda: None))
        caller.start()
        assert eventually(lambda: len(queue._calls) == 1)
        with pytest.raises(QueueFull, match=r"\b1\b"):
            queue.call(lambda: None)
        gate.set()
        caller.join(5)


# Shutting down


def test_close_cancels_everything_and_ends_the_threads():
    queue = JobQueue()
    work = Steps()
    jobs = [queue.submit(work, owner="a"), queue.submit(Steps(), owner="a")]
    assert work.started.wait(5)
    errors = []

    def late():
        try:
            queue.call(lambda: time.sleep(0))
        except JobError as error:
            errors.append(error)

    assert queue.close(5)
    assert [job.snapshot().state for job in jobs] == ["cancelled", "cancelled"]
    assert not queue._worker.is_alive() and eventually(lambda: not queue._watchdog.is_alive())
    late()
    assert len(errors) == 1
    with pytest.raises(JobError) as caught:
        queue.submit(work)
    assert not isinstance(caught.value, QueueFull)
    assert queue.close()  # twice does no harm


def test_close_releases_who_waits_for_a_call():
    queue = JobQueue()
    errors, gate = [], held(queue)  # the worker is busy, so that the call waits

    def caller():
        try:
            queue.call(lambda: None)
        except JobError as error:
            errors.append(str(error))

    thread = threading.Thread(target=caller)
    thread.start()
    assert eventually(lambda: len(queue._calls) == 1)
    queue.close(0.01)
    thread.join(5)
    assert errors
    gate.set()
    assert queue.close(5)


def test_many_threads_at_once():
    """Owners submit, watch, call and cancel from their own threads; every job ends in a final state."""
    with JobQueue(max_pending=1000, max_per_owner=50) as queue:
        states, answers = [], []

        def visitor(name):
            jobs = [queue.submit(Steps(20, pause=0), owner=name) for _ in range(10)]
            answers.append(queue.call(lambda: name))
            jobs[3].cancel()
            states.extend(job.wait(20).state for job in jobs)

        threads = [threading.Thread(target=visitor, args=(str(i),)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(answers) == sorted(map(str, range(8)))
        assert len(states) == 80 and set(states) <= {"done", "cancelled"} and states.count("done") >= 72
