"""A child service of the daemon, made of two functions: Part."""

from __future__ import annotations

from collections.abc import Callable

from twisted.application.service import Service

from ftpsd.system.memory.nothing import do_nothing


class Part(Service):
    """Calls `start` and `stop` when the daemon starts and stops. `stop` may return a Deferred.

    A MultiService starts its children in the order in which they were added. It calls `stop` of all of them in the
    reverse order, without waiting for one before it calls the next, and then waits for all.
    """

    def __init__(self, start: Callable[[], object], stop: Callable[[], object] = do_nothing) -> None:
        self._start = start
        self._stop = stop

    def startService(self) -> None:
        """Start the part."""
        super().startService()
        self._start()

    def stopService(self) -> object:
        """Stop the part. Return a Deferred if that takes time (no coroutine: Twisted 22.4 would not wait for it)."""
        super().stopService()
        return self._stop()
