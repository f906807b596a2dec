"""Wait for reports of ended sessions before a client is refused because of their number: Settling.

A client may close one session and open another at once. A worker then reports the end of the first while the supervisor
already counts the second: without the wait, the client would be refused.
"""

from __future__ import annotations

from collections.abc import Mapping

from twisted.internet.defer import Deferred, DeferredList

from ftpsd.system.link import Link
from ftpsd.system.reactor import Reactor

#: The most seconds for which a connection waits. A worker answers in milliseconds unless it is stopped or overloaded.
LONGEST = 0.5


class Settling:
    """Asks all workers at once on behalf of all connections that wait."""

    def __init__(self, reactor: Reactor, links: Mapping[int, Link]) -> None:
        self._reactor = reactor
        self._links = links
        self._waiting: list[Deferred[None]] = []
        self._is_asking = False

    def wait(self) -> Deferred[None]:
        """Wait until the workers have reported all sessions that ended before this call."""
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        if not self._is_asking:
            self._ask()
        return waiting

    def _ask(self) -> None:
        self._is_asking = True
        waiting, self._waiting = self._waiting, []
        asked = DeferredList([link.call("process.settle") for link in self._links.values()], consumeErrors=True)
        asked.addTimeout(LONGEST, self._reactor)  # type: ignore[arg-type]
        asked.addBoth(lambda _: self._answered(waiting))

    def _answered(self, waiting: list[Deferred[None]]) -> None:
        self._is_asking = False
        for each in waiting:
            each.callback(None)
        if self._waiting and not self._is_asking:
            self._ask()
