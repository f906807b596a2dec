"""The end of all sessions of a process, and the signal that ends the wait for it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.epollreactor import EPollReactor

from ftpsd.control.lifecycle.graceful_stop import end_sessions
from ftpsd.limits.session_registry import LocalSessionRegistry
from ftpsd.protocol.replies import Reply
from ftpsd.system.slices import SLICE

pytestmark = pytest.mark.quick

#: Seconds for transfers to finish.
DRAIN = 5


class Transferring:
    """A session whose transfer does not end. The one with number 1 sends a signal when it is told to end after it."""

    def __init__(self, number: int, registry: LocalSessionRegistry, sends: signal.Signals) -> None:
        self.number = number
        self._registry = registry
        self._sends = sends
        registry.add(self)

    def view(self) -> Any:
        """Nothing: a request for all sessions does not look."""

    def dismiss(self, reply: Reply, immediately: bool) -> None:
        """Take so long that each session is one slice."""
        time.sleep(SLICE)
        if immediately:
            self._registry.remove(self)
        elif self.number == 1:
            os.kill(os.getpid(), self._sends)


@pytest.fixture
def unnoticed() -> Iterator[list[int]]:
    """The signals that came while nobody waited."""
    found: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, lambda number, frame: found.append(number))
    yield found
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("sends", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_while_the_sessions_are_told(unnoticed: list[int], sends: signal.Signals) -> None:
    """Telling many sessions takes a while. A signal that comes meanwhile ends the wait for transfers as a later one."""
    reactor: Any = EPollReactor()
    registry = LocalSessionRegistry(reactor)
    for number in range(1, 6):
        Transferring(number, registry, sends)
    ended: list[object] = []
    began = time.monotonic()
    Deferred.fromCoroutine(end_sessions(reactor, registry, DRAIN)).addBoth(ended.append)
    while not ended and time.monotonic() < began + DRAIN + 5:
        reactor.iterate(0.01)
    assert (ended, unnoticed, len(registry)) == ([None], [], 0)
    assert time.monotonic() - began < DRAIN / 2
