"""The worker threads: answers reach the reactor thread, whatever happens to others."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.task import Clock

from ftpsd import workers
from ftpsd.answers import Answers
from tests.daemon import PATIENCE
from tests.hostile import wait_until


class Reactor:
    """The part of a reactor that answers use: it watches one descriptor."""

    def __init__(self) -> None:
        self._readers: list[Any] = []
        self.addReader: Callable[[Any], None] = self._readers.append
        self.removeReader: Callable[[Any], None] = self._readers.remove

    def run_once(self) -> None:
        """Waits until the descriptor is readable."""
        readable, _, _ = select.select(self._readers, [], [], PATIENCE)
        readable[0].doRead()

    @property
    def quiet(self) -> bool:
        """Whether nothing is there to be read."""
        return not select.select(self._readers, [], [], 0)[0]


def test_one_bad_answer_does_not_lose_the_others() -> None:
    """Answers that are delivered together, in one wake-up, do not depend on each other."""
    reactor, heard = Reactor(), list[int]()
    answers = Answers(reactor)
    answers.start()
    answers.put(heard.append, 1)
    answers.put(lambda: 1 // 0)
    answers.put(heard.append, 2)
    reactor.run_once()
    assert heard == [1, 2]
    assert reactor.quiet


def test_no_answer_is_lost_while_others_are_given() -> None:
    """From several threads at once, each answer arrives, and each thread's in its order."""
    reactor, heard = Reactor(), list[tuple[int, int]]()
    answers = Answers(reactor)
    answers.start()

    def tell(thread: int) -> None:
        for number in range(2_000):
            answers.put(heard.append, (thread, number))

    threads = [threading.Thread(target=tell, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    while len(heard) < 8_000:
        reactor.run_once()
    for each in threads:
        each.join()
        assert [n for t, n in heard if t == threads.index(each)] == list(range(2_000))


def test_what_was_answered_before_the_end_is_heard() -> None:
    """Stopping makes the calls that are there already."""
    reactor, heard = Reactor(), list[int]()
    answers = Answers(reactor)
    answers.start()
    answers.put(heard.append, 1)
    answers.stop()
    assert heard == [1]


class TimedReactor(Reactor, Clock):
    """One whose seconds pass when the test says so."""

    def __init__(self) -> None:
        Reactor.__init__(self)
        Clock.__init__(self)


def threads() -> int:
    """How many workers there are."""
    return sum(thread.name == "worker" for thread in threading.enumerate())


def test_stuck_threads_are_replaced_only_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of calls that never return no more than MOST_STUCK give their threads to others; when they return all is done,
    by as many threads as before."""
    monkeypatch.setattr(workers, "STUCK", 0.0)
    monkeypatch.setattr(workers, "MOST_STUCK", 3)
    reactor, disk, begun, before = TimedReactor(), threading.Event(), list[int](), threads()
    crew = workers.Workers(reactor, size=2)
    crew.start()

    def call(number: int) -> None:
        begun.append(number)
        disk.wait(PATIENCE)

    try:
        for number in range(20):
            crew.submit(lambda number=number: call(number))  # type: ignore[misc]
        for busy in (2, 4, 5, 5, 5):
            wait_until(lambda busy=busy: len(begun) == busy, f"{busy} calls have begun")  # type: ignore[misc]
            reactor.advance(1)
        assert threads() - before == 5
        disk.set()
        wait_until(lambda: sorted(begun) == list(range(20)), "all calls have begun")
        wait_until(lambda: threads() - before == 2, "the others have ended")
    finally:
        disk.set()
        crew.stop()
