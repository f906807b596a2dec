"""A few threads for whatever would block the reactor: disk calls, password hashes, steps of transfers."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Hashable
from functools import partial
from typing import Any, ParamSpec, TypeVar
from weakref import WeakValueDictionary

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ftpsd.protocol.replies import Refusal
from ftpsd.system.fair_queue import FairQueue, Job, Kind, Line
from ftpsd.system.reactor import DelayedCall, Reactor
from ftpsd.system.reactor_calls import Answers

log = Logger(namespace="ftpsd")

T = TypeVar("T")
P = ParamSpec("P")

#: Steps of a job: between two of them its thread may go to another job, and the job may be given up.
JobSteps = Generator[None, None, T]

#: Seconds after which a thread that others wait for is taken to be stuck in a disk that does not answer.
STUCK = 5.0

#: Threads that may be stuck at once and have been replaced.
MOST_STUCK = 256

#: The worker thread that runs, as its `thread`: `threading.current_thread` costs two calls for each step.
_here = threading.local()


def default_size() -> int:
    """Return the number of threads: enough that one owner's half may wait for a disk while every core works."""
    return min(48, 12 + 6 * (os.cpu_count() or 1))


class WorkerThread(threading.Thread):
    """One thread, and what is known of it. The pool's lock guards all of it but `since`."""

    def __init__(self, work: Callable[[WorkerThread], None]) -> None:
        super().__init__(target=work, args=(self,), name="worker", daemon=True)
        #: Held while the thread has nothing to do.
        self.bell = threading.Lock()
        self.bell.acquire()
        self.job: tuple[Line, Job] | None = None
        #: Whose job it has.
        self.line: Line | None = None
        #: When its job, or the step of it that runs, began (0: it has none).
        self.since = 0.0
        #: Whether it was replaced: it ends with its job.
        self.lost = False


class Call:
    """A call in a worker thread. Somebody waits for its result as long as it is in `Workers.waited_for`."""

    __slots__ = ("_workers", "answer", "line", "running", "since")

    def __init__(self, workers: Workers, line: Line) -> None:
        self._workers = workers
        self.line = line
        self.answer: Deferred[Any] = Deferred(self._cancel)
        #: Whether a thread has it now.
        self.running = False
        #: When it was asked for; when its step began, once it runs.
        self.since = time.monotonic()

    def progress(self) -> float:
        """Return when the disk has answered last. A call that waits for its turn has no disk call of its own: the
        owner's others are what it waits for."""
        return self.since if self.running else max(self.since, self.line.progress)

    def make(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        """Call the function, in a worker thread, and hand over what it returns or raises."""
        workers = self._workers
        if self not in workers.waited_for:
            return
        self.since, self.running = time.monotonic(), True
        try:
            result: Any = function(*arguments, **named)
        except BaseException:
            result = Failure()
        workers.answer(self.hand_over, result)

    def hand_over(self, result: Any) -> None:
        """Give the result, or a Failure, to who waits, in the reactor thread. What was opened for nobody is closed."""
        waited_for = self._workers.waited_for
        if self in waited_for:
            waited_for.discard(self)
            self.answer.callback(result)
        elif hasattr(result, "close"):
            self._workers.put(self.line, result.close)

    def _cancel(self, answer: Deferred[Any]) -> None:
        self._workers.waited_for.discard(self)
        answer.errback(Refusal(421, "Session has ended."))


class Workers:
    """A pool of threads, and a way back to the reactor thread.

    A job goes to the thread that fell idle last: its stack and its memory are still in the caches, and only
    that one is woken. Whose job is next is told in `fair_queue.py`.

    A disk may stop answering (NFS, a failing device), and a thread in such a call cannot be woken. So a
    thread that is stuck while jobs wait is replaced, and ends when its call returns; and whoever waits for
    a call is told after `patience` seconds without progress that there is no answer.
    """

    def __init__(self, reactor: Reactor, size: int | None = None, patience: float = 120) -> None:
        self.patience = patience
        self._reactor = reactor
        self._size = size or default_size()
        self._answers = Answers(reactor)
        #: From any thread: calls a function in the reactor thread.
        self.answer = self._answers.put
        #: Guards what follows.
        self._lock = threading.Lock()
        self._fair = FairQueue(self._size)
        self._lines: WeakValueDictionary[tuple[Hashable, Kind], Line] = WeakValueDictionary()
        #: The last one fell idle last.
        self._idle: list[WorkerThread] = []
        self._stopping = False
        # Changed by the reactor thread only.
        self._threads: list[WorkerThread] = []
        #: The calls whose results somebody waits for.
        self.waited_for: set[Call] = set()
        self._next_look: DelayedCall | None = None

    def start(self) -> None:
        """Starts the threads. Before that, jobs only gather."""
        self._answers.start()
        for _ in range(self._size):
            self._add()
        self._next_look = self._reactor.callLater(1, self._look)

    def _add(self) -> None:
        thread = WorkerThread(self._work)
        self._threads.append(thread)
        with self._lock:
            self._idle.append(thread)
            self._assign()
        thread.start()

    def stop(self) -> None:
        """Lets the threads finish what there is; they are daemons, so a stuck disk keeps nobody."""
        if self._next_look is not None and self._next_look.active():
            self._next_look.cancel()
        with self._lock:
            self._stopping = True
            self._assign()
        deadline = time.monotonic() + 2
        for thread in self._threads:
            thread.join(timeout=max(0.0, deadline - time.monotonic()))
        self._threads.clear()
        self._answers.stop()

    def queue(self, owner: Hashable, kind: Kind = "command") -> JobQueue:
        """Return the queue for jobs of one owner: a user, or a network before the login. Queues take turns."""
        line = self._lines.get((owner, kind))
        if line is None:
            line = self._lines[owner, kind] = Line(kind)
        return JobQueue(self, line)

    # --- jobs and threads --------------------------------------------------------------------------

    def put(self, line: Line, job: Job) -> None:
        """Run a job in some thread, in its turn. The job deals with its own errors."""
        with self._lock:
            if self._idle and self._fair.begin(line, len(self._idle)):
                self._give((line, job))
            else:
                self._fair.put(line, job)
                self._assign()

    def crowded(self, line: Line) -> bool:
        """Return whether another job could run if a job of this line gave up its thread."""
        if not self._fair.waiting:
            return False
        with self._lock:
            return self._fair.wants(line, len(self._idle))

    def _assign(self) -> None:
        """Give jobs to idle threads, as long as there are both. To be called with the lock."""
        while self._idle and (self._fair.waiting or self._stopping):
            job = self._fair.take(len(self._idle), self._stopping)
            if job is None and not self._stopping:
                return
            self._give(job)

    def _give(self, job: tuple[Line, Job] | None) -> None:
        """Let the thread that fell idle last do a job, or end. To be called with the lock."""
        thread = self._idle.pop()
        thread.job = job
        thread.bell.release()

    def _work(self, thread: WorkerThread) -> None:
        _here.thread = thread
        while True:
            thread.bell.acquire()
            if thread.job is None:
                return  # the pool ends
            thread.line, job = thread.job
            thread.job = None
            thread.since = time.monotonic()
            try:
                job()
            except BaseException:
                self.answer(log.failure, "a mistake of ours", Failure())
            del job  # the thread keeps nothing alive while it waits
            with self._lock:
                line, thread.line = thread.line, None
                thread.since, line.progress = 0.0, time.monotonic()
                if thread.lost:
                    return
                self._fair.done(line)
                self._idle.append(thread)
                if self._fair.waiting or self._stopping:
                    self._assign()
            del line

    # --- when the disk does not answer -----------------------------------------------------------

    def _look(self) -> None:
        self._next_look = self._reactor.callLater(1, self._look)
        now = time.monotonic()
        for call in [each for each in self.waited_for if now - each.progress() >= self.patience]:
            if call in self.waited_for:
                self.waited_for.discard(call)
                refusal = Refusal(451, "Disk not responding. The command may still complete.")
                call.answer.errback(refusal)
        if self._fair.waiting:
            self._replace_stuck(now)

    def _replace_stuck(self, now: float) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        lost = sum(thread.lost for thread in self._threads)
        with self._lock:
            stuck = [each for each in self._threads if each.line and not each.lost and 0 < each.since < now - STUCK]
            replaced = stuck[: MOST_STUCK - lost]
            for thread in replaced:
                thread.lost = True
                if thread.line is not None:
                    self._fair.done(thread.line)
        for _ in replaced:
            self._add()
        if replaced:
            log.warn(
                "a disk does not answer: {stuck} calls, of {most} at most, have given their threads to others",
                stuck=lost + len(replaced),
                most=MOST_STUCK,
            )


class JobQueue:
    """Where one owner asks for what blocks."""

    __slots__ = ("_line", "_workers", "answer")

    def __init__(self, workers: Workers, line: Line) -> None:
        self._workers = workers
        self._line = line
        #: See `Workers.answer`.
        self.answer = workers.answer

    def submit(self, job: Job) -> None:
        """Run a job in some thread. The job deals with its own errors. From any thread."""
        self._workers.put(self._line, job)

    def call(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> Deferred[T]:
        """Call a function in some thread; the result, or the exception, comes to the reactor thread.

        After `patience` seconds it is 451. What the function opens after that is closed.
        """
        call = Call(self._workers, self._line)
        self._workers.waited_for.add(call)
        self._workers.put(self._line, partial(call.make, function, *arguments, **named))
        return call.answer

    def run(self, steps: JobSteps[T]) -> Deferred[T]:
        """The same for a job in steps. `patience` is for each of them; a cancelled job ends after its step."""
        call = Call(self._workers, self._line)
        self._workers.waited_for.add(call)
        self.submit(partial(self._take_steps, call, steps))
        return call.answer

    def _take_steps(self, call: Call, steps: JobSteps[Any]) -> None:
        waited_for = self._workers.waited_for
        call.since, call.running = time.monotonic(), True
        try:
            while call in waited_for:
                next(steps)
                call.since = time.monotonic()
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
        self.answer(call.hand_over, result)

    @property
    def progress(self) -> float:
        """When a job of this owner, or a step of one, ended last."""
        return self._line.progress

    def step_ended(self) -> bool:
        """Note that the job in this thread makes progress; return whether it must give up the thread to others."""
        thread: WorkerThread = _here.thread
        self._line.progress = thread.since = time.monotonic()
        return thread.lost or self._workers.crowded(self._line)
