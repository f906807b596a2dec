"""A semaphore that serves those who wait round-robin by key.

The worker threads have a queue of their own (`system/jobs/fair_queue.py`), which knows kinds of jobs and idle threads.
Logins wait here, in the reactor thread, because each is checked against the bans again when its turn comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from functools import partial

from twisted.internet.defer import CancelledError, Deferred, succeed


class FairSemaphore:
    """Let `limit` callers proceed at the same time, and at most `most` wait. For the reactor thread only."""

    def __init__(self, limit: int, most: int | None = None) -> None:
        self._free = limit
        self._most = most
        #: Waiting callers by key. The first key is served next.
        self._waiting: dict[Hashable, deque[Deferred[None]]] = {}
        self._releasing = False
        #: How many callers wait.
        self.length = 0

    def acquire(self, key: Hashable) -> Deferred[None]:
        """Return a Deferred that fires when the caller may proceed. Then the caller must call `release` once.

        Waiting keys take turns, and callers with the same key are served in the order in which they came. The Deferred
        may be cancelled. If too many wait, the last caller of the key with the most callers is cancelled.
        """
        if self._free and not self._waiting:
            self._free -= 1
            return succeed(None)
        turn: Deferred[None] = Deferred(partial(self._remove, key))
        self._waiting.setdefault(key, deque()).append(turn)
        self.length += 1
        if self._most is not None and self.length > self._most:
            max(self._waiting.values(), key=len)[-1].cancel()
        return turn

    def release(self) -> None:
        """Let the next caller proceed.

        The callers run in a loop, not in recursion: thousands of them may release immediately, because they are banned.
        """
        self._free += 1
        if self._releasing:
            return
        self._releasing = True
        try:
            while self._free and self._waiting:
                self._free -= 1
                self._next().callback(None)
        finally:
            self._releasing = False

    def _next(self) -> Deferred[None]:
        key = next(iter(self._waiting))
        queue = self._waiting.pop(key)
        first = queue.popleft()
        self.length -= 1
        if queue:
            self._waiting[key] = queue  # at the end: all other keys are served first
        return first

    def _remove(self, key: Hashable, turn: Deferred[None]) -> None:
        queue = self._waiting[key]
        queue.remove(turn)
        self.length -= 1
        if not queue:
            del self._waiting[key]
        turn.errback(CancelledError())
