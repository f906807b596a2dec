"""The walks of a session through directories: `Walks`."""

from __future__ import annotations

from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ftpsd.protocol.replies import Refusal, Reply
from ftpsd.system.jobs.job_lock import LockSteps
from ftpsd.system.jobs.job_queue import JobQueue, JobSteps

T = TypeVar("T")


class Walks:
    """Runs walks in worker threads, one at a time. ABOR can end the one that runs. For the reactor thread."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._running: Deferred[Any] | None = None
        self._stop: Refusal | None = None

    def run(self, steps: JobSteps[T] | LockSteps[T], patience: float = 0.0) -> Deferred[T]:
        """Run a walk, and return its result. A step may take `patience` seconds, if the threads permit less."""
        self._stop = None
        self._running = running = self._queue.run(steps, patience)
        return running.addErrback(self._explain)

    def _explain(self, failure: Failure) -> Failure:
        return failure if self._stop is None else Failure(self._stop)

    @property
    def walking(self) -> bool:
        """Whether a walk runs now."""
        return self._running is not None and not self._running.called

    def stop(self, reply: Reply) -> None:
        """End the walk that runs, if there is one: its result is a Refusal with this reply."""
        if self._running is not None and self.walking:
            self._stop = Refusal(reply.code, *reply.lines)
            self._running.cancel()

    def close(self) -> None:
        """End the walk that runs, if there is one."""
        if self._running is not None:
            self._running.cancel()
