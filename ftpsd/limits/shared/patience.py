"""How long the threads of a process wait for locks that another process holds: Patience, when_free.

A process holds a lock for microseconds, or for as long as it was stopped meanwhile. The supervisor ends such a process
after about ten seconds. Nothing else may wait for it in the reactor thread: all sessions of the process would.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from twisted.internet.defer import Deferred

from ftpsd.protocol.replies import Refusal
from ftpsd.system.presence import time_left
from ftpsd.system.reactor import Clock

T = TypeVar("T")

#: The most seconds to wait in the reactor thread, and in any thread while the process starts.
BRIEF = 0.005
STARTING = 30.0

#: Seconds for `when_free`, and between two of its attempts.
LONGEST = 15.0
PAUSE = 0.02


class TableBusy(Refusal):
    """A process has held a lock for too long."""

    def __init__(self) -> None:
        super().__init__(451, "Server is busy: try again later.")

    def __str__(self) -> str:
        return "a process that was stopped has a lock on the table of all workers"


class Patience:
    """What a process does at present: it starts, or its reactor serves sessions in one of its threads."""

    def __init__(self) -> None:
        self._starts = False
        self._reactor_thread = 0
        self._clock: Clock | None = None

    def start(self) -> None:
        """The process starts: nobody waits for it, and it ends if it cannot have a lock."""
        self._starts = True

    def serve(self, clock: Clock) -> None:
        """The reactor serves from now on, in this thread. `clock` is its clock."""
        self._starts = False
        self._reactor_thread = threading.get_ident()
        self._clock = clock

    def seconds(self, usual: float) -> float:
        """Return how long this thread waits for a lock, for which others wait the usual time."""
        if self._starts:
            return max(usual, STARTING)
        return min(usual, BRIEF) if threading.get_ident() == self._reactor_thread else usual

    async def retry(self, call: Callable[[], T]) -> T:
        """Make a call in the reactor thread when it needs no lock that another process holds. May raise TableBusy."""
        return call() if self._clock is None else await when_free(self._clock, call)


async def when_free(clock: Clock, call: Callable[[], T]) -> T:
    """Make a call that may raise TableBusy, until it does not. Raises it after `LONGEST` seconds."""
    began = clock.seconds()
    while True:
        try:
            return call()
        except TableBusy:
            if time_left(clock, began, LONGEST) <= 0:
                raise
        later: Deferred[None] = Deferred()
        clock.callLater(PAUSE, later.callback, None)
        await later
