"""The worker threads: answers reach the reactor thread, whatever happens to others."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable
from typing import Any

from ftpsd.answers import Answers
from tests.daemon import PATIENCE


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
