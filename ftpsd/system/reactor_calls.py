"""Calls from any thread into the reactor thread.

The reactor has `callFromThread` for this. But it wakes the reactor through a pipe, and makes the calls by way of its
timers. For a small file, that costs twice as much as this module does.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import TypeVarTuple

from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ftpsd.system.reactor import Reactor

log = Logger(namespace="ftpsd")

Arguments = TypeVarTuple("Arguments")


@implementer(IReadDescriptor)
class ReactorCalls:
    """A queue of calls, and an eventfd(2) that the reactor watches.

        empty      no call waits
        signalled  `put` has written to the eventfd: the reactor will make all calls in one turn

    Calls that are put while the reactor is busy cost one wake-up together.
    """

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._calls: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()
        #: Never closed: a thread that is stuck in a disk call may still call `put` when all else has ended.
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._signalled = False

    def start(self) -> None:
        """Let the reactor make the calls from now on."""
        self._reactor.addReader(self)

    def stop(self) -> None:
        """Make the calls that wait now, and none that follow."""
        self._reactor.removeReader(self)
        self._make_calls()

    def put(self, function: Callable[[*Arguments], object], *arguments: *Arguments) -> None:
        """Call a function in the reactor thread. May be called from any thread."""
        self._calls.append((function, arguments))
        if not self._signalled:
            self._signalled = True
            os.eventfd_write(self._eventfd, 1)

    def doRead(self) -> None:
        """Calls wait."""
        os.eventfd_read(self._eventfd)
        self._signalled = False
        self._make_calls()

    def _make_calls(self) -> None:
        calls = self._calls
        # Calls that are put during this loop have signalled again.
        for _ in range(len(calls)):
            function, arguments = calls.popleft()
            try:
                function(*arguments)
            except Exception:  # the other calls are still made
                log.failure("internal error")

    def fileno(self) -> int:
        """Return the eventfd, for the reactor's poll."""
        return self._eventfd

    def connectionLost(self, reason: Failure) -> None:
        """Continue to watch: the event was that of another descriptor (see `passive.ports.Listener.connectionLost`)."""
        self._reactor.addReader(self)

    def logPrefix(self) -> str:
        """Return a name for the reactor's log."""
        return "reactor calls"


class AwaitedCall:
    """A call in the reactor thread for which another thread waits, for a moment only.

    made in time    the thread continues
    made later      the thread has gone: the reactor calls `follow`
    """

    __slots__ = ("_call", "_decision", "_follow", "_made")

    def __init__(self, call: Callable[[], object], follow: Callable[[], object]) -> None:
        self._call = call
        self._follow = follow
        #: A lock that is held until the call is made.
        self._made = Lock()
        self._made.acquire()
        #: A lock that the first takes: the reactor that has made the call, or the thread that goes.
        self._decision = Lock()

    def make(self) -> None:
        """Make the call, in the reactor thread."""
        try:
            self._call()
        finally:
            if self._decision.acquire(blocking=False):
                self._made.release()
            else:
                self._follow()

    def wait(self, seconds: float) -> bool:
        """Wait in the other thread. Return whether the call was made. If not, the thread must go."""
        if self._made.acquire(timeout=seconds):
            return True
        if self._decision.acquire(blocking=False):
            return False
        self._made.acquire()  # the reactor is releasing it
        return True
