"""Whose turn it is.

The law: commands run one at a time, in the order in which they came, and each gets its final reply
before the next one runs. So replies come in the order of the commands, whatever a client pipelines.
Two rows act before their turn (`Command.at_once`): ABOR stops the transfer that runs, then waits
for its turn to answer (426 first, then 226: RFC 959 section 4.1.3), and STAT without an argument
answers at once during a transfer, as the same section asks for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Line = TypeVar("Line")

#: So many commands may wait behind one that runs; then the control connection is not read.
LONGEST_QUEUE = 64


class Turns(Generic[Line]):
    """A queue of lines and the one that runs. `begin` starts a line; whoever ends it calls `done`.

    `may_begin` is asked before each line: with False none begins until `go_on` is called.
    """

    __slots__ = ("_begin", "_may_begin", "_stepping", "_waiting", "busy", "ended")

    def __init__(self, begin: Callable[[Line], None], may_begin: Callable[[], bool] = lambda: True) -> None:
        self._begin = begin
        self._may_begin = may_begin
        self._waiting: deque[Line] = deque()
        self._stepping = False
        self.busy = False
        self.ended = False

    def arrive(self, line: Line) -> None:
        """The next line from the client: it runs now if none runs, else in its turn."""
        self._waiting.append(line)
        self._step()

    def done(self) -> None:
        """The line that ran has had its final reply."""
        self.busy = False
        self._step()

    def end(self) -> None:
        """No line runs any more: the session is over."""
        self.ended = True
        self._waiting.clear()

    def go_on(self) -> None:
        """The next line may begin again."""
        self._step()

    def __iter__(self) -> Iterator[Line]:
        """The lines that wait."""
        return iter(self._waiting)

    @property
    def waiting(self) -> int:
        """How many lines wait behind the one that runs."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether no more should be read for now."""
        return len(self._waiting) >= LONGEST_QUEUE

    def _step(self) -> None:
        if self._stepping:  # a line that ended at once: the loop below goes on
            return
        self._stepping = True
        try:
            while self._waiting and not (self.busy or self.ended) and self._may_begin():
                self.busy = True
                self._begin(self._waiting.popleft())
        finally:
            self._stepping = False
