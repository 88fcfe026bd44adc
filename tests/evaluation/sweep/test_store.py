"""A store that cannot be used says so and stays as it is; readers read while a writer writes."""

import hashlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from cmai_core.errors import StoreError
from cmai_core.evaluation.store.store import DATABASE, EXAMPLES, FORMAT, Store


def example(item, value=3):
    return {
        "item": item,
        "version": "1",
        "text_index": 0,
        "difference": np.full((4, 4, 3), value, np.uint8),
        "text": None,
        "linf": value / 255,
        "seconds": 0.5,
    }


def prediction(item, correct=True):
    return {"item": item, "version": "1", "text_index": 0, "correct": correct, "answer": "cube", "consistency": 0.25}


def fill(store, count=3, craft="c0"):
    items = [f"i{k}" for k in range(count)]
    store.put_examples(craft, "r0", [example(i) for i in items], [prediction(i) for i in items])


def contents(folder):
    """What must be kept: the database, its log and the examples. The lock and the log's index are working files."""
    kept = [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.startswith(("writer.",))]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in kept if not p.name.endswith("-shm")}


@pytest.fixture
def filled(tmp_path):
    folder = tmp_path / "store"
    with Store.write(folder) as store:
        fill(store)
    return folder


def test_what_is_written_is_read(filled):
    with Store.read(filled) as store:
        files = store.attacked("c0")
        assert set(files) == {("i0", "1"), ("i1", "1"), ("i2", "1")}
        ((difference, text),) = store.examples("c0", files)["i1", "1"]
        assert text is None and (difference == 3).all() and difference.shape == (4, 4, 3)
        assert store.verdicts("r0", "c0")["i2", "1"] is True
        assert store.predicted_by("c0", "r0") == set(files) and store.attacked("c1") == {}
        file = files["i1", "1"]
        assert store.example(f"{file}:1")["item"] == "i1"


def test_missing(tmp_path):
    with pytest.raises(StoreError, match="nowhere") as caught:
        Store.read(tmp_path / "nowhere")
    assert "--store" in caught.value.hint and not (tmp_path / "nowhere").exists()
    path = tmp_path / "file"
    path.write_text("kept")
    with pytest.raises(StoreError, match=re.escape(str(path))):
        Store.write(path)
    assert path.read_text() == "kept"


def test_locked_by_a_live_writer_and_taken_over_from_a_dead_one(filled):
    code = f"""
        import sys, time
        from cmai_core.evaluation.store.store import Store
        store = Store.write({str(filled)!r})
        print("open", flush=True)
        time.sleep(60)
    """
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "open\n"
        before = contents(filled)
        with pytest.raises(StoreError, match=rf"\b{child.pid}\b") as caught:
            Store.write(filled)
        assert "--store" in caught.value.hint and before.items() <= contents(filled).items()
        with Store.read(filled) as reader:
            assert len(reader.attacked("c0")) == 3
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        with Store.write(filled) as store:
            fill(store, craft="c1")
            assert len(store.attacked("c0")) == len(store.attacked("c1")) == 3
    finally:
        child.kill()
        child.wait()


def test_a_second_writer_in_the_same_process(filled):
    with Store.write(filled), pytest.raises(StoreError, match=rf"\b{os.getpid()}\b"):
        Store.write(filled)


def test_readers_read_while_a_writer_writes(filled):
    with Store.write(filled) as writer, Store.read(filled) as reader:
        for k in range(1, 6):
            fill(writer, craft=f"c{k}")
            assert len(reader.attacked(f"c{k}")) == 3
        with writer.transaction() as db:
            db.execute("DELETE FROM examples")  # not committed yet: the reader sees what was
            assert len(reader.attacked("c5")) == 3
            db.execute("INSERT INTO meta VALUES ('other', '1')")


@pytest.mark.parametrize("how", ["header", "middle", "short", "other program"])
def test_damaged(filled, how):
    path = filled / DATABASE
    if how == "other program":
        path.unlink()
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE theirs (x)")
        db.close()
    else:
        data = bytearray(path.read_bytes())
        if how == "header":
            data[:16] = b"no database here"
        elif how == "middle":
            data[4096:] = os.urandom(len(data) - 4096)
        else:
            data = data[: len(data) // 2]
        path.write_bytes(bytes(data))
    before = contents(filled)
    with pytest.raises(StoreError) as caught:
        Store.write(filled)
    # What says how to put a copy back is for a store that is damaged, not for a file of another program.
    assert (DATABASE in caught.value.hint) == (how != "other program")
    assert "--store" in caught.value.hint and before.items() <= contents(filled).items()


def test_a_damaged_file_of_examples(filled):
    file = next((filled / EXAMPLES).rglob("*.parquet"))
    file.write_bytes(file.read_bytes()[:40])
    before = contents(filled)
    with Store.read(filled) as store, pytest.raises(StoreError, match=file.name) as caught:
        store.examples("c0", store.attacked("c0"))
    assert caught.value.hint and before.items() <= contents(filled).items()


def test_a_newer_format(filled):
    with sqlite3.connect(filled / DATABASE) as db:
        db.execute("UPDATE meta SET value = ? WHERE key = 'format'", (str(FORMAT + 1),))
    db.close()
    before = contents(filled)
    for open_it in (Store.write, Store.read):
        with pytest.raises(StoreError, match=rf"\b{FORMAT + 1}\b.*\b{FORMAT}\b") as caught:
            open_it(filled)
        assert "--store" in caught.value.hint
    assert before.items() <= contents(filled).items()


def test_full_database(filled):
    with Store.write(filled) as store:
        pages = store.query("PRAGMA page_count")[0][0]
        store.query(f"PRAGMA max_page_count = {pages + 1}")
        with pytest.raises(StoreError, match=re.escape(str(filled))) as caught:
            for k in range(1, 60):
                fill(store, 40, craft=f"c{k}")
        assert caught.value.__cause__.sqlite_errorname == "SQLITE_FULL" and caught.value.hint
        done = k - 1
        assert len(store.attacked("c0")) == 3 and store.attacked(f"c{k}") == {}
        assert len(store.attacked(f"c{done}")) in (3, 40)
        store.query("PRAGMA max_page_count = 100000")  # space was freed
        fill(store, 40, craft=f"c{k}")
        assert len(store.attacked(f"c{k}")) == 40


def test_full_disk_for_examples(filled):
    """The system refuses files above a size: what is there stays, nothing half-written is left behind."""
    code = f"""
        import resource, sys
        sys.path.insert(0, {str(os.path.dirname(__file__))!r})
        import numpy as np
        from cmai_core.errors import StoreError
        from cmai_core.evaluation.store.store import Store
        from test_store import example, prediction
        store = Store.write({str(filled)!r})
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
        noise = dict(example("big"), difference=np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8))
        try:
            store.put_examples("c1", "r0", [noise], [prediction("big")])
        except StoreError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert "kept as it is" in done.stdout and "goes on" in done.stdout, done.stdout + done.stderr
    assert not [p for p in filled.rglob("*") if p.name.endswith(".tmp")]
    with Store.read(filled) as store:
        assert len(store.attacked("c0")) == 3 and store.attacked("c1") == {}


def test_read_only_folder(filled, monkeypatch):
    """Where nothing may be written, reading works and writing says so."""
    if os.geteuid() == 0:
        if os.system("command -v setpriv >/dev/null") != 0:
            pytest.skip("root writes everywhere; needs setpriv to become somebody else")
        for folder in [filled, *filled.parents]:
            if str(folder).startswith("/tmp/"):
                folder.chmod(0o755)
        prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    else:
        prefix = []
    for path in [*filled.rglob("*"), filled]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    code = f"""
        from cmai_core.errors import StoreError
        from cmai_core.evaluation.store.store import Store
        with Store.read({str(filled)!r}) as store:
            print(len(store.attacked("c0")))
        try:
            Store.write({str(filled)!r})
        except StoreError as error:
            print(error.hint)
    """
    before = contents(filled)
    command = [*prefix, sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    for path in [filled, *filled.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    if done.returncode and "cmai_core" in done.stderr and "Permission" in done.stderr:
        pytest.skip("the other user cannot read this checkout")
    assert done.stdout.splitlines()[0] == "3" and "--store" in done.stdout, done.stdout + done.stderr
    assert before.items() <= contents(filled).items()


def test_the_owners_note_may_be_missing(filled):
    with Store.write(filled):
        (filled / "writer.json").write_text(json.dumps([1]))
        with pytest.raises(StoreError, match=re.escape(str(filled))) as caught:
            Store.write(filled)
        assert str(os.getpid()) not in caught.value.message
