"""Processes that end with the one that started them, however that ends."""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing import parent_process
from multiprocessing.connection import wait


def end_with_parent() -> None:
    """In a child of `multiprocessing` (as the initializer of a pool): end as soon as the parent has ended.

    A parent that is killed cannot tell its children, and a child that waits for work would wait for ever. The parent's
    end is seen by a pipe that the system closes, on every platform. Ctrl+C is the parent's business: the terminal sends
    it to all.
    """
    parent = parent_process()
    if parent is None:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
