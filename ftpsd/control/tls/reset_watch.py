"""Notice that the client has reset a connection while it is not read: ResetWatch."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from ftpsd.system.memory.nothing import never
from ftpsd.system.reactor import Clock

#: Seconds between two checks.
_INTERVAL = 0.25


class ResetWatch:
    """Checks a socket for a reset while `unread` says that it is not read: the reactor does not see a reset then."""

    __slots__ = ("_clock", "_running", "_unread", "transport")

    def __init__(self, clock: Clock, unread: Callable[[], bool]) -> None:
        self._clock = clock
        self._unread = unread
        self._running = False
        #: Twisted's TCP connection.
        self.transport: Any = None

    def start(self) -> None:
        """Check periodically from now on."""
        if not self._running:
            self._running = True
            self._clock.callLater(_INTERVAL, self._check)

    def stop(self) -> None:
        """Check no more: the connection is lost."""
        self._unread = never

    def _check(self) -> None:
        self._running = False
        if self.transport.connected and self._unread() and not self.abort_if_reset():
            self.start()

    def abort_if_reset(self) -> bool:
        """Abort the connection if the client has reset it. Return whether it has."""
        reset = bool(self.transport.getHandle().getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        if reset:
            self.transport.abortConnection()
        return reset
