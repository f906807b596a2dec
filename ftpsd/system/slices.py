"""Divide work of the reactor thread into slices, so that no session waits for all of it: Slices."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from ftpsd.system.reactor import Clock

#: Seconds of a slice. What is between two calls of `pause` comes on top.
SLICE = 0.002


class Slices:
    """One piece of work. It begins when this object is made."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._end = clock.seconds() + SLICE

    async def pause(self) -> None:
        """Let the reactor do its other work if the slice is over. Call this after every few steps."""
        if self._clock.seconds() < self._end:
            return
        resumed: Deferred[None] = Deferred()
        self._clock.callLater(0, resumed.callback, None)
        await resumed
        self._end = self._clock.seconds() + SLICE
