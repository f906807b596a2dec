"""Worker threads for everything that would block the reactor: disk calls, password hashes, steps of transfers."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Hashable
from functools import partial
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar
from weakref import WeakValueDictionary

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ftpsd.protocol.replies import Refusal
from ftpsd.system.jobs.fair_queue import FairQueue, Job, JobKind, OwnerQueue
from ftpsd.system.jobs.job_lock import Busy, JobLock, LockSteps, give_up_thread, waited_too_long
from ftpsd.system.presence import absent_since
from ftpsd.system.reactor import DelayedCall, Reactor
from ftpsd.system.reactor_calls import ReactorCalls

log = Logger(namespace="ftpsd")

T = TypeVar("T")
P = ParamSpec("P")

#: Steps of a job. After each step its thread may be given to another job, and the job may be cancelled.
JobSteps = Generator[None, None, T]

#: Seconds that a step may take before its thread counts as stuck: it is in a call of a disk that does not respond.
STUCK = 5.0

#: The most stuck threads that are replaced at the same time.
MOST_STUCK = 256

#: Seconds between two attempts to take a lock that another process has.
_PAUSE = 0.005

#: What runs, as its `thread` and `pool`: `threading.current_thread` costs two calls for each step.
_here = threading.local()


def default_size() -> int:
    """Return the number of threads: while one owner's jobs, in half of them, wait for a disk, every core has work."""
    return min(48, 12 + 6 * (os.cpu_count() or 1))


class WorkerThread(threading.Thread):
    """One thread of the pool. The pool's lock guards all attributes but `step_began`.

    idle       in `WorkerThreads._idle`, blocked at `wake_up`
    running    `queue` is set; `step_began` is updated after each step
    replaced   stuck, and `replaced` is set: another thread runs instead of it, and it ends with its job
    """

    def __init__(self, work: Callable[[WorkerThread], None]) -> None:
        super().__init__(target=work, args=(self,), name="worker", daemon=True)
        #: A lock that is held while the thread is idle. Releasing it wakes the thread.
        self.wake_up = threading.Lock()
        self.wake_up.acquire()
        #: The job to run after `wake_up`, and its queue; None ends the thread.
        self.job: tuple[OwnerQueue, Job] | None = None
        #: The queue of the job that runs.
        self.queue: OwnerQueue | None = None
        #: The time at which the job or its current step began; 0 while there is none.
        self.step_began = 0.0
        self.replaced = False


class ThreadUsage(NamedTuple):
    """The threads of a pool: how many it wants, how many run a job, and how many of these are stuck in a disk call."""

    size: int
    busy: int
    stuck: int


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

    def make(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> None:
        """Call the function in this worker thread, and deliver what it returns or raises. Not if nobody awaits that."""
        if self in self._threads.awaited:
            self.make_anyway(function, *arguments, **named)

    def make_anyway(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> None:
        """Call the function as `make` does, also if its result is not awaited any more."""
        self.begin_step()
        result: T | Failure
        try:
            result = function(*arguments, **named)
        except Busy:
            self.waits_for_lock = True
            raise  # it remains `running`: what other jobs of its owner do is no progress now
        except BaseException:
            result = Failure()
        self._threads.call_in_reactor(self.deliver, result)

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
    ) -> None:
        self.patience = patience
        self._stuck, self._what = STUCK if stuck is None else stuck, what
        self.reactor = reactor
        self._size = size or default_size()
        self._reactor_calls = ReactorCalls(reactor)
        #: Calls a function in the reactor thread. May be called from any thread.
        self.call_in_reactor = self._reactor_calls.put
        #: Guards the next four, and what WorkerThread says.
        self._lock = threading.Lock()
        self._queue = FairQueue(self._size)
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
            queue = self._owner_queues[owner, kind] = OwnerQueue(kind)
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
        if not self._queue.waiting and queue.kind != "walk":
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
        _here.thread, _here.pool = thread, self
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
        self._threads.put(self._queue, partial(call.make, function, *arguments, **named))
        return call.result

    def close(self, close: Callable[[], None]) -> Deferred[None]:
        """Close something in a thread, as `call` does. It is closed in any case, also after the Refusal."""
        call: Call[None] = Call(self._threads, self._queue)
        self._threads.awaited.add(call)
        self._threads.put(self._queue, partial(call.make_anyway, close))
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
            taken = lock.is_taken_elsewhere
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
        thread: WorkerThread = _here.thread
        self._queue.progress = thread.step_began = time.monotonic()
        return thread.replaced or self._threads.crowded(self._queue)


def step_ended() -> bool:
    """As the method, for the job that this thread runs. False in a thread that is of no pool."""
    thread: WorkerThread | None = getattr(_here, "thread", None)
    if thread is None or thread.queue is None:
        return False
    return JobQueue(_here.pool, thread.queue).step_ended()
