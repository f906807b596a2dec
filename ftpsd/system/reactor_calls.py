"""Calls from any thread into the reactor thread.

`callFromThread` would do it, too: but it wakes the reactor through a pipe, and by way of its timers, which costs a
small file twice what this does.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ftpsd.system.reactor import Reactor

log = Logger(namespace="ftpsd")


@implementer(IReadDescriptor)
class Answers:
    """A queue of calls, and an eventfd(2) that the reactor watches. Those that come while the reactor is busy are
    made in one wake-up."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        #: Never closed: a thread that is stuck in a disk call may still answer when all else has ended.
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._rung = False

    def start(self) -> None:
        """From now on calls are made."""
        self._reactor.addReader(self)

    def stop(self) -> None:
        """Makes those that are there, and no more."""
        self._reactor.removeReader(self)
        self._make_calls()

    def put(self, function: Callable[..., object], *arguments: Any) -> None:
        """Calls a function in the reactor thread. From any thread."""
        self._calls.append((function, arguments))
        if not self._rung:
            self._rung = True
            os.eventfd_write(self._bell, 1)

    def doRead(self) -> None:
        """Somebody has rung."""
        os.eventfd_read(self._bell)
        self._rung = False
        self._make_calls()

    def _make_calls(self) -> None:
        calls = self._calls
        # What is added while this runs has rung for itself.
        for _ in range(len(calls)):
            function, arguments = calls.popleft()
            try:
                function(*arguments)
            except Exception:  # the others are still made
                log.failure("a mistake of ours")

    def fileno(self) -> int:
        """The bell, for the reactor's poll."""
        return self._bell

    def connectionLost(self, reason: Failure) -> None:
        """Not for us: see `ports.Listener.connectionLost`."""
        self._reactor.addReader(self)

    def logPrefix(self) -> str:
        """For the reactor's log."""
        return "answers"
