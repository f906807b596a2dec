"""A deadline for a call that blocks, and that another thread can abort: Deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Deadline:
    """The end of the time for one question, which may need several calls."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        #: Whether a call was aborted.
        self.expired = False

    @property
    def left(self) -> float:
        """The seconds that are left; 0 after the end."""
        return max(0.0, self._end - time.monotonic())

    @contextmanager
    def aborting(self, abort: Callable[[], None]) -> Iterator[None]:
        """Call `abort` in another thread if the deadline passes within the block, but not after the block."""
        lock, ended = threading.Lock(), False

        def expire() -> None:
            with lock:
                if not ended:
                    self.expired = True
                    abort()

        timer = threading.Timer(self.left, expire)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            with lock:
                ended = True
