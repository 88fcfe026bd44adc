"""kill -9 at ten random moments, each time gone on with: the same predictions as a run that nobody disturbed.

One process loads everything and forks a child for each run, so that ten kills cost no ten starts.
"""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pandas as pd

SCRIPT = """
    import importlib.util, os, random, signal, sys, time
    sys.path.insert(0, sys.argv[1] + "/../../helpers")
    spec = importlib.util.spec_from_file_location("sweep", sys.argv[1] + "/conftest.py")
    kit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kit)
    from cmai_core.evaluation.runs import predictions
    from cmai_core.evaluation.runs.grid import Grid
    from cmai_core.evaluation.runs.runner import run
    from cmai_core.evaluation.store.store import Store

    models, pairs = kit.make_models(2), kit.Coloured()
    recipes = ["fgsm", "pgd:steps=6", "char:candidates=4,rounds=1", "deepfool:steps=3"]
    values = {"models": list(models), "tasks": ["zero-shot"], "recipes": recipes, "batch_size": 2}
    grid = Grid(**values, epsilons=[2, 8], limit=8)
    base = sys.argv[2]

    def sweep(folder, grid=grid):
        with Store.write(folder) as store:
            return run(grid, store, models=models, dataset=pairs)

    def child(folder):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                sweep(folder)
                status = 0
            finally:
                os._exit(status)
        return pid

    sweep(base + "/warm", Grid(**values, limit=3))  # everything imported and compiled before the clock counts
    start = time.perf_counter()
    report = sweep(base + "/whole")
    length = time.perf_counter() - start
    draw, killed, places, folders = random.Random(11), 0, set(), ["whole", "killed-0"]
    while killed < 10:
        pid = child(base + "/" + folders[-1])
        time.sleep(draw.uniform(0.02, 0.2) * length)
        done, status = os.waitpid(pid, os.WNOHANG)
        if not done:
            os.kill(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
        if not os.WIFSIGNALED(status):  # it was through, perhaps just before the kill: the others are for another store
            assert status == 0
            folders.append(f"killed-{len(folders) - 1}")
            continue
        killed += 1
        with Store.write(base + "/" + folders[-1]) as store:  # the dead one's lock is free
            places.add(store.query("SELECT count(*) FROM examples")[0][0])
    sweep(base + "/" + folders[-1])
    for name in folders:
        with Store.read(base + "/" + name) as store:
            predictions.frame(store, report.plan).to_pickle(base + "/" + name + ".pkl")
            assert store.query("PRAGMA integrity_check") == [("ok",)]
    print(killed, len(places), *folders)
"""


def test_killed_ten_times_and_gone_on(tmp_path):
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(here), str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    killed, places, first, *others = done.stdout.split()
    assert killed == "10" and int(places) >= 3 and others  # at different places of the sweep
    whole = pd.read_pickle(tmp_path / f"{first}.pkl").drop(columns="seconds")
    known = set(whole["example"].dropna().str.rsplit(":", n=1).str[0])
    assert len(whole) > 200
    for name in others:
        resumed = pd.read_pickle(tmp_path / f"{name}.pkl").drop(columns="seconds")
        pd.testing.assert_frame_equal(whole, resumed, check_exact=True)
        files = [p for p in (tmp_path / name / "examples").rglob("*.parquet") if not p.name.startswith(".")]
        assert {str(p.relative_to(tmp_path / name)) for p in files} == known
