"""A small cache of decoded pictures with a limit in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np


class ImageCache:
    """Keeps the pictures used last, up to `max_bytes` in all; safe to use from several threads.

    Hands out copies, so nobody can change what the next reader gets.
    """

    def __init__(self, max_bytes: int = 64 * 1024 * 1024):
        self.max_bytes = max_bytes
        self.bytes = 0
        self._items: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the picture of `key`, decoded by `decode()` where it is not kept (outside the lock: that is slow)."""
        with self._lock:
            found = self._items.get(key)
            if found is not None:
                self._items.move_to_end(key)
        if found is not None:
            return found.copy()
        image = decode()
        if image.nbytes > self.max_bytes:
            return image
        with self._lock:
            if key not in self._items:
                self._items[key] = image.copy()
                self.bytes += image.nbytes
            while self.bytes > self.max_bytes:
                self.bytes -= self._items.popitem(last=False)[1].nbytes
        return image
