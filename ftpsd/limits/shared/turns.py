"""Turns of processes at a lock that they hold for long: Turn.

A process that waits for the lock of another process tries again and again. One that has more jobs for the lock takes
it again as soon as it has released it, so the others would hardly ever find it free. So there is a queue of more
locks. A process that waits takes the last one, and moves on whenever the one before is free. Nobody takes the lock
itself but the first in the queue, or one who finds the queue empty.

    the lock         one process has it
    queue[0]         one process is the next to have it
    queue[1] …       one process each. More processes than places compete for the last place

The queue is for fairness only. The kernel releases the place of a process that is killed. If a process was stopped, the
others see that nobody uses the lock, and continue without the queue.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ftpsd.limits.shared.locks import ByteLock

#: How often a process that waits finds that nobody uses the lock, before it continues without the queue: in a quarter
#: of a second, or half of one.
LOOKS = 100

#: Seconds in which it does so, before it waits again.
WITHOUT = 1.0

#: Seconds between two attempts of a thread that waits.
PAUSE = 0.002


class Turn:
    """The place of this process in the queue at a lock.

    `place_lock` returns the lock of a place by its index, from 0 up to `places`. `uses` returns how often the lock was
    used, by all processes. For a caller who keeps the other threads of this process away. Nothing here blocks, but for
    `wait`.
    """

    __slots__ = (
        "_first",
        "_lock",
        "_looks",
        "_own",
        "_place",
        "_place_lock",
        "_places",
        "_uses",
        "_uses_seen",
        "_without",
    )

    def __init__(
        self, place_lock: Callable[[int], ByteLock], places: int, lock: ByteLock, uses: Callable[[], int]
    ) -> None:
        self._place_lock = place_lock
        self._first = place_lock(0)
        self._lock = lock
        self._uses = uses
        self._places = places
        #: The index of the place, and its lock; `places` and None if this process does not wait.
        self._place = places
        self._own: ByteLock | None = None
        self._looks = 0
        self._uses_seen = 0
        #: Until when the lock is taken without the queue, by `time.monotonic`.
        self._without = 0.0

    @property
    def is_taken(self) -> bool:
        """Whether another process is next. For a job that has not waited yet."""
        return self._first.is_taken() and time.monotonic() >= self._without

    def take(self) -> bool:
        """Move on in the queue. Return whether the lock may be taken."""
        before = self._place
        while self._place and (following := self._place_lock(self._place - 1)).try_acquire():
            if self._own is not None:
                self._own.release()
            self._place, self._own = self._place - 1, following
        self._looks = self._looks + 1 if self._place == before else 0
        return not self._place or self._does_without()

    def _does_without(self) -> bool:
        """Return whether a process before this one in the queue does not use the lock."""
        now, uses = time.monotonic(), self._uses()
        if now < self._without:
            return True
        if uses != self._uses_seen or self._lock.is_taken():
            self._looks, self._uses_seen = 0, uses
        if self._looks < LOOKS:
            return False
        self._looks, self._without = 0, now + WITHOUT
        return True

    def wait(self) -> None:
        """Wait in this thread until the lock may be taken."""
        while not self.take():
            time.sleep(PAUSE)

    def release(self) -> None:
        """Leave the queue."""
        if self._own is not None:
            self._own.release()
        self._place, self._own = self._places, None
