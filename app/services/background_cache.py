"""Results that are worked out once in a background thread, so that no page waits for heavy imports."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from app.services.jobs import quiet_thread

PATIENCE = 1.2
"""Seconds before anything heavy is imported for a page that has just been drawn."""


class BackgroundCache:
    """The results used last, by key; each is worked out once, in one thread.

    Device work belongs to the job queue, not here.
    """

    def __init__(self, capacity: int = 12):
        self._capacity = capacity
        self._lock = threading.Lock()
        self._cached: OrderedDict[tuple, Future] = OrderedDict()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="cmai-background")

    def get(self, key: tuple, work: Callable[[], Any]) -> Future:
        """Return the future result of `work`, which is called only if the key is new."""
        with self._lock:
            if key not in self._cached:
                self._cached[key] = self._pool.submit(_patiently, work)
                while len(self._cached) > self._capacity:
                    self._cached.popitem(last=False)[1].cancel()
            self._cached.move_to_end(key)
            return self._cached[key]


def _patiently(work: Callable[[], Any]) -> Any:
    if "torch" not in sys.modules and os.environ.get("CMAI_WARM_UP", "1") != "0":
        time.sleep(PATIENCE)
    with quiet_thread():
        return work()
