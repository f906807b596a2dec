"""A call in a worker thread, whose result is awaited in the reactor thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ftpsd.protocol.replies import Refusal
from ftpsd.system.jobs.fair_queue import OwnerQueue
from ftpsd.system.jobs.job_lock import Busy, waited_too_long

if TYPE_CHECKING:
    from ftpsd.system.worker_threads import WorkerThreads

T = TypeVar("T")


class Call(Generic[T]):
    """A call in a worker thread, whose result is awaited in the reactor thread.

    waiting    for a thread, at first and between two steps
    running    in a thread, or waits for a lock that another job has
    ended      removed from `WorkerThreads.awaited`: it has its result, took too long, or was cancelled
    """

    __slots__ = ("_patience", "_threads", "queue", "result", "running", "since", "waits_for_lock")

    def __init__(self, threads: WorkerThreads, queue: OwnerQueue, patience: float = 0.0) -> None:
        self._threads = threads
        self._patience = patience
        self.queue = queue
        self.result: Deferred[T] = Deferred(self._cancel)
        self.running = False
        #: Whether it waits for a lock, and has no disk call of its own.
        self.waits_for_lock = False
        #: The time at which the call was made, or the current step began.
        self.since = time.monotonic()

    def last_progress(self) -> float:
        """Return the time of the last sign that the disk answers.

        A call that waits for a thread has no disk call of its own: it waits for other jobs of its owner. One that waits
        for a lock waits for the disk call of another job.
        """
        return self.since if self.running else max(self.since, self.queue.progress)

    def is_overdue(self, now: float) -> bool:
        """Return whether there was no progress for as long as the pool permits, or the call itself."""
        return now - self.last_progress() >= max(self._threads.patience, self._patience)

    def overdue_reply(self, now: float, disk: str) -> Refusal:
        """Return the reply when it is overdue. `disk` is what the pool's calls wait for."""
        if self.waits_for_lock:
            return waited_too_long(round(now - self.since))
        return Refusal(451, f"{disk} not responding. The command may still complete.")

    def begin_step(self) -> None:
        """Note that a thread has begun with the call, or with its next step."""
        self.since, self.running, self.waits_for_lock = time.monotonic(), True, False

    def make(self, function: Callable[[], T], anyway: bool = False) -> None:
        """Call the function in this worker thread, and deliver what it returns or raises.

        Not if nobody awaits that any more, unless it is to be called `anyway`.
        """
        if not (anyway or self in self._threads.awaited):
            return
        self.begin_step()
        result: T | Failure
        try:
            result = function()
        except Busy:
            self.waits_for_lock = True
            raise  # it remains `running`: what other jobs of its owner do is no progress now
        except BaseException:
            result = Failure()
        self._threads.call_in_reactor(self.deliver, result)
        del result  # this frame is in the traceback of a Failure, which would refer to itself

    def deliver(self, result: T | Failure) -> None:
        """Deliver the result, in the reactor thread. If it is not awaited any more, what the call opened is closed."""
        awaited = self._threads.awaited
        if self in awaited:
            awaited.discard(self)
            self.result.callback(result)
        elif hasattr(result, "close"):
            self._threads.put(self.queue, result.close)

    def fail(self, refusal: Refusal) -> None:
        """Let the result be a Refusal, in the reactor thread."""
        self._threads.awaited.discard(self)
        self.result.errback(refusal)

    def _cancel(self, _: object) -> None:
        self.fail(Refusal(421, "Session has ended."))


#: A call, whatever its result is.
AnyCall = Call[Any]
