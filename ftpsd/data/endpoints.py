"""The two ends of a transfer, and the kind of steps in which it moves bytes between them.

Whatever moves bytes is written as a generator, so that no thread waits for a slow client. It makes its system calls
and TLS calls itself, in a worker thread, and yields when it cannot continue:

    READ, WRITE   continue when the socket is ready
    Pause(s)      continue in `s` seconds
    InReactor(f)  continue when the reactor has called a function, such as the one that sends the 150
    Busy          continue with a lock that another job has (see `job_lock.again`)
    None          progress; another transfer may have the thread now

`transfer.py` drives these generators.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ftpsd.protocol.interfaces import Waiting
from ftpsd.protocol.replies import Refusal
from ftpsd.system.jobs.job_lock import Busy

T = TypeVar("T")

READ = select.POLLIN
WRITE = select.POLLOUT

#: Bytes in one TLS or socket call: large, and still within the second-level cache.
PIECE = 256 * 1024

#: Bytes that one step may copy within the disk if no rate limits it.
COPY = 64 * 1024 * 1024

#: The size of a buffer at first. A buffer that was filled once is replaced by a large one.
SMALL = 32 * 1024


@dataclass(frozen=True, slots=True)
class Pause:
    """Yielded by steps: continue in so many seconds, or earlier if the peer sends something and `wake` is set."""

    seconds: float
    wake: bool = False
    #: Whether the wait is for storage over a network, not for the peer.
    storage: bool = False


@dataclass(slots=True)
class InReactor:
    """Yielded by steps: continue when the reactor has made a call."""

    call: Callable[[], object]


#: What steps yield.
Wanted = int | Pause | InReactor | Busy | None

#: The steps of something that blocks, and its result.
Steps = Generator[Wanted, None, T]


def never_pending(_: object, complete: bool = False) -> float:
    """Return 0: nothing is waited for (see `interfaces.Waiting`)."""
    return 0.0


def settled(end: Waiting, complete: bool = False) -> Steps[None]:
    """Wait until nothing is pending."""
    last = 0.0
    while seconds := end.pending(complete):
        if seconds < last:
            yield None  # progress: a client does not stall while the storage works for it
        last = seconds
        yield Pause(seconds, storage=True)


class Closable(Protocol):
    """Something that a transfer closes when it ends."""

    def close(self) -> None:
        """Free what is open. May be called any number of times."""


class End(Closable, Waiting, Protocol):
    """What a transfer reads from or writes to: a source or an upload."""


class Waitable(Protocol):
    """The part of a network connection that `Transfer` uses: it waits for it, and wakes it up."""

    @property
    def moved(self) -> int:
        """The bytes of the file or listing that have passed so far."""

    @property
    def is_open(self) -> bool:
        """Whether the TLS handshake is done, or none is needed."""

    def fileno(self) -> int:
        """Return the descriptor to poll, or -1."""

    def round_trip(self) -> float:
        """Return the round-trip time of TCP in seconds, or 0 if it is not known."""

    def interrupt(self) -> None:
        """Make a blocked step return. May be called from any thread."""


class Stream(Protocol):
    """The bytes of a data connection. `streams.py` has the implementations.

    All methods run in a worker thread. They raise Refusal with the reply for the client.
    """

    @property
    def moved(self) -> int:
        """The bytes of the file or listing that have passed so far."""

    @property
    def is_mixed_up(self) -> bool:
        """Whether the bytes may be another session's."""

    def open(self) -> Steps[None]:
        """Do the TLS handshake, if there is to be one."""

    def send(self, data: bytes | memoryview) -> Steps[None]:
        """Send all of the data."""

    def send_file(self, source: FileSource) -> Steps[None]:
        """Send a file from its offset to its end."""

    def finish_sending(self) -> Steps[None]:
        """End the stream, and wait until the peer's TCP has all of it."""

    def receive(self, buffer: memoryview) -> Steps[int]:
        """Receive at least one byte and return the number of bytes, or 0 at the end of the stream."""

    def finish_receiving(self) -> Steps[None]:
        """Tell the peer that everything has arrived."""

    def allowance(self) -> Steps[int]:
        """Wait until bytes may be copied, and return how many may be copied in one step."""

    def charge(self, count: int) -> None:
        """Charge bytes that were copied on the disk to the rate limits, as if they had been received."""


class FileSource:
    """A range of an open file: from `offset` to `end`, or to the end of the file (None).

    `size` is the file's size when it was opened. A file that ends before it is a `Refusal`: the client was
    promised those bytes. A size of 0 promises nothing, since files of /proc have that size.
    """

    pending = never_pending
    #: A disk knows no checksums.
    known_checksum = ""

    def __init__(self, fd: int, offset: int, end: int | None, size: int) -> None:
        self.fd, self.offset, self.end, self.size = fd, offset, end, size
        self._start = offset

    @property
    def expected(self) -> int:
        """The number of bytes that will be read in all, if the file does not grow."""
        return max(0, (self.size if self.end is None else min(self.size, self.end)) - self._start)

    def left(self, at_most: int) -> int:
        """Return the number of bytes to request next; 0 at the end of the range."""
        return at_most if self.end is None else max(0, min(at_most, self.end - self.offset))

    def window(self, size: int) -> FileSource:
        """Return the next `size` bytes as a source of their own, on the same descriptor."""
        return FileSource(self.fd, self.offset, self.offset + size, self.size)

    def check_end(self) -> None:
        """Accept that the file ends at `offset`. Raises Refusal if it was longer when it was opened."""
        if self.offset < (self.size if self.end is None else min(self.size, self.end)):
            raise Refusal(451, "File became shorter while it was read.")

    def __iter__(self) -> Iterator[memoryview]:
        """Yield the bytes in pieces, all in the same buffer."""
        buffer = memoryview(bytearray(min(PIECE, max(self.size + 1, SMALL))))
        while wanted := self.left(len(buffer)):
            count = os.preadv(self.fd, [buffer[:wanted]], self.offset)
            if not count:
                self.check_end()
                return
            self.offset += count
            yield buffer[:count]

    def close(self) -> None:
        """Close the file. May be called any number of times."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class ChunkSource:
    """Bytes that are produced while they are sent, as for a listing."""

    pending = never_pending

    def __init__(self, chunks: Generator[bytes, None, None]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def close(self) -> None:
        """End the generator. May be called any number of times."""
        self._chunks.close()
