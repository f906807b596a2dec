"""Count the running transfers, their bytes, and how fast these move: TransferCounts.

A transfer adds itself when it begins to move bytes, and is removed when it ends. All else happens when somebody asks,
or in `sample`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from ftpsd.protocol.interfaces import Direction
from ftpsd.system.reactor import Now

#: Seconds between two calls of `sample`. So a rate is that of the last 2 to 4 seconds.
INTERVAL = 2.0


class Moving(Protocol):
    """A data connection."""

    #: The bytes of the file that it has moved.
    moved: int


class _Counter:
    """Two readings of a number of bytes: the older one is from the last sample but one."""

    __slots__ = ("direction", "newer", "older")

    def __init__(self, now: float, count: int, direction: Direction) -> None:
        self.direction = direction
        self.older = self.newer = (now, count)

    def sample(self, now: float, count: int) -> None:
        """Take a reading."""
        self.older, self.newer = self.newer, (now, count)

    def rate(self, now: float, count: int) -> float:
        """Return the bytes per second since the older reading."""
        then, before = self.older
        return (count - before) / max(now - then, 0.001)


class TransferCounts:
    """The transfers of this process. They outlive reloads. Listings count as downloads. For the reactor thread."""

    def __init__(self, clock: Now) -> None:
        self._clock = clock
        self._running: dict[Moving, _Counter] = {}
        #: The bytes of all transfers that have ended.
        self._ended: dict[Direction, int] = {"upload": 0, "download": 0}
        self._totals = {direction: _Counter(clock(), 0, direction) for direction in self._ended}

    def begin(self, stream: Moving, direction: Direction) -> None:
        """A transfer begins to move bytes."""
        self._running[stream] = _Counter(self._clock(), stream.moved, direction)

    def end(self, stream: Moving) -> None:
        """A transfer has ended."""
        self._ended[self._running.pop(stream).direction] += stream.moved

    def sample(self) -> None:
        """Take a reading of all running transfers, for later calls of `rate`. Called every `INTERVAL` seconds."""
        now = self._clock()
        for stream, counter in self._running.items():
            counter.sample(now, stream.moved)
        for direction, total in self._totals.items():
            total.sample(now, self.moved(direction))

    def rate_of(self, stream: Moving) -> float:
        """Return the recent bytes per second of a running transfer; on average since it began if nobody samples."""
        return self._running[stream].rate(self._clock(), stream.moved)

    def rate(self, direction: Direction) -> float:
        """Return the recent bytes per second of all transfers together; on average if nobody samples."""
        return self._totals[direction].rate(self._clock(), self.moved(direction))

    def moved(self, direction: Direction) -> int:
        """Return the bytes that all transfers have moved since the start."""
        return self._ended[direction] + sum(stream.moved for stream in self._of(direction))

    def running(self, direction: Direction) -> int:
        """Return how many transfers run."""
        return sum(1 for _ in self._of(direction))

    def _of(self, direction: Direction) -> Iterable[Moving]:
        return (stream for stream, counter in self._running.items() if counter.direction == direction)
