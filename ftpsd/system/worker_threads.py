"""Worker threads for everything that would block the reactor: disk calls, password hashes, steps of transfers."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Hashable
from weakref import WeakValueDictionary

from twisted.logger import Logger
from twisted.python.failure import Failure

from ftpsd.system.jobs.call import AnyCall
from ftpsd.system.jobs.fair_queue import FairQueue, Job, JobKind, OwnerQueue
from ftpsd.system.jobs.job_lock import Busy, give_up_thread
from ftpsd.system.jobs.job_queue import JobQueue
from ftpsd.system.jobs.thread import ThreadUsage, WorkerThread, here
from ftpsd.system.presence import absent_since
from ftpsd.system.reactor import DelayedCall, Reactor
from ftpsd.system.reactor_calls import ReactorCalls

log = Logger(namespace="ftpsd")


#: Seconds that a step may take before its thread counts as stuck: it is in a call of a disk that does not respond.
STUCK = 5.0

#: The most stuck threads that are replaced at the same time.
MOST_STUCK = 256


def default_size() -> int:
    """Return the number of threads: while one owner's jobs, in half of them, wait for a disk, every core has work."""
    return min(48, 12 + 6 * (os.cpu_count() or 1))


def size_beside_others() -> int:
    """Return the number of threads for one owner beside others: each core has work while one job waits for a disk."""
    return (os.cpu_count() or 1) + 1


class WorkerThreads:
    """A pool of threads, and the way back to the reactor thread.

    A job is given to the thread that became idle last, since its stack and memory are still in the caches. Only that
    thread is woken. `FairQueue` decides which job is next.

    A disk may stop answering (NFS, a failing device), and a thread in such a call cannot be interrupted. A thread that
    is stuck while jobs wait is replaced, and ends when its call returns. A call without progress for `patience` seconds
    fails with 451. `stuck` and `what` say when a thread counts as stuck, and what it waits for then.
    """

    def __init__(
        self,
        reactor: Reactor,
        size: int | None = None,
        patience: float = 120,
        stuck: float | None = None,
        what: str = "a disk",
        beside: int | None = None,
    ) -> None:
        """`beside` is how many jobs of a kind an owner may run while others have jobs (see `FairQueue`)."""
        self.patience = patience
        self._stuck, self._what = STUCK if stuck is None else stuck, what
        self.reactor = reactor
        self._size = size or default_size()
        self._reactor_calls = ReactorCalls(reactor)
        #: Calls a function in the reactor thread. May be called from any thread.
        self.call_in_reactor = self._reactor_calls.put
        #: Guards the next four, and what WorkerThread says.
        self._lock = threading.Lock()
        self._queue = FairQueue(self._size, math.inf if beside is None else beside)
        self._owner_queues: WeakValueDictionary[tuple[Hashable, JobKind], OwnerQueue] = WeakValueDictionary()
        #: The thread that became idle last is the last one.
        self._idle: list[WorkerThread] = []
        self._stopping = False
        #: The calls whose results are awaited. Only the reactor thread changes it.
        self.awaited: set[AnyCall] = set()
        # For the reactor thread only.
        self._threads: list[WorkerThread] = []
        self._next_check: DelayedCall | None = None

    def start(self) -> None:
        """Start the threads. Jobs that were put before wait until then."""
        self._reactor_calls.start()
        for _ in range(self._size):
            self._add_thread()
        self._next_check = self.reactor.callLater(1, self._check_calls)

    def _add_thread(self) -> None:
        thread = WorkerThread(self._work)
        self._threads.append(thread)
        with self._lock:
            self._idle.append(thread)
            self._assign()
        thread.start()

    def stop(self) -> None:
        """Let the threads run all jobs that wait, for two seconds at most. A stuck thread does not delay the exit."""
        if self._next_check is not None and self._next_check.active():
            self._next_check.cancel()
        with self._lock:
            self._stopping = True
            self._assign()
        deadline = time.monotonic() + 2
        for thread in self._threads:
            thread.join(timeout=max(0.0, deadline - time.monotonic()))
        self._threads.clear()
        self._reactor_calls.stop()

    def queue(self, owner: Hashable, kind: JobKind = "command") -> JobQueue:
        """Return the queue for the jobs of one owner: a user, or a network before the login. Queues take turns."""
        queue = self._owner_queues.get((owner, kind))
        if queue is None:
            queue = self._owner_queues[owner, kind] = OwnerQueue(owner, kind)
        return JobQueue(self, queue)

    # --- jobs and threads --------------------------------------------------------------------------

    def put(self, queue: OwnerQueue, job: Job) -> None:
        """Run a job in a thread, when it is its turn. The job handles its own errors. May be called from any thread."""
        with self._lock:
            if self._idle and self._queue.begin(queue, len(self._idle)):
                self._give((queue, job))
            else:
                self._queue.put(queue, job)
                self._assign()

    def put_first(self, queue: OwnerQueue, job: Job) -> None:
        """Run a job before all others, since others wait for it. May be called from any thread."""
        with self._lock:
            self._queue.put_first(queue, job)
            self._assign()

    def crowded(self, queue: OwnerQueue) -> bool:
        """Return whether a job of this queue must give up its thread: see `FairQueue.wants`."""
        if not self._queue.may_want(queue):
            return False
        with self._lock:
            return self._queue.wants(queue, len(self._idle))

    def _assign(self) -> None:
        """Give jobs to idle threads, as long as there are both. The caller holds the lock."""
        while self._idle and (self._queue.waiting or self._stopping):
            job = self._queue.take(len(self._idle), self._stopping)
            if job is None and not self._stopping:
                return
            self._give(job)

    def _give(self, job: tuple[OwnerQueue, Job] | None) -> None:
        """Let the thread that became idle last run a job, or end (None). The caller holds the lock."""
        thread = self._idle.pop()
        thread.job = job
        thread.wake_up.release()

    def _work(self, thread: WorkerThread) -> None:
        here.thread, here.pool = thread, self
        give_up_thread()
        while True:
            thread.wake_up.acquire()
            if thread.job is None:
                return  # the pool stops
            thread.queue, job = thread.job
            thread.job = None
            thread.step_began = time.monotonic()
            try:
                job()
            except Busy as busy:
                JobQueue(self, thread.queue).repeat(busy.lock, job)
            except BaseException:
                self.call_in_reactor(log.failure, "internal error in a worker thread", Failure())
            del job  # an idle thread keeps no objects alive
            with self._lock:
                queue, thread.queue = thread.queue, None
                thread.step_began, queue.progress = 0.0, time.monotonic()
                if thread.replaced:
                    return
                self._queue.done(queue)
                self._idle.append(thread)
                if self._queue.waiting or self._stopping:
                    self._assign()
            del queue

    def usage(self) -> ThreadUsage:
        """Return how many threads there are, and what they do. For the reactor thread."""
        limit = self._stuck_since(time.monotonic())
        alive = [thread for thread in self._threads if thread.is_alive()]
        with self._lock:
            busy = [thread for thread in alive if thread.queue is not None]
            stuck = [thread for thread in busy if thread.replaced or 0 < thread.step_began < limit]
        return ThreadUsage(self._size, len(busy), len(stuck))

    # --- when the disk does not respond -----------------------------------------------------------

    def _check_calls(self) -> None:
        self._next_check = self.reactor.callLater(1, self._check_calls)
        now = time.monotonic()
        for call in [each for each in self.awaited if each.is_overdue(now)]:
            if call in self.awaited and call.is_overdue(now - absent_since(self.reactor, call.last_progress())):
                call.fail(call.overdue_reply(now, self._what.removeprefix("a ").capitalize()))
        if self._queue.waiting:
            self._replace_stuck(now)
            with self._lock:
                self._assign()  # an owner may run more since others have no jobs any more

    def _stuck_since(self, now: float) -> float:
        """Return the time at which the current step of a stuck thread began, or before which it did."""
        limit = now - self._stuck
        return limit - absent_since(self.reactor, limit)

    def _replace_stuck(self, now: float) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        before, limit = sum(thread.replaced for thread in self._threads), self._stuck_since(now)
        with self._lock:
            stuck = [each for each in self._threads if each.queue and not each.replaced and 0 < each.step_began < limit]
            stuck = stuck[: MOST_STUCK - before]
            for thread in stuck:
                thread.replaced = True
                if thread.queue is not None:
                    self._queue.done(thread.queue)
        for _ in stuck:
            self._add_thread()
        if stuck:
            log.warn(
                "{what} does not respond: {stuck} of at most {most} stuck worker threads were replaced",
                what=self._what,
                stuck=before + len(stuck),
                most=MOST_STUCK,
            )
