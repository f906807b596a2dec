"""A few threads for whatever would block the reactor: disk calls, password hashes, steps of transfers."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ftpsd.answers import Answers
from ftpsd.replies import Refusal

log = Logger(namespace="ftpsd")

T = TypeVar("T")

#: Seconds after which a thread that others wait for is taken to be stuck in a disk that does not answer.
STUCK = 5.0

#: Threads that may be stuck at once and have been replaced.
MOST_STUCK = 256


def default_size() -> int:
    """Threads enough that some may wait for a disk while every core works."""
    return min(32, 8 + 4 * (os.cpu_count() or 1))


@dataclass(eq=False, slots=True)
class Place:
    """What is known of one thread: when its job began (0: it has none), and whether it was replaced."""

    since: float = 0.0
    lost: bool = False


class Workers:
    """Threads that take jobs from one queue, and a way back to the reactor thread.

    A job goes to the thread that fell idle last: its stack and its memory are still in the caches, and only
    that one is woken.

    A disk may stop answering (NFS, a failing device), and a thread in such a call cannot be woken. So a
    thread that is stuck while jobs wait is replaced, and ends when its call returns; and whoever waits for
    a call is told after `patience` seconds that there is no answer.
    """

    def __init__(self, reactor: Any, size: int | None = None, patience: float = 120) -> None:
        self.patience = patience
        self._reactor = reactor
        self._size = size or default_size()
        self._jobs: deque[Callable[[], object] | None] = deque()
        #: Locked locks that idle threads wait for, the last one on top.
        self._idle: list[threading.Lock] = []
        self._answers = Answers(reactor)
        self._threads: dict[threading.Thread, Place] = {}
        #: Calls whose answers are waited for, and since when; the oldest first.
        self._awaited: dict[Deferred[Any], float] = {}
        self._next_look: Any = None

    def start(self) -> None:
        """Starts the threads. Before that, jobs only gather."""
        self._answers.start()
        for _ in range(self._size):
            self._add()
        self._next_look = self._reactor.callLater(1, self._look)

    def _add(self) -> None:
        place = Place()
        thread = threading.Thread(target=self._work, args=(place,), name="worker", daemon=True)
        self._threads[thread] = place
        thread.start()

    def stop(self) -> None:
        """Lets each thread finish the job it has; they are daemons, so a stuck disk keeps nobody."""
        if self._next_look is not None and self._next_look.active():
            self._next_look.cancel()
        for _ in self._threads:
            self._put(None)
        deadline = time.monotonic() + 2
        for thread in self._threads:
            thread.join(timeout=max(0.0, deadline - time.monotonic()))
        self._threads.clear()
        self._answers.stop()

    @property
    def crowded(self) -> bool:
        """Whether a job waits for a thread, and none is on its way to it."""
        return bool(self._jobs) and not self._idle

    def submit(self, job: Callable[[], object]) -> None:
        """Runs a job in some thread. The job deals with its own errors."""
        self._put(job)

    def _put(self, job: Callable[[], object] | None) -> None:
        self._jobs.append(job)
        try:
            self._idle.pop().release()
        except IndexError:
            pass  # all are busy: the first one that is done takes it

    def call(self, function: Callable[..., T], *arguments: Any, **named: Any) -> Deferred[T]:
        """Calls a function in some thread; the result, or the exception, comes to the reactor thread.

        After `patience` seconds it is 451. What the function opens after that is closed.
        """
        answer: Deferred[T] = Deferred()
        self._awaited[answer] = time.monotonic()

        def job() -> None:
            if answer not in self._awaited:
                return  # it was told that there is no answer: then nothing must be done any more
            try:
                result: Any = function(*arguments, **named)
            except BaseException:
                result = Failure()
            self.answer(self._answered, answer, result)

        self._put(job)
        return answer

    def _answered(self, answer: Deferred[Any], result: Any) -> None:
        if self._awaited.pop(answer, None) is not None:
            answer.callback(result)
        elif hasattr(result, "close"):
            self.submit(result.close)

    def answer(self, function: Callable[..., object], *arguments: Any) -> None:
        """Calls a function in the reactor thread. From any thread."""
        self._answers.put(function, *arguments)

    def _work(self, place: Place) -> None:
        bell = threading.Lock()
        bell.acquire()
        while not place.lost:
            try:
                job = self._jobs.popleft()
            except IndexError:
                self._wait(bell)
                continue
            if job is None:
                return
            place.since = time.monotonic()
            job()
            place.since = 0.0
            del job  # the thread keeps nothing alive while it waits

    def _wait(self, bell: threading.Lock) -> None:
        """Until there may be a job."""
        self._idle.append(bell)
        if self._jobs:  # it came before this thread was known to be idle
            try:
                self._idle.remove(bell)
                return
            except ValueError:
                pass  # the bell rings already
        bell.acquire()

    # --- when the disk does not answer -----------------------------------------------------------

    def _look(self) -> None:
        self._next_look = self._reactor.callLater(1, self._look)
        now = time.monotonic()
        for answer, since in list(self._awaited.items()):
            if now - since < self.patience:
                break
            del self._awaited[answer]
            answer.errback(Refusal(451, "The disk does not answer. What was asked for may still be done."))
        if self.crowded:
            self._replace_stuck(now)

    def _replace_stuck(self, now: float) -> None:
        self._threads = {thread: place for thread, place in self._threads.items() if thread.is_alive()}
        lost = sum(place.lost for place in self._threads.values())
        stuck = [each for each in self._threads.values() if not each.lost and 0 < each.since < now - STUCK]
        replaced = stuck[: MOST_STUCK - lost]
        for place in replaced:
            place.lost = True
            self._add()
        if replaced:
            log.warn(
                "a disk does not answer: {stuck} calls, of {most} at most, have given their threads to others",
                stuck=lost + len(replaced),
                most=MOST_STUCK,
            )
