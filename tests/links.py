"""A supervisor and its workers in one process and one reactor, connected by real links."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.epollreactor import EPollReactor

from ftpsd.system.link import Link
from tests.inprocess import outcome


class LinkedWorkers:
    """The links of a supervisor to some workers. The reactor runs while somebody waits."""

    def __init__(self, count: int) -> None:
        self.reactor: Any = EPollReactor()
        #: The supervisor's ends, by index, and the workers' ends.
        self.links: dict[int, Link] = {}
        self.ends: dict[int, Link] = {}
        self._started: list[Callable[[int, Link], object]] = []
        self._ended: list[Callable[[int], object]] = []
        for index in range(count):
            self.start(index)

    def on_start(self, started: Callable[[int, Link], object]) -> None:
        """Call a function for each worker that starts; here also for those that have started."""
        self._started.append(started)
        for index, link in self.links.items():
            started(index, link)

    def on_end(self, ended: Callable[[int], object]) -> None:
        """Call a function for each worker that has ended."""
        self._ended.append(ended)

    def start(self, index: int, end: Link | None = None) -> None:
        """Start a worker, or connect to one that the supervisor before has left."""
        ours, theirs = socket.socketpair()
        self.links[index] = Link(self.reactor, lambda: self._lost(index))
        self.ends[index] = end or Link(self.reactor)
        self.links[index].connect(ours)
        self.ends[index].connect(theirs)
        for started in self._started:
            started(index, self.links[index])

    def end(self, index: int) -> None:
        """End a worker, and wait until the supervisor knows."""
        transport = self.ends[index].transport
        assert transport is not None
        transport.loseConnection()
        self.until(lambda: index not in self.links)

    def freeze(self, index: int) -> None:
        """Let a worker read nothing any more, as one that was stopped."""
        self.reactor.removeReader(self.ends[index].transport)

    def _lost(self, index: int) -> None:
        del self.links[index]
        for ended in self._ended:
            ended(index)

    def until(self, condition: Callable[[], object]) -> None:
        """Run the reactor until a condition holds."""
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline
            self.reactor.iterate(0.01)

    def turns(self, count: int = 20) -> None:
        """Let everything happen that happens soon."""
        for _ in range(count):
            self.reactor.iterate(0.005)

    def result(self, awaitable: Any) -> Any:
        """Return or raise what something awaitable has in the end."""

        async def wait() -> Any:
            return await awaitable

        results: list[Any] = []
        answer: Deferred[Any] = ensureDeferred(wait())
        answer.addBoth(results.append)
        self.until(lambda: results)
        return outcome(results)

    def close(self) -> None:
        """Close all links."""
        for link in [*self.links.values(), *self.ends.values()]:
            if link.transport is not None:
                link.transport.abortConnection()
        self.until(lambda: not self.links)
