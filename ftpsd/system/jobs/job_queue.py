"""The queue of one owner, as sessions use it: call a function in a worker thread, or run a job in steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ftpsd.system.jobs.call import Call
from ftpsd.system.jobs.fair_queue import Job, OwnerQueue
from ftpsd.system.jobs.job_lock import Busy, JobLock, LockSteps
from ftpsd.system.jobs.thread import WorkerThread, here

if TYPE_CHECKING:
    from ftpsd.system.worker_threads import WorkerThreads

T = TypeVar("T")
P = ParamSpec("P")

#: Steps of a job. After each step its thread may be given to another job, and the job may be cancelled.
JobSteps = Generator[None, None, T]

#: Seconds between two attempts to take a lock that another process has.
_PAUSE = 0.005


class JobQueue:
    """The queue for the jobs of one owner. For the reactor thread, unless a method says otherwise."""

    __slots__ = ("_queue", "_threads", "call_in_reactor")

    def __init__(self, threads: WorkerThreads, queue: OwnerQueue) -> None:
        self._threads = threads
        self._queue = queue
        #: See `WorkerThreads.call_in_reactor`.
        self.call_in_reactor = threads.call_in_reactor

    def submit(self, job: Job) -> None:
        """Run a job in a thread. The job handles its own errors. May be called from any thread."""
        self._threads.put(self._queue, job)

    def call(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> Deferred[T]:
        """Call a function in a thread. Return its result, or raise its exception, in the reactor thread.

        Raises Refusal (451) after `patience` seconds. What the function opens after that is closed.
        """
        call: Call[T] = Call(self._threads, self._queue)
        self._threads.awaited.add(call)
        self._threads.put(self._queue, partial(call.make, partial(function, *arguments, **named)))
        return call.result

    def close(self, close: Callable[[], None]) -> Deferred[None]:
        """Close something in a thread, as `call` does. It is closed in any case, also after the Refusal."""
        call: Call[None] = Call(self._threads, self._queue)
        self._threads.awaited.add(call)
        self._threads.put(self._queue, partial(call.make, close, anyway=True))
        return call.result

    def run(self, steps: JobSteps[T] | LockSteps[T], patience: float = 0.0) -> Deferred[T]:
        """Run a job in steps. Return or raise what it does, in the reactor thread.

        Raises Refusal (451) when a step takes longer than the `patience` of the pool, or than this one, in seconds. A
        cancelled job ends after its step.
        """
        call: Call[T] = Call(self._threads, self._queue, patience)
        self._threads.awaited.add(call)
        self.submit(partial(self._take_steps, call, steps))
        return call.result

    def _take_steps(self, call: Call[T], steps: JobSteps[T] | LockSteps[T]) -> None:
        awaited = self._threads.awaited
        call.begin_step()
        result: T | Failure
        try:
            while call in awaited:
                busy = next(steps)
                call.since = time.monotonic()
                if busy is not None:
                    call.waits_for_lock = True
                    self.submit_with(busy.lock, partial(self._take_steps, call, steps))
                    return
                if self.step_ended():
                    call.running = False
                    self.submit(partial(self._take_steps, call, steps))
                    return
            steps.close()
            return
        except StopIteration as end:
            result = end.value
        except BaseException:
            result = Failure()
        self.call_in_reactor(call.deliver, result)

    def submit_with(self, lock: JobLock, job: Job) -> None:
        """Run a job with a lock, when that is free. The job releases it. May be called from any thread.

        From then on others wait for the job, so it goes before all other jobs.
        """
        lock.promise(partial(self._threads.put_first, self._queue, partial(self._accept, lock, job)))

    def _accept(self, lock: JobLock, job: Job) -> None:
        try:
            accepted = lock.accept()
        except Exception:
            accepted = True  # it runs without the lock, so it tries to take that itself, and reports the error
        if accepted:
            job()
        else:
            self.call_in_reactor(self._wait_for_process, lock, job)

    def _wait_for_process(self, lock: JobLock, job: Job) -> None:
        """Look again and again whether another process has a lock. No job looks: it would count as progress."""
        try:
            taken = lock.must_wait()
        except OSError:
            taken = False  # `_accept` meets the error again
        if taken:
            self._threads.reactor.callLater(_PAUSE, self._wait_for_process, lock, job)
        else:
            self._threads.put_first(self._queue, partial(self._accept, lock, job))

    def repeat(self, lock: JobLock, job: Job) -> None:
        """Run a job again that has raised Busy: with the lock, which is released afterwards."""
        self.submit_with(lock, partial(self._run_with, lock, job))

    def _run_with(self, lock: JobLock, job: Job) -> None:
        try:
            job()
        except Busy as busy:
            self.repeat(busy.lock, job)
        finally:
            if lock.is_mine:  # not if `accept` has failed
                lock.release()

    @property
    def progress(self) -> float:
        """The time at which the last job of this owner, or the last step of one, ended."""
        return self._queue.progress

    def step_ended(self) -> bool:
        """Record progress of the job in this thread. Return whether it must give up the thread to another job."""
        thread: WorkerThread = here.thread
        self._queue.progress = thread.step_began = time.monotonic()
        return thread.replaced or self._threads.crowded(self._queue)


def step_ended() -> bool:
    """As the method, for the job that this thread runs. False in a thread that is of no pool."""
    thread: WorkerThread | None = getattr(here, "thread", None)
    if thread is None or thread.queue is None:
        return False
    return JobQueue(here.pool, thread.queue).step_ended()
