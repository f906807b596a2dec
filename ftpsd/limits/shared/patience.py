"""How long the threads of a process wait for locks that another process holds: Patience, when_free.

A process holds a lock for microseconds, or for as long as it was stopped meanwhile. The supervisor ends such a process
after about ten seconds. Nothing else may wait for it in the reactor thread: all sessions of the process would. So the
reactor thread waits for milliseconds, and then only tries for a while. Calls that are made again take turns.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

from twisted.internet.defer import Deferred

from ftpsd.protocol.replies import Refusal
from ftpsd.system.presence import time_left
from ftpsd.system.reactor import Clock

T = TypeVar("T")

#: The most seconds to wait in the reactor thread, and in any thread while the process starts.
BRIEF = 0.005
STARTING = 30.0

#: Seconds in which the reactor thread only tries, after it has waited or tried in vain.
TRYING = 0.25

#: Seconds for `when_free`, between two of its attempts, and for the attempts of all in one turn of the reactor.
LONGEST = 15.0
PAUSE = 0.02
TURN = 0.003


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
        #: Until when the reactor thread only tries, by `time.monotonic`.
        self._tries_until = 0.0

    def start(self) -> None:
        """The process starts: nobody waits for it, and it ends if it cannot have a lock."""
        self._starts = True

    def serve(self, clock: Clock) -> None:
        """The reactor serves from now on, in this thread. `clock` is its clock."""
        self._starts = False
        self._reactor_thread = threading.get_ident()
        self._clock = clock

    def seconds(self, usual: float) -> float:
        """Return how many seconds this thread may wait for a lock for which other threads wait `usual` seconds."""
        if self._starts:
            return max(usual, STARTING)
        if threading.get_ident() != self._reactor_thread:
            return usual
        return 0.0 if time.monotonic() < self._tries_until else min(usual, BRIEF)

    def exhausted(self) -> TableBusy:
        """Return the error for a lock for which this thread has waited in vain."""
        if threading.get_ident() == self._reactor_thread:
            self._tries_until = time.monotonic() + TRYING
        return TableBusy()

    async def retry(self, call: Callable[[], T]) -> T:
        """Make a call in the reactor thread when it needs no lock that another process holds. May raise TableBusy."""
        return call() if self._clock is None else await when_free(self._clock, call)


async def when_free(clock: Clock, call: Callable[[], T]) -> T:
    """Repeat a call until it does not raise TableBusy. After `LONGEST` seconds, raise that."""
    began = clock.seconds()
    while True:
        try:
            return call()
        except TableBusy:
            if time_left(clock, began, LONGEST) <= 0:
                raise
        await _waiters.setdefault(clock, _Waiters()).turn(clock)


class _Waiters:
    """All in a process who make a call again. They take turns: many cost the reactor no more time than some."""

    def __init__(self) -> None:
        self._waiting: deque[Deferred[None]] = deque()
        #: Whether a round runs, or will.
        self._due = False

    def turn(self, clock: Clock) -> Deferred[None]:
        """Return what fires when the caller may try again."""
        turn: Deferred[None] = Deferred()
        self._waiting.append(turn)
        self._begin(clock, PAUSE)
        return turn

    def _begin(self, clock: Clock, seconds: float) -> None:
        if not self._due:
            self._due = True
            clock.callLater(seconds, self._round, clock)

    def _round(self, clock: Clock) -> None:
        """Let each waiter try once, as many as there is time for. Those that fail wait again, after the others."""
        ends, before = time.monotonic() + TURN, len(self._waiting)
        for _ in range(before):
            self._waiting.popleft().callback(None)
            if time.monotonic() > ends:
                break
        self._due = False
        if self._waiting:
            self._begin(clock, 0 if len(self._waiting) < before else PAUSE)


_waiters: WeakKeyDictionary[Clock, _Waiters] = WeakKeyDictionary()
