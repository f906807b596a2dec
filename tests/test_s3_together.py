"""Calls for many objects, several at a time: steps count as progress, end when they must, and give up their threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from twisted.internet.task import Clock

from ftpsd.storage.s3.calls import together as module
from ftpsd.storage.s3.calls.together import together
from ftpsd.system.jobs.job_queue import JobSteps, step_ended
from ftpsd.system.worker_threads import WorkerThreads
from tests.daemon import PATIENCE


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads that help."""
    with ThreadPoolExecutor(8) as found:
        yield found


class Reactor(Clock):
    """What `WorkerThreads` needs of a reactor."""

    def addReader(self, reader: object) -> None:
        """Nothing comes back from the threads."""

    removeReader = addReader


class Copies:
    """Copies of objects: one small, and others in many parts, which another thread than this one makes."""

    def __init__(self, parts: int) -> None:
        self.parts, self.steps, self.closed, self.ended = parts, 0, 0, 0
        self._here = threading.current_thread()

    def copy(self, number: int) -> JobSteps[None]:
        """Copy an object in parts, unless it is in this thread."""
        if threading.current_thread() is self._here:
            time.sleep(0.1)
            return
        try:
            for _ in range(self.parts):
                time.sleep(0.05)
                self.steps += 1
                yield
            self.ended += 1
        except GeneratorExit:
            self.closed += 1
            raise


def take(steps: JobSteps[None]) -> None:
    """Take all steps."""
    for _ in steps:
        pass


def test_parts_are_progress(pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large object may take longer than the time after which a store that does nothing is given up."""
    monkeypatch.setattr(module, "_DEADLINE", 0.5)
    monkeypatch.setattr(module, "_SOMETIMES", 0.1)
    copies = Copies(40)
    take(together(pool.submit, range(2), copies.copy))
    assert copies.ended == 1


def test_closing_ends_the_steps(pool: ThreadPoolExecutor) -> None:
    """ABOR: nothing goes on in another thread, and what is open there is closed."""
    copies = Copies(200)
    steps = together(pool.submit, range(2), copies.copy)
    deadline = time.monotonic() + PATIENCE
    while not copies.steps and time.monotonic() < deadline:
        next(steps)
    steps.close()
    taken = copies.steps
    time.sleep(0.3)
    assert (copies.closed, copies.ended, copies.steps) == (1, 0, taken)


def test_a_failure_ends_the_steps(pool: ThreadPoolExecutor) -> None:
    """If one call fails, the others end after their steps."""
    copies = Copies(200)

    def copy(number: int) -> JobSteps[None]:
        if threading.current_thread() is main:
            time.sleep(0.3)
            raise ValueError("failed")
        yield from copies.copy(number)

    main = threading.current_thread()
    with pytest.raises(ValueError, match="failed"):
        take(together(pool.submit, range(2), copy))
    assert (copies.closed, copies.ended) == (1, 0)


def test_steps_are_not_stuck_and_give_up_their_threads() -> None:
    """Threads that go on are not replaced, and the steps of one user let the jobs of others run between them."""
    reactor: Any = Reactor()
    threads = WorkerThreads(reactor, 4, stuck=0.5)
    threads.start()
    try:
        queue, ended = threads.queue("alice"), threading.Event()
        copies = Copies(40)

        def job() -> None:
            copies._here = threading.current_thread()
            for _ in together(queue.submit, range(4), copies.copy):
                step_ended()
            ended.set()

        queue.submit(job)
        time.sleep(0.8)
        assert threads.usage().stuck == 0
        assert _waited(threads.queue("bob").submit) < 0.5
        assert ended.wait(PATIENCE)
    finally:
        threads.stop()


def _waited(submit: Callable[[Callable[[], object]], object]) -> float:
    """Return how long a job waits for a thread."""
    began, ran = time.monotonic(), threading.Event()
    submit(ran.set)
    assert ran.wait(PATIENCE)
    return time.monotonic() - began
