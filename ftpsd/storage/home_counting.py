"""When homes are counted, and who waits for that: HomeCounting."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from ftpsd.protocol.replies import Refusal
from ftpsd.storage.home_usage import HomeUsage
from ftpsd.system.jobs.job_queue import JobQueue
from ftpsd.system.reactor import Clock
from ftpsd.system.worker_threads import WorkerThreads

log = Logger(namespace="ftpsd")

#: Seconds between two looks at a home that somebody else counts.
_LOOK = 0.05

#: Seconds before the next attempt to count a home that changes too often to be counted.
_RETRY = 60

#: Returns the queue in which a home is counted, or None for a queue of the daemon's worker threads.
QueueOf = Callable[[str], JobQueue | None]


class HomeCounting:
    """Counts homes in worker threads: a home in a store in those of the store. For the reactor thread."""

    def __init__(self, clock: Clock, workers: WorkerThreads, queue_of: QueueOf) -> None:
        self._clock = clock
        self._workers = workers
        self._queue_of = queue_of

    def queue(self, owner: str, homes: Iterable[str]) -> JobQueue:
        """Return the queue in which homes are counted.

        If one of them is in a store, it is that of the store: one that does not answer stops no user of the disk.
        """
        for home in homes:
            found = self._queue_of(home)
            if found is not None:
                return found
        return self._workers.queue(owner, "walk")

    def refresh(self, usage: HomeUsage) -> Deferred[None]:
        """Count a home if that is necessary (see `HomeUsage.is_stale`). The caller has its `turn`."""
        if not usage.is_stale(self._clock.seconds()):
            return succeed(None)
        return Deferred.fromCoroutine(self._count(usage))

    async def _count(self, usage: HomeUsage) -> None:
        queue = self.queue(usage.home, (usage.home,))
        while usage.is_stale(self._clock.seconds()):
            try:
                if await queue.run(usage.walk(self._clock.seconds)):
                    size, files = usage.amount.bytes, usage.amount.files
                    log.info("{home} holds {size} bytes in {files} files", home=usage.home, size=size, files=files)
                return
            except BlockingIOError:
                await self.wait_for(usage)

    async def wait_for(self, usage: HomeUsage | None) -> None:
        """Return soon, while somebody else counts a home. Raises Refusal (451) if its disk does not respond."""
        limit = self._clock.seconds() - self._workers.patience
        if usage is not None and usage.visits.is_being_counted and usage.visits.progress < limit:
            raise Refusal(451, "Disk not responding: try again later.")
        await deferLater(cast(IReactorTime, self._clock), _LOOK)

    def count_doubtful(self, usages: Iterable[HomeUsage]) -> None:
        """Count those homes again whose count is doubtful."""
        for usage in usages:
            if usage.is_doubtful:
                counted: Deferred[None] = usage.turn.run(self.refresh, usage)
                counted.addErrback(_log_failure, usage.home).addCallback(self._look_again, usage)

    def _look_again(self, _: object, usage: HomeUsage) -> None:
        if usage.is_doubtful:
            self._clock.callLater(_RETRY, self.count_doubtful, [usage])


def _log_failure(failure: Failure, home: str) -> None:
    log.warn("{home} cannot be counted again: {reason}", home=home, reason=failure.getErrorMessage())
