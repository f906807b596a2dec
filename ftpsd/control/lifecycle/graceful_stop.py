"""Stop gracefully: let running transfers finish, and close all sessions: end_sessions."""

from __future__ import annotations

import signal
from collections.abc import Callable

from twisted.internet.defer import Deferred

from ftpsd.limits.session_registry import LocalSessionRegistry, SessionFilter
from ftpsd.protocol.replies import Reply
from ftpsd.system.presence import PatientCall
from ftpsd.system.reactor import Reactor

#: Seconds for the sessions that were ended immediately to send their last reply and close.
CLOSING = 1


async def end_sessions(reactor: Reactor, sessions: LocalSessionRegistry, drain: int) -> None:
    """End all sessions: idle ones now, the others after their transfer, or after `drain` seconds.

    SIGTERM or SIGINT ends the wait, also one that arrives while sessions are dismissed. New sessions must be refused
    before this call.
    """
    wait = Wait(reactor)
    await sessions.dismiss_each(SessionFilter(), Reply(421, "Server is shutting down. Goodbye."))
    await wait.until(sessions.when_empty, drain)
    await sessions.dismiss_each(SessionFilter(), Reply(421, "Server is shutting down. Transfer interrupted."), True)
    await until(reactor, sessions.when_empty, CLOSING)


async def until(reactor: Reactor, when: Callable[[Callable[[], object]], object], seconds: float) -> None:
    """Wait until `when` calls the function that it gets, for that many seconds, or until a signal."""
    await Wait(reactor).until(when, seconds)


class Wait:
    """A wait that ends at the first SIGTERM or SIGINT after this object was made."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._over: Deferred[None] = Deferred()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: reactor.callFromThread(self._end))

    async def until(self, when: Callable[[Callable[[], object]], object], seconds: float) -> None:
        """Wait until `when` calls the function that it gets, for that many seconds, or until a signal."""
        limit = PatientCall(self._reactor, seconds, self._end)
        when(self._end)
        await self._over
        if limit.active():
            limit.cancel()

    def _end(self) -> None:
        if not self._over.called:
            self._over.callback(None)
