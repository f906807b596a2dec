"""A few threads for whatever would block the reactor: disk calls, password hashes, steps of transfers."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

T = TypeVar("T")


def default_size() -> int:
    """Threads enough that some may wait for a disk while every core works."""
    return min(32, 8 + 4 * (os.cpu_count() or 1))


class Workers:
    """Threads that take jobs from one queue, and a way back to the reactor thread.

    Answers that come while the reactor is busy are delivered in one wake-up.
    """

    def __init__(self, reactor: IReactorFromThreads, size: int | None = None) -> None:
        self._reactor = reactor
        self._size = size or default_size()
        self._jobs: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._answers: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._delivery_asked = False
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Starts the threads. Before that, jobs only gather."""
        for number in range(self._size):
            thread = threading.Thread(target=self._work, name=f"worker-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Lets each thread finish the job it has; they are daemons, so a stuck disk keeps nobody."""
        for _ in self._threads:
            self._jobs.put(None)
        deadline = time.monotonic() + 2
        for thread in self._threads:
            thread.join(timeout=max(0.0, deadline - time.monotonic()))
        self._threads.clear()

    @property
    def crowded(self) -> bool:
        """Whether a job waits for a thread."""
        return not self._jobs.empty()

    def submit(self, job: Callable[[], object]) -> None:
        """Runs a job in some thread. The job deals with its own errors."""
        self._jobs.put(job)

    def call(self, function: Callable[..., T], *arguments: Any, **named: Any) -> Deferred[T]:
        """Calls a function in some thread; the result, or the exception, comes to the reactor thread."""
        answer: Deferred[T] = Deferred()

        def job() -> None:
            try:
                result: Any = function(*arguments, **named)
            except BaseException:
                result = Failure()
            self.answer(answer.callback, result)

        self._jobs.put(job)
        return answer

    def answer(self, function: Callable[..., object], *arguments: Any) -> None:
        """Calls a function in the reactor thread. From any thread."""
        self._answers.append((function, arguments))
        if not self._delivery_asked:
            self._delivery_asked = True
            self._reactor.callFromThread(self._deliver)

    def _deliver(self) -> None:
        self._delivery_asked = False
        answers = self._answers
        # What is added while this runs has asked for a delivery of its own.
        for _ in range(len(answers)):
            function, arguments = answers.popleft()
            function(*arguments)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # the thread keeps nothing alive while it waits
