"""The benchmark page without a browser: empty, running, finished, stopped and gone on with, a store that is in use or
broken; all on real attacks with a bundled architecture.
"""

from __future__ import annotations

import time

import pytest

from cmai_core.evaluation.store.store import DATABASE, Store, default_folder


@pytest.fixture
def bench(app, tmp_path, monkeypatch):
    """bench(**values): the page over a store of its own; whatever still runs at the end is stopped."""
    from app.services.benchmark import benchmark_service

    monkeypatch.setenv("CMAI_DATA", str(tmp_path))

    def opened(**values):
        return app("benchmark", **values)

    yield opened
    service = benchmark_service()
    service.cancel()
    if service.sweep is not None:
        assert service.sweep.wait(60).over


def tiny(at, **values):
    """The smallest grid worth the name."""
    from app import state

    first = {
        state.BENCH_MODELS: ["tabletop", "tabletop-cmai"], state.BENCH_TASKS: ["zero-shot"],
        state.BENCH_IMAGE: ["fgsm"], state.BENCH_EPSILONS: [2.0, 8.0], state.BENCH_COUNT: 4,
    }  # fmt: skip
    for key, value in (first | values).items():
        at.session_state[key] = value
    return at.run()


def counted(at, ready, seconds=200):
    """Runs the page again until it says what is awaited."""
    end = time.monotonic() + seconds
    while not ready(at):
        assert time.monotonic() < end, [e.value for e in (*at.error, *at.caption, *at.info)]
        time.sleep(0.2)
        at.run()
    assert not at.exception
    return at


def finished(at, seconds=240):
    from app.services.benchmark import benchmark_service

    state = benchmark_service().sweep.wait(seconds)
    assert state.state == "done", (state, state.error)
    return counted(at.run(), lambda at: any(frame.key == "bench_worst" for frame in at.dataframe))


def frame(at, key):
    return next(f.value for f in at.dataframe if f.key == key)


def test_the_empty_page_teaches_and_counts(bench, texts):
    at = bench()
    said = texts(at)
    assert not at.exception and not at.error
    assert "A cell is one measurement" in said and "Quick look" in said and "Image vs text vs joint" in said
    assert not default_folder().exists()  # looking makes no store
    tiny(at)
    counted(at, lambda at: "0 of 16 attacked pairs are in the store" in texts(at))
    assert "4 cells × 4 pairs" in texts(at)
    (said,) = [code.value for code in at.code if "cmai evaluate" in code.value]
    assert "--epsilons 2 8" in said
    at = tiny(at, bench_image=[])
    assert "No attack is chosen" in texts(at) and at.button(key="start_bench").disabled


def test_a_preset_fills_the_form(bench):
    at = bench()
    at.button(key="adjust_adaptive").click().run()
    assert at.session_state["bench_models"] == ["tabletop-cmai"] and at.session_state["bench_detection"]
    assert at.session_state["bench_image"] == ["pgd", "adaptive", "detector-pgd"]
    assert at.number_input(key="bench_tau") and not at.exception


def test_a_grid_runs_and_its_numbers_open_their_pairs(bench, texts):
    from app import state
    from app.components.benchmark.words import figure_id
    from app.services.benchmark import benchmark_service
    from cmai_core.lab.benchmark.results import pairs_behind

    at = tiny(bench())
    at.button(key="start_bench").click().run()
    assert not at.exception and at.button(key="cancel_bench")
    at = finished(at)
    table = frame(at, "bench_worst")
    assert list(table["model"]) == ["▲ tabletop", "■ tabletop-cmai"]
    assert {"clean", "picture 2/255", "picture 8/255"} <= set(table.columns) and "[" in table["clean"][0]
    cells = frame(at, "bench_cells")
    assert len(cells) == 2 + 2 * 2 * 2 and cells["right"].between(0, 1).all()
    made = benchmark_service().results([benchmark_service().runs()[0].run]).result()
    for row in made.figures.to_dict("records"):
        pairs = pairs_behind(made.frame, row)
        hits = row["clean_hits"] if row["kind"] == "clean" else row["robust_hits"]
        assert len(pairs) == 4 and (pairs["verdict"] == "held").sum() == hits
    row = next(r for r in made.figures.to_dict("records") if r["kind"] == "attack" and r["budget"] == "8/255")
    at.session_state[state.BENCH_OPEN] = figure_id(row)
    at.run()
    assert not at.exception and not at.error, texts(at)
    buttons = [b for b in at.button if b.key and b.key.startswith("bench_lab_")]
    assert buttons and 'alt="adversarial picture"' in texts(at)
    for name in ("Accuracy against ε", "Transfer", "By modality", "Self-checks", "Export"):
        at.session_state["bench_tabs"] = name
        at.run()
        assert not at.exception and not at.error, (name, texts(at))
    assert {b.label for b in at.get("download_button")} >= {"CSV", "JSON", "LaTeX", "Report (HTML)"}
    at.session_state["bench_tabs"] = "Accuracy against ε"
    at.run()
    at.selectbox(key="bench_curve_attack").select_index(len(at.selectbox(key="bench_curve_attack").options) - 1).run()
    assert not at.exception and not at.error and len(frame(at, "bench_curve_table")) >= 4
    at.session_state["bench_tabs"] = "Export"
    at.run()
    at.selectbox(key="bench_figures").select("picture-sizes").run()
    assert not at.exception and not at.error and "ssim" in str(at.dataframe[-1].value["metric"].tolist())


def test_a_benchmark_is_its_visitors(bench, texts):
    from app.services.benchmark import benchmark_service

    mine = tiny(bench(), bench_count=64, bench_image=["pgd"], bench_effort="usual")
    mine.button(key="start_bench").click().run()
    assert benchmark_service().busy and mine.run().button(key="cancel_bench")
    other = bench()
    keys = {button.key for button in other.button}
    assert "cancel_bench" not in keys and other.button(key="start_bench").disabled and not other.exception
    assert not [f for f in other.dataframe if f.key == "bench_live_table"]
    mine.button(key="cancel_bench").click().run()
    assert benchmark_service().sweep.wait(60).state == "cancelled"
    assert "Stopped" in texts(mine.run()) and "Stopped" not in texts(other.run())


def test_a_stopped_run_goes_on(bench, texts):
    from app.services.benchmark import benchmark_service

    longer = {"bench_image": ["fgsm", "pgd"], "bench_effort": "usual"}
    at = tiny(bench(), bench_count=64, **longer)
    at.button(key="start_bench").click().run()
    end = time.monotonic() + 200
    service = benchmark_service()
    while not (service.state.run and any(cell.done for cell in service.live(service.state.run))):
        assert time.monotonic() < end and not service.state.over
        time.sleep(0.1)
    assert any("pairs attacked" in f.value.columns for f in at.run().dataframe)
    at.button(key="cancel_bench").click().run()
    assert benchmark_service().sweep.wait(60).state == "cancelled"
    run = benchmark_service().state.run
    stored = sum(cell.done for cell in benchmark_service().live(run))
    counted(at.run(), lambda at: any(frame.key == "bench_worst" for frame in at.dataframe))
    assert "Stopped" in texts(at) and 16 <= stored < 8 * 64
    at.button(key="bench_go_on").click().run()
    assert benchmark_service().busy and benchmark_service().sweep.values["limit"] == 64
    benchmark_service().cancel()
    assert benchmark_service().sweep.wait(60).run == run
    tiny(at, bench_count=16, **longer).button(key="start_bench").click().run()  # the first pairs are stored by then
    at = finished(at)
    assert 0 < benchmark_service().state.attacked <= 8 * 16 - 16


def test_a_store_in_use_and_a_broken_one_are_explained(bench, texts):
    from app.services.benchmark import benchmark_service

    at = tiny(bench())
    with Store.write(default_folder()):
        at.button(key="start_bench").click().run()
        benchmark_service().sweep.wait(120)
        at.run()
        assert any("is being written by process" in e.value for e in at.error) and not at.exception
    (default_folder() / DATABASE).write_bytes(b"no database at all")
    at.run()
    assert any("is damaged" in e.value for e in at.error) and not at.exception
    assert (default_folder() / DATABASE).read_bytes() == b"no database at all"


def test_reading_goes_on_while_another_process_writes(bench, texts):
    at = tiny(bench())
    at.button(key="start_bench").click().run()
    finished(at)
    with Store.write(default_folder()) as store, store.transaction():
        at = bench()
        counted(at, lambda at: any(frame.key == "bench_worst" for frame in at.dataframe))
        assert not at.error


def test_the_first_paint_imports_no_torch(tmp_path):
    """In a fresh interpreter: the page's script up to its end, over a store that does not exist."""
    import subprocess
    import sys
    from pathlib import Path

    script = (
        "import sys, app.app_pages.benchmark\n"
        "from app.registry import PAGES\n"
        "assert all(page.title for page in PAGES.values())\n"
        "from app.services.benchmark import benchmark_service\n"
        "assert benchmark_service().runs() == []\n"
        "from app.components.benchmark.presets import of_preset, presets\n"
        "assert all(of_preset(p).checked().values() for p in presets())\n"
        "assert 'torch' not in sys.modules and 'open_clip' not in sys.modules, 'imported'"
    )
    root = Path(__file__).resolve().parents[2]
    import os

    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True,
        env=os.environ | {"CMAI_DATA": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
