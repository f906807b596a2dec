"""Keeps a transfer within its rate limits. A transfer without limits does not use this module.

The rules:

1. A step moves at most the allowance: the smallest that any of the transfer's rate limits gives.
2. Bytes are charged to all limits after they have moved, also if the transfer is aborted.
3. When the allowance is used up, the transfer waits until the latest time that a rate limit has returned.

The wait is a Pause like any other: it holds no thread, and an abort ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from ftpsd.data.endpoints import FileSource, Pause, Steps, Stream
from ftpsd.protocol.interfaces import RateLimit, Turns
from ftpsd.system.reactor import Now

E = TypeVar("E")
T = TypeVar("T")

#: `steps.download` or `steps.upload`: the steps between a stream and a source or target; whether it is text.
Move = Callable[[Stream, bool, E], Steps[int]]

#: Seconds of the shortest wait: longer than `transfer.MOMENT`, for which a thread waits. Rate limits make up for it.
SHORTEST = 0.005

#: Seconds after which a wait counts as progress: the rate limit causes it, and the peer has not stalled.
SLICE = 0.25


def throttled(move: Move[E], limits: Sequence[RateLimit], now: Now) -> Move[E]:
    """Return a move that keeps within some rate limits."""

    def steps(stream: Stream, text: bool, end: E) -> Steps[int]:
        joined = [limit.join() for limit in limits]
        try:
            return (yield from move(ThrottledStream(stream, joined, now), text, end))
        finally:
            for turns in joined:
                turns.leave()

    return steps


class ThrottledStream:
    """A stream within rate limits (see `endpoints.Stream`).

    The first step waits, too, for what earlier transfers have moved. So many small transfers get the same rate as one
    large transfer.
    """

    def __init__(self, stream: Stream, joined: Sequence[Turns], now: Now) -> None:
        self._stream = stream
        self._joined = joined
        self._now = now
        #: The time at which the transfer may continue when its allowance is used up.
        self._due = max(turns.first for turns in joined)
        #: The bytes that may move now.
        self._allowance = 0
        #: The time at which the allowance was given.
        self._since = now()
        self.open = stream.open
        self.finish_sending = stream.finish_sending
        self.finish_receiving = stream.finish_receiving

    @property
    def moved(self) -> int:
        """The bytes of the file or listing that have passed so far."""
        return self._stream.moved

    @property
    def is_mixed_up(self) -> bool:
        """Whether the bytes may be another session's."""
        return self._stream.is_mixed_up

    def send(self, data: bytes | memoryview) -> Steps[None]:
        """Send all of the data, piece by piece."""
        rest = memoryview(data)
        while rest:
            size = yield from self.allowance()
            yield from self._charged(self._stream.send(rest[:size]))
            rest = rest[size:]

    def send_file(self, source: FileSource) -> Steps[None]:
        """Send a file from its offset to its end, window by window."""
        while wanted := source.left((yield from self.allowance())):
            window = source.window(wanted)
            yield from self._charged(self._stream.send_file(window))
            if window.offset == source.offset:
                return  # the file ends here
            source.offset = window.offset

    def receive(self, buffer: memoryview) -> Steps[int]:
        """Receive at least one byte, and no more than the allowance. Return the number, or 0 at the end."""
        size = yield from self.allowance()
        return (yield from self._charged(self._stream.receive(buffer[:size])))

    def allowance(self) -> Steps[int]:
        """Wait until bytes may move, and return how many may move in one step."""
        if self._allowance <= 0:
            while (wait := self._due - self._now()) > 0:
                yield Pause(min(max(wait, SHORTEST), SLICE))
                yield None
            self._allowance = min(turns.allowance(self._since) for turns in self._joined)
            self._since = self._now()
        return self._allowance

    def _charged(self, steps: Steps[T]) -> Steps[T]:
        before = self.moved
        try:
            return (yield from steps)
        finally:  # bytes that moved before an abort are charged, too
            if count := self.moved - before:
                self.charge(count)

    def charge(self, count: int) -> None:
        """Charge bytes that have moved to all rate limits."""
        self._allowance -= count
        self._due = max(turns.charge(count) for turns in self._joined)
