"""The worker threads: answers reach the reactor thread, whatever happens to others."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ftpsd.workers import Workers
from tests.daemon import PATIENCE


class Thread:
    """The part of a reactor that workers use: calls gather until they are run."""

    def __init__(self) -> None:
        self._asked = threading.Semaphore(0)
        self._calls: list[Callable[[], object]] = []

    def callFromThread(self, call: Callable[[], object]) -> None:
        """From any thread."""
        self._calls.append(call)
        self._asked.release()

    def run(self) -> None:
        """The next call."""
        assert self._asked.acquire(timeout=PATIENCE)
        self._calls.pop(0)()


def test_one_bad_answer_does_not_lose_the_others() -> None:
    """Answers that are delivered together do not depend on each other."""
    thread: Any = Thread()
    workers, heard = Workers(thread, 1), list[int]()
    workers.answer(heard.append, 1)
    workers.answer(lambda: 1 // 0)
    workers.answer(heard.append, 2)
    thread.run()
    assert heard == [1, 2]
