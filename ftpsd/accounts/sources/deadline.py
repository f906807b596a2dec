"""The deadline of a question to a source, for calls that block: Deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def _late() -> Exception:
    return TimeoutError("the deadline has passed")


class Deadline:
    """The end of the time for one question, which may need several calls. `late` makes what `left` raises."""

    def __init__(self, seconds: float, late: Callable[[], Exception] = _late) -> None:
        self._end = time.monotonic() + seconds
        self._late = late
        #: Whether `aborting` has aborted a call.
        self.expired = False

    @property
    def remaining(self) -> float:
        """The seconds that are left; 0 after the end."""
        return max(0.0, self._end - time.monotonic())

    def left(self) -> float:
        """Return the seconds that are left. Raises what `late` makes, by default TimeoutError, if there are none."""
        seconds = self.remaining
        if not seconds:
            raise self._late()
        return seconds

    def part(self, parts: int) -> Deadline:
        """Return a deadline after the given part of the time that is left."""
        return Deadline(self.remaining / parts, self._late)

    @contextmanager
    def aborting(self, abort: Callable[[], None]) -> Iterator[None]:
        """Call `abort` in another thread if the deadline passes within the block, but not after the block."""
        lock, ended = threading.Lock(), False

        def expire() -> None:
            with lock:
                if not ended:
                    self.expired = True
                    abort()

        timer = threading.Timer(self.remaining, expire)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            with lock:
                ended = True
