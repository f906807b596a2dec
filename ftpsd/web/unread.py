"""Notice that a client does not read its answer: Unread."""

from __future__ import annotations

import fcntl
import struct
import termios
from typing import Protocol

from ftpsd.system.presence import PatientCall
from ftpsd.system.reactor import Clock
from ftpsd.system.twisted_private import count_unsent

#: Seconds between two looks.
INTERVAL = 1.0


class Connected(Protocol):
    """A TCP or Unix connection, as far as it is used here."""

    def fileno(self) -> int:
        """Return the number of the socket."""


class Unread:
    """What a client has not read of an answer, from when all of it is written until `stop`."""

    def __init__(self, clock: Clock, transport: Connected) -> None:
        self._clock, self._transport = clock, transport
        self._left = self._measure()
        self._is_same = False
        self._call = PatientCall(clock, INTERVAL, self._look)

    @property
    def is_stalled(self) -> bool:
        """Whether the client has read nothing between the last two looks, and nothing since."""
        return self._is_same and self._measure() == self._left

    def stop(self) -> None:
        """Look no longer."""
        if self._call.active():
            self._call.cancel()

    def _look(self) -> None:
        left = self._measure()
        self._is_same, self._left = left == self._left, left
        self._call = PatientCall(self._clock, INTERVAL, self._look)

    def _measure(self) -> tuple[int, int]:
        """Return the bytes that Twisted holds, and those that the kernel holds: it takes many at once, and seldom."""
        raw = fcntl.ioctl(self._transport.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
        return count_unsent(self._transport), int(struct.unpack("i", raw)[0])
