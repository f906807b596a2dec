"""A transfer that keeps to rates. One without them never comes here.

Its moves are cut to what may move in a turn; then it waits until all its buckets are paid. The wait is a Pause
like any other: no thread is held, and an abort ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

from ftpsd.data.transfer import Connection, FileSource, Pause, Steps
from ftpsd.protocol.interfaces import TokenBucket
from ftpsd.system.reactor import Now

#: `pump.download` or `pump.upload`: steps of a connection, a source or sink, and whether it is text.
Move = Callable[[Any, Any, bool], Steps]

#: Seconds of the shortest wait: longer than `pump.MOMENT`, for which a thread waits. A bucket makes up for it.
SHORTEST = 0.005

#: After so many seconds a wait is told as progress: it is ours, and no stall of the peer.
SLICE = 0.25


def paced(move: Move, buckets: Sequence[TokenBucket], clock: Now) -> Move:
    """The move that passes these buckets."""

    def steps(connection: Connection, end: Any, text: bool) -> Steps:
        first = max([bucket.enter() for bucket in buckets])
        try:
            return (yield from move(PacedConnection(connection, buckets, clock, first), end, text))
        finally:
            for bucket in buckets:
                bucket.leave()

    return steps


class PacedConnection:
    """A data connection, as `pump.download` and `pump.upload` use it."""

    def __init__(self, connection: Connection, buckets: Sequence[TokenBucket], clock: Now, first: float) -> None:
        self._connection = connection
        self._buckets = buckets
        self._clock = clock
        # Many small transfers are as fast as one large one: the first turn waits for what moved before.
        self._due = first
        self._left = 0
        self._since = clock()
        self.open = connection.open
        self.finish_sending = connection.finish_sending
        self.finish_receiving = connection.finish_receiving

    @property
    def moved(self) -> int:
        """Bytes of the file or listing that have gone through."""
        return self._connection.moved

    def send(self, data: bytes | memoryview) -> Steps:
        """Sends all of it."""
        rest = memoryview(data)
        while rest:
            size = yield from self.turn()
            yield from self._pay(self._connection.send(rest[:size]))
            rest = rest[size:]

    def send_file(self, source: FileSource) -> Steps:
        """Sends a file, window by window."""
        while wanted := source.left((yield from self.turn())):
            window = source.window(wanted)
            yield from self._pay(self._connection.send_file(window))
            if window.offset == source.offset:
                return  # the file ends here
            source.offset = window.offset

    def receive(self, buffer: memoryview) -> Generator[int | Pause | None, None, int]:
        """What has arrived, at least a byte and at most what may move; 0 at the end of the stream."""
        size = yield from self.turn()
        count: int = yield from self._pay(self._connection.receive(buffer[:size]))
        return count

    def turn(self) -> Generator[int | Pause | None, None, int]:
        """How many bytes may move, after the wait for them."""
        if self._left <= 0:
            while (wait := self._due - self._clock()) > 0:
                yield Pause(min(max(wait, SHORTEST), SLICE))
                yield None
            self._left = min(bucket.turn(self._since) for bucket in self._buckets)
            self._since = self._clock()
        return self._left

    def _pay(self, steps: Steps) -> Steps:
        before = self.moved
        try:
            return (yield from steps)
        finally:  # what was moved before an abort is paid, too
            if count := self.moved - before:
                self.pay(count)

    def pay(self, count: int) -> None:
        """Charge for bytes that were moved."""
        self._left -= count
        self._due = max(bucket.pay(count) for bucket in self._buckets)
