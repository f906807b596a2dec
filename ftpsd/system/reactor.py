"""The parts of Twisted's reactor that the daemon uses, as static types.

They cost nothing at run time. `twisted.internet.interfaces` has them as zope interfaces, which mypy cannot check.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

#: Returns the seconds since some moment in the past. No one sets this clock, unlike the time of day.
Now = Callable[[], float]


class DelayedCall(Protocol):
    """A call that the reactor will make (IDelayedCall)."""

    def active(self) -> bool:
        """Return whether the call is still to be made."""

    def cancel(self) -> None:
        """Do not make the call. Raises if it was made or cancelled before."""


class Clock(Protocol):
    """Time that no one sets, and calls at a later time (IReactorTime). For the reactor thread."""

    def seconds(self) -> float:
        """Return the time in seconds since some moment in the past."""

    def callLater(self, delay: float, callable: Callable[..., object], *args: object) -> DelayedCall:
        """Call a function in `delay` seconds."""


class CallsFromThreads(Protocol):
    """Calls from other threads into the reactor thread (IReactorFromThreads)."""

    def callFromThread(self, callable: Callable[..., object], *args: object) -> None:
        """Call a function in the reactor thread, as soon as possible."""


class Descriptor(Protocol):
    """What ReadDescriptor and WriteDescriptor have in common (IFileDescriptor)."""

    def fileno(self) -> int:
        """Return the number of the file descriptor."""

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has removed the descriptor, since polling it failed."""

    def logPrefix(self) -> str:
        """Return a name for the reactor's log."""


class ReadDescriptor(Descriptor, Protocol):
    """A file descriptor that the reactor may watch for input (IReadDescriptor)."""

    def doRead(self) -> Exception | None:
        """The descriptor is readable. An exception that is returned removes it."""


class WriteDescriptor(Descriptor, Protocol):
    """A file descriptor that the reactor may watch for room to write (IWriteDescriptor)."""

    def doWrite(self) -> Exception | None:
        """Use the descriptor, which is writable. The reactor removes it if an exception is returned."""


class ListeningPort(Protocol):
    """A socket that listens (IListeningPort), as Twisted's `tcp.Port` implements it."""

    def startListening(self) -> None:
        """Begin to accept connections."""

    def stopListening(self) -> object:
        """Close the socket; the Deferred fires when that is done."""

    def stopReading(self) -> None:
        """Accept no connections for now; the kernel keeps those that arrive."""

    def getHost(self) -> IPv4Address | IPv6Address:
        """Return the address and the port."""


class Reactor(Clock, CallsFromThreads, Protocol):
    """All of the reactor that the daemon uses. Everything but `callFromThread` is for the reactor thread."""

    def run(self, installSignalHandlers: bool = True) -> None:
        """Serve until `stop`."""

    def stop(self) -> None:
        """Let `run` return."""

    def getDelayedCalls(self) -> Sequence[object]:
        """Return the calls that are still to be made."""

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: int, factory: Factory) -> ListeningPort:
        """Listen on a copy of a socket that was bound before."""

    def adoptStreamConnection(self, fileDescriptor: int, addressFamily: int, factory: Factory) -> object:
        """Let a protocol of the factory use a copy of a connected socket."""

    def addReader(self, reader: ReadDescriptor) -> None:
        """Watch a descriptor for input, until `removeReader`."""

    def removeReader(self, reader: ReadDescriptor) -> None:
        """Watch a descriptor no longer; does nothing if it is not watched."""

    def addWriter(self, writer: WriteDescriptor) -> None:
        """Watch a descriptor for room to write, until `removeWriter`."""

    def removeWriter(self, writer: WriteDescriptor) -> None:
        """Watch a descriptor no longer; does nothing if it is not watched."""
