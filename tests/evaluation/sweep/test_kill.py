"""kill -9 at ten random moments, each time gone on with: the same readings as a run that nobody disturbed.

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
    spec = importlib.util.spec_from_file_location("sweep", sys.argv[1] + "/conftest.py")
    kit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kit)
    from cmai_core.evaluation import readings
    from cmai_core.evaluation.grid import Grid
    from cmai_core.evaluation.runner import run
    from cmai_core.evaluation.store import Store

    models, pairs = kit.make_models(2), kit.Coloured()
    recipes = ["fgsm", "pgd:steps=6", "char:candidates=4,rounds=1", "seq:steps=2", "deepfool:steps=3"]
    grid = Grid(models=list(models), tasks=["zero-shot"], recipes=recipes, epsilons=[2, 8], limit=12, batch_size=3)

    def sweep(folder):
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

    sweep(sys.argv[2] + "/warm")  # everything imported and compiled before the clock counts
    start = time.perf_counter()
    assert os.waitpid(child(sys.argv[2] + "/whole"), 0)[1] == 0
    length = time.perf_counter() - start
    draw, killed, places = random.Random(11), 0, set()
    while killed < 10:
        pid = child(sys.argv[2] + "/killed")
        time.sleep(draw.uniform(0.02, 0.22) * length)
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break  # it was through before all ten
        os.kill(pid, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        killed += 1
        with Store.read(sys.argv[2] + "/killed") as store:
            places.add(store.query("SELECT count(*) FROM examples")[0][0])
    report = sweep(sys.argv[2] + "/killed")
    for name in ("whole", "killed"):
        with Store.read(sys.argv[2] + "/" + name) as store:
            readings.frame(store, report.plan).to_pickle(sys.argv[2] + "/" + name + ".pkl")
            assert store.query("PRAGMA integrity_check") == [("ok",)]
    print(killed, len(places))
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
    killed, places = map(int, done.stdout.split())
    assert killed == 10 and places >= 3  # at different places of the sweep
    whole, resumed = (pd.read_pickle(tmp_path / f"{name}.pkl").drop(columns="seconds") for name in ("whole", "killed"))
    assert len(whole) > 300
    pd.testing.assert_frame_equal(whole, resumed, check_exact=True)
    files = [p for p in (tmp_path / "killed" / "examples").rglob("*.parquet") if not p.name.startswith(".")]
    known = set(whole["example"].dropna().str.rsplit(":", n=1).str[0])
    assert {str(p.relative_to(tmp_path / "killed")) for p in files} == known
