"""Whose time a call's seconds are, when several of its items are at work at once."""

from __future__ import annotations

import threading
import time


class Shares:
    """A second in which three items are at work is a third of a second to each: all shares together are the call's.

    Any thread may begin and end items.
    """

    def __init__(self) -> None:
        self._own_s: dict[int, float] = {}  # of those at work
        self._counted_s = 0.0  # until when (monotonic) time is shared out
        self._lock = threading.Lock()

    def begin(self, item: int) -> None:
        """This item is at work from now on."""
        with self._lock:
            self._share_out()
            self._own_s[item] = 0.0

    def end(self, item: int) -> float:
        """It is no more; its share in seconds."""
        with self._lock:
            self._share_out()
            return self._own_s.pop(item)

    def _share_out(self) -> None:
        now_s = time.monotonic()
        for item in self._own_s:
            self._own_s[item] += (now_s - self._counted_s) / len(self._own_s)
        self._counted_s = now_s
