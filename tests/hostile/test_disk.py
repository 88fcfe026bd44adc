"""Full disks, places that cannot be written, links, devices, kills: what is said, what is kept, what is left behind."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from cmai_core import cli, terminal
from cmai_core.errors import DataError
from cmai_core.files import atomic, check_writable, is_stdout, write_json, write_text

resource = pytest.importorskip("resource", reason="limits of files are set in another way on Windows")


@contextmanager
def no_space(limit: int = 2048):
    """No file may grow beyond `limit` bytes: what a full disk or a used-up quota does, on any system."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def full_disk(tmp_path):
    """A real file system of 256 kB, where one may be mounted."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system may be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# --- the one writer ---------------------------------------------------------------------------------------------------


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path):
    (tmp_path / "real").mkdir()
    target, link, further = tmp_path / "real" / "a.json", tmp_path / "b.json", tmp_path / "c.json"
    target.write_text("old")
    target.chmod(0o600)
    link.symlink_to(target)
    further.symlink_to(link)
    write_text(further, "new")
    assert further.is_symlink() and link.is_symlink() and target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    write_text(tmp_path / "d", "x")
    dangling = tmp_path / "e"
    dangling.symlink_to("real/later.json")
    write_text(dangling, "made")
    assert dangling.is_symlink() and (tmp_path / "real" / "later.json").read_text() == "made"
    assert names(tmp_path / "real") == ["a.json", "later.json"]


def test_a_file_of_two_names_stays_one_file(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("old and long")
    os.link(first, second)
    write_text(second, "new")
    assert first.read_text() == "new" and first.stat().st_ino == second.stat().st_ino


def test_pipes_and_devices_are_written_into(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_writable(pipe)  # does not open it: nobody reads yet
    got = []
    reader = threading.Thread(target=lambda: got.append(json.loads(pipe.read_text())))
    reader.start()
    write_json(pipe, {"a": 1})
    reader.join(10)
    assert got == [{"a": 1}] and stat.S_ISFIFO(pipe.stat().st_mode)
    write_text(Path(os.devnull), "gone")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode) and names(tmp_path) == []


def test_stdout_by_any_name_is_appended_to_and_not_replaced(tmp_path):
    """As a shell has it: `cmai … --json /dev/stdout > file` with words before and after."""
    if not os.path.exists("/dev/stdout"):
        pytest.skip("this system has no /dev/stdout")
    out = tmp_path / "out.txt"
    code = (
        "from pathlib import Path; import sys; from cmai_core.files import write_text\n"
        "print('before'); write_text(Path('/dev/stdout'), 'ε\\n'); write_text(Path('-'), 'b\\n')\n"
        f"write_text(Path({str(out)!r}), 'c\\n'); print('after')"
    )
    with out.open("w") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True, env=os.environ | {"PYTHONUTF8": "0"})
    assert out.read_text(encoding="utf-8").split() == ["before", "ε", "b", "c", "after"]


def test_what_may_not_be_written_is_said_before_the_work(tmp_path):
    (tmp_path / "folder").mkdir()
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for wrong in (tmp_path / "folder", tmp_path / "none" / "a.json", loop, tmp_path / ("x" * 300), Path("/dev/null/a")):
        for write in (check_writable, lambda path: write_text(path, "x")):
            with pytest.raises(DataError) as caught:
                write(wrong)
            assert caught.value.hint and str(wrong) in caught.value.message
    assert names(tmp_path) == []


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with no_space(), pytest.raises(DataError, match=os.strerror(errno.EFBIG)) as caught:
        write_text(path, "x" * 10_000)
    assert "space" in caught.value.hint
    with pytest.raises(ZeroDivisionError), atomic(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and names(tmp_path) == ["a.json"]


def test_a_real_disk_that_is_full(full_disk):
    path = full_disk / "a.json"
    write_text(path, "old")
    with pytest.raises(DataError, match=os.strerror(errno.ENOSPC)):
        write_text(path, "x" * 1_000_000)
    assert path.read_text() == "old" and names(full_disk) == ["a.json"]
    with pytest.raises(OSError), (full_disk / "fill").open("wb", buffering=0) as fill:
        while True:
            fill.write(bytes(4096))
    with pytest.raises(DataError, match=os.strerror(errno.ENOSPC)):
        check_writable(full_disk / "b.json")
    assert names(full_disk) == ["a.json", "fill"]


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def attack(tmp_path_factory):
    """The arguments of a small real attack, whose report goes to the path that is added."""
    from PIL import Image

    from cmai_core.models import new_model, save_local_dir

    folder = tmp_path_factory.mktemp("attack")
    save_local_dir(new_model("tabletop-b", torch.Generator().manual_seed(0), "cpu"), folder / "model")
    for name, grey in (("a", 40), ("b", 200)):
        Image.new("RGB", (8, 8), (grey, 90, 9)).save(folder / f"{name}.png")
    (folder / "pairs.csv").write_text("image,caption\na.png,a cat\nb.png,a dog\n")
    given = {"--model": f"local-dir:{folder / 'model'}", "--dataset": folder / "pairs.csv", "--steps": 1}
    return ["attack", "--quiet", *(str(word) for pair in given.items() for word in pair), "--json"]


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path, capsys):
    path = tmp_path / "none" / "a.json"
    for command in (["attack"], ["evaluate-clean"], ["check"], ["cmcv", "local-dir:none"], ["evaluate"]):
        model = [] if command[0] == "cmcv" else ["--models" if command == ["evaluate"] else "--model", "local-dir:none"]
        assert cli.main([*command, *model, "--json", str(path)]) == 2
        out, err = capsys.readouterr()
        assert out == "" and str(path) in err and err.count("\n") == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_result_that_cannot_be_written_is_printed_and_kept_elsewhere(attack, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    link = tmp_path / "link.json"
    link.symlink_to("/dev/full")
    assert cli.main([*attack, str(link)]) == 2
    out, err = capsys.readouterr()
    assert "ASR" in out and str(link) in err
    kept = next(path for path in tmp_path.glob("cmai-*.json"))
    assert str(kept) in err and json.loads(kept.read_text())["experiment"]["steps"] == 1
    assert link.is_symlink() and stat.S_ISCHR(os.stat("/dev/full").st_mode)


class Closed(io.RawIOBase):
    """A standard output that fails as the system fails."""

    def __init__(self, number: int):
        self.number = number

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize(("number", "status"), [(errno.EPIPE, 0), (errno.ENOSPC, 2)])
def test_an_output_that_fails_does_not_keep_the_file_back(attack, tmp_path, monkeypatch, capsys, number, status):
    path = tmp_path / "a.json"
    monkeypatch.setattr(terminal, "_abandon_stdout", lambda: None)  # this process needs its own
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(Closed(number), write_through=True))
    assert cli.main([*attack, str(path)]) == status
    assert json.loads(path.read_text())["experiment"]["steps"] == 1
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8", "cp437"])
def test_every_encoding_can_be_printed_to(monkeypatch, encoding):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    for arguments in (["recipes"], ["recipes", "--markdown"], ["models"], ["info"]):
        assert cli.main(arguments) == 0
    assert cli.main(["attack", "--help"]) == 0
    terminal.deliver("S_c 0.9 → 0.1, ε ≤ 4/255 – done")
    sys.stdout.flush()
    said = raw.getvalue().decode(encoding)
    assert "Tram" in said and "done" in said and ("->" in said or encoding == "utf-8")


def test_a_reader_that_has_gone_ends_a_command_quietly():
    process = subprocess.Popen(
        [sys.executable, "-m", "cmai_core", "recipes", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.read(1)
    process.stdout.close()
    assert process.wait(60) == 0 and process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.parametrize("value", ["file", "file/below", "/dev/null"])
def test_a_cache_that_is_no_folder_is_named(tmp_path, monkeypatch, capsys, value):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CMAI_CACHE", str(tmp_path / value))
    for arguments in (["info"], ["data", "build", "--scenes", "8", "--workers", "1"]):
        assert cli.main(arguments) == 2
        said = capsys.readouterr()
        assert "CMAI_CACHE" in said.err and said.err.count("\n") == 2


# --- data and trainings -----------------------------------------------------------------------------------------------


def test_pictures_that_cannot_be_cached_are_said_and_leave_nothing(private_cache, monkeypatch):
    from cmai_core.data.tabletop import dataset

    with no_space(), pytest.raises(DataError, match=re.escape(str(private_cache))):
        dataset.save_atomically(private_cache / "tabletop" / "0.npy", np.zeros((64, 64, 64)))
    assert names(private_cache) == []


def test_training_data_without_space_is_refused_at_once_and_leaves_nothing(tmp_path):
    from cmai_core.data.tabletop import arrays
    from cmai_core.models.tokenizer import bundled_tokenizer_dir

    made = []
    with no_space(1_000_000), pytest.raises(DataError, match=re.escape(str(tmp_path))):
        arrays.training_arrays(
            bundled_tokenizer_dir() / "tokenizer.json", scenes=500, workers=1, folder=tmp_path / "a", report=made.append
        )
    assert made == [] and names(tmp_path) == []


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path):
    from cmai_core.training.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint

    state = {"identity": "{}", "weights": torch.zeros(3)}
    save_checkpoint(tmp_path, state)
    with no_space(100_000), pytest.raises(DataError, match=CHECKPOINT):
        save_checkpoint(tmp_path, state | {"weights": torch.zeros(1_000_000)})
    assert torch.equal(load_checkpoint(tmp_path, {})["weights"], torch.zeros(3))
    assert names(tmp_path) == [CHECKPOINT]


def test_a_model_that_cannot_be_written_leaves_nothing(tmp_path):
    from cmai_core.models import new_model, save_local_dir

    model = new_model("tabletop-b", torch.Generator().manual_seed(0), "cpu")
    with no_space(200_000), pytest.raises(DataError, match=re.escape(str(tmp_path / "model"))):
        save_local_dir(model, tmp_path / "model")
    assert names(tmp_path) == []


# --- kills ------------------------------------------------------------------------------------------------------------

_POOL = """
import sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from cmai_core.children import end_with_parent

def child():
    print(__import__("os").getpid(), flush=True)
    time.sleep(120)

if __name__ == "__main__":
    with ProcessPoolExecutor(2, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        [pool.submit(child) for _ in range(8)]
"""


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process}/stat")  # one that has ended and that nobody has asked about yet
    return not status.is_file() or status.read_text().rsplit(")", 1)[1].split()[0] not in "ZX"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_children_end_with_their_parent(tmp_path, number):
    script = tmp_path / "pool.py"
    script.write_text(_POOL)
    with (tmp_path / "out").open("w") as out:
        parent = subprocess.Popen([sys.executable, str(script)], stdout=out, stderr=subprocess.DEVNULL)
    try:
        started = time.monotonic()
        while len(children := (tmp_path / "out").read_text().split()) < 2:
            assert time.monotonic() - started < 60 and parent.poll() is None
            time.sleep(0.05)
        assert all(alive(int(child)) for child in children)
        parent.send_signal(number)
        parent.wait(10)
        ended = time.monotonic()
        while any(alive(int(child)) for child in children):
            assert time.monotonic() - ended < 20
            time.sleep(0.05)
    finally:
        for process in [parent.pid, *map(int, (tmp_path / "out").read_text().split())]:
            if alive(process):
                os.kill(process, signal.SIGKILL)


def test_the_processes_that_render_are_such_children():
    """The pool of the training data asks for it: without, a kill left processes behind for good."""
    from cmai_core.children import end_with_parent
    from cmai_core.data.tabletop import arrays

    seen = {}

    class Pool(arrays.ProcessPoolExecutor):
        def __init__(self, *arguments, **options):
            seen.update(options)
            super().__init__(*arguments, **options)

    original, arrays.ProcessPoolExecutor = arrays.ProcessPoolExecutor, Pool
    try:
        assert list(arrays._built([], 2)) == []
    finally:
        arrays.ProcessPoolExecutor = original
    assert seen["initializer"] is end_with_parent


def test_standard_output_is_known_by_its_names(tmp_path):
    assert is_stdout(Path("-")) and not is_stdout(None) and not is_stdout(tmp_path / "none")
