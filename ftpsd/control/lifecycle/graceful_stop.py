"""Stop gracefully: let running transfers finish, and close all sessions: stop_gracefully."""

from __future__ import annotations

import signal

from twisted.internet.defer import Deferred

from ftpsd.control.incoming.listeners import Listeners
from ftpsd.limits.session_registry import LocalSessionRegistry
from ftpsd.protocol.replies import Reply
from ftpsd.system.reactor import Reactor

#: Seconds for the sessions that were ended immediately to send their last reply and close.
CLOSING = 1


async def stop_gracefully(reactor: Reactor, listeners: Listeners, sessions: LocalSessionRegistry, drain: int) -> None:
    """End all sessions: idle ones now, the others after their transfer, or after `drain` seconds.

    SIGTERM or SIGINT ends the wait. New sessions must be refused before this call.
    """
    listeners.drain()
    sessions.dismiss_all(Reply(421, "Server is shutting down. Goodbye."))
    await _until_empty(reactor, sessions, drain)
    sessions.dismiss_all(Reply(421, "Server is shutting down. Transfer interrupted."), immediately=True)
    await _until_empty(reactor, sessions, CLOSING)


async def _until_empty(reactor: Reactor, sessions: LocalSessionRegistry, seconds: int) -> None:
    """Wait until there is no session, for that many seconds, or until a signal."""
    over: Deferred[None] = Deferred()

    def end(*_: object) -> None:
        if not over.called:
            over.callback(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: reactor.callFromThread(end))
    limit = reactor.callLater(seconds, end)
    sessions.when_empty(end)
    await over
    if limit.active():
        limit.cancel()
