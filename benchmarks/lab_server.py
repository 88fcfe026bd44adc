"""A lab of its own on the loopback address: what browser tests, screenshots and measurements under load start."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def served(
    command: Callable[[int], Sequence[str]], root: Path, environment: Mapping[str, str], seconds: float = 90
) -> Iterator[tuple[str, int, Path]]:
    """Start a lab, wait until it answers, and stop it again; yields (address, process id, log file).

    Args:
        command: port → command line. root: folder it runs in. environment: variables besides the present ones.
        seconds: how long it may take to answer.

    Raises:
        RuntimeError: it ended, or did not answer in time; with the end of its log.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="cmai-lab-") as folder:
        log = Path(folder) / "lab.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command(port), cwd=root, stdout=out, stderr=subprocess.STDOUT, env=os.environ | dict(environment)
            )
        try:
            _wait(f"http://127.0.0.1:{port}/_stcore/health", process, log, seconds)
            yield f"http://127.0.0.1:{port}", process.pid, log
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(url: str, process: subprocess.Popen, log: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"The lab ended with {process.returncode}:\n{log.read_text(errors='replace')[-2000:]}")
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
            if answer.status == 200:
                return
        time.sleep(0.2)
    raise RuntimeError(f"The lab did not answer in {seconds} s:\n{log.read_text(errors='replace')[-2000:]}")
