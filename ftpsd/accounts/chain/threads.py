"""The threads of one source: SourceThreads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")

#: A call for a thread; None ends it.
_Job = Callable[[], None] | None


class SourceThreads:
    """Makes calls that block, each in a thread of its own. For the reactor thread.

    A thread cannot be interrupted. One whose caller has given up is abandoned, and ends with its call; another one is
    started for the next call.
    """

    def __init__(self, name: str, call_in_reactor: Callable[..., None]) -> None:
        self._name = name
        self.call_in_reactor = call_in_reactor
        self._idle: list[SimpleQueue[_Job]] = []
        #: How many threads run a call whose caller has given up.
        self.abandoned = 0
        self._closed = False

    def call(self, function: Callable[[], T]) -> Deferred[T]:
        """Return or raise what the function does. The Deferred may be cancelled: then the thread is abandoned."""
        jobs = self._idle.pop() if self._idle else self._start()
        result: Deferred[T] = Deferred(lambda _: self._abandon())

        def run() -> None:
            outcome: T | Failure
            try:
                outcome = function()
            except BaseException:
                outcome = Failure()
            self.call_in_reactor(self._done, jobs, result, outcome)

        jobs.put(run)
        return result

    def close(self, last: Callable[[], None]) -> None:
        """Let all threads end, and make a last call in one of them. Blocks nothing."""
        self._closed = True
        self.call(last).addErrback(lambda _: None)
        while self._idle:
            self._idle.pop().put(None)

    def _start(self) -> SimpleQueue[_Job]:
        jobs: SimpleQueue[_Job] = SimpleQueue()
        threading.Thread(target=_work, args=(jobs,), name=self._name, daemon=True).start()
        return jobs

    def _abandon(self) -> None:
        self.abandoned += 1

    def _done(self, jobs: SimpleQueue[_Job], result: Deferred[T], outcome: T | Failure) -> None:
        if result.called:
            self.abandoned -= 1
            jobs.put(None)
            return
        if self._closed:
            jobs.put(None)
        else:
            self._idle.append(jobs)
        result.callback(outcome)


def _work(jobs: SimpleQueue[_Job]) -> None:
    while (job := jobs.get()) is not None:
        job()
        del job  # an idle thread keeps no objects alive
