"""The order in which the commands of a session run.

Commands run one at a time, in the order in which they came, and each gets its final reply before the next one starts.
So replies come in the order of the commands, even if the client sends many commands at once.

Two commands act immediately when they arrive (`Command.act_immediately`): ABOR stops the running transfer, then waits
in the queue for its own reply (first 426, then 226: RFC 959 section 4.1.3). STAT without an argument is answered
during a transfer, as the same section requires.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Line = TypeVar("Line")

#: The control connection is not read while so many commands wait.
MAX_WAITING = 64


class CommandQueue(Generic[Line]):
    """The line that runs, and the lines that wait. The caller starts a line in `start`, and calls `finish` at its end.

    `may_start` is called before each line. If it returns False, no line starts until `resume` is called.
    """

    __slots__ = ("_may_start", "_start", "_stepping", "_waiting", "busy", "ended")

    def __init__(self, start: Callable[[Line], None], may_start: Callable[[], bool] = lambda: True) -> None:
        self._start = start
        self._may_start = may_start
        self._waiting: deque[Line] = deque()
        self._stepping = False
        #: Whether a line runs.
        self.busy = False
        #: Whether the session is over: no line starts any more.
        self.ended = False

    def add(self, line: Line) -> None:
        """Start a line, or let it wait if another one runs."""
        self._waiting.append(line)
        self._step()

    def finish(self) -> None:
        """Note that the running line has its final reply, and start the next one."""
        self.busy = False
        if not self._stepping:
            self._step()

    def close(self) -> None:
        """Drop the waiting lines, and what would start them: the session is over."""
        self.ended = True
        self._waiting.clear()
        self._start, self._may_start = _ignore, _never

    def resume(self) -> None:
        """Start the next line if `may_start` now allows it."""
        self._step()

    def __iter__(self) -> Iterator[Line]:
        """Iterate over the waiting lines."""
        return iter(self._waiting)

    @property
    def waiting(self) -> int:
        """The number of waiting lines."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether the caller should stop reading for now."""
        return len(self._waiting) >= MAX_WAITING

    def _step(self) -> None:
        if self._stepping:  # a line has finished within `start`: the loop below continues
            return
        self._stepping = True
        try:
            while self._waiting and not (self.busy or self.ended) and self._may_start():
                self.busy = True
                self._start(self._waiting.popleft())
        finally:
            self._stepping = False


def _ignore(_: object) -> None:
    """Do nothing with a line that comes after the end."""


def _never() -> bool:
    """Let no line start."""
    return False
