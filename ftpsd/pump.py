"""Bytes between a source or a sink and a data connection, as fast as the machine can.

A transfer is written as a generator. It does its system and TLS calls itself, in a worker thread,
and yields when it cannot go on:

    READ, WRITE   until the socket is ready
    Pause(s)      for so many seconds
    None          never mind; a point where another transfer may have the thread

Who waits keeps the thread for a moment, if nobody else wants it, since on a fast network the socket
is ready again at once; then it parks in the reactor. So a slow client costs no thread, and a fast
one no wake-ups. Abort, deadlines and progress act between two steps.
"""

from __future__ import annotations

import os
import select
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from ftpsd.replies import Refusal
from ftpsd.representation import FromNetwork, ToNetwork
from ftpsd.session import Digest
from ftpsd.workers import Workers

READ = select.POLLIN
WRITE = select.POLLOUT

#: How long a thread waits for a socket before it parks the transfer, in milliseconds.
MOMENT = 4

#: Bytes given to one TLS or socket call: large, and still within the second-level cache.
PIECE = 256 * 1024


@dataclass(frozen=True, slots=True)
class Pause:
    """Yielded: go on after so many seconds, or sooner if the peer has sent something and `wake` is set."""

    seconds: float
    wake: bool = False


Steps = Generator[int | Pause | None, None, Any]


class Connection(Protocol):
    """A data connection as the transfers below use it; see `data.py` and `tls.py`."""

    #: Bytes of the file or listing that have gone through.
    moved: int

    def fileno(self) -> int: ...
    def open(self) -> Steps: ...
    def send(self, data: bytes | memoryview) -> Steps: ...
    def send_file(self, source: FileSource) -> Steps: ...
    def finish_sending(self) -> Steps: ...
    def receive(self, buffer: memoryview) -> Generator[int | Pause | None, None, int]: ...
    def finish_receiving(self) -> Steps: ...
    def interrupt(self) -> None: ...
    def close(self) -> None: ...


# --- what moves --------------------------------------------------------------------------------------


class FileSource:
    """Part of an open file: from `offset` to `end`, or to wherever the file ends (None)."""

    def __init__(self, fd: int, offset: int, end: int | None) -> None:
        self.fd, self.offset, self.end = fd, offset, end

    def left(self, at_most: int) -> int:
        """How many bytes to ask for next."""
        return at_most if self.end is None else max(0, min(at_most, self.end - self.offset))

    def __iter__(self) -> Iterator[memoryview]:
        """The bytes, piece by piece, all in the same buffer."""
        buffer = memoryview(bytearray(PIECE))
        while wanted := self.left(PIECE):
            count = os.preadv(self.fd, [buffer[:wanted]], self.offset)
            if not count:
                return
            self.offset += count
            yield buffer[:count]

    def close(self) -> None:
        """Closes the file; any number of times."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class ChunkSource:
    """Chunks that are made while they are sent, as listings are."""

    def __init__(self, chunks: Generator[bytes, None, None]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def close(self) -> None:
        """Ends the making; any number of times."""
        self._chunks.close()


Source = FileSource | ChunkSource


class Closable(Protocol):
    """What a transfer frees in the end."""

    def close(self) -> None: ...


class FileSink(Protocol):
    """An upload that nobody sees until it is published; see `uploads.py`."""

    name: str

    def prepare(self) -> Iterator[None]: ...
    def write(self, data: bytes | memoryview) -> None: ...
    def publish(self) -> None: ...
    def close(self) -> None: ...


def download(connection: Connection, source: Source, text: bool) -> Steps:
    """Sends a source to its end. Done when the peer's TCP has all of it, and our close_notify."""
    yield from connection.open()
    if isinstance(source, FileSource) and not text:
        yield from connection.send_file(source)
    else:
        converter = ToNetwork() if text else None
        for piece in source:
            yield from connection.send(converter.convert(bytes(piece)) if converter else piece)
            yield None
    yield from connection.finish_sending()
    return connection.moved


def upload(connection: Connection, sink: FileSink, text: bool) -> Steps:
    """Receives into a sink, and publishes it when the peer has ended the stream as it should."""
    yield from connection.open()
    converter = FromNetwork() if text else None
    buffer = memoryview(bytearray(2 * PIECE))
    yield from sink.prepare()
    while count := (yield from connection.receive(buffer)):
        piece = buffer[:count]
        sink.write(converter.convert(bytes(piece)) if converter else piece)
        yield None
    if converter:
        sink.write(converter.end())
    sink.publish()
    yield from connection.finish_receiving()
    return connection.moved


def checksum(source: FileSource, digest: Digest) -> Steps:
    """Reads a source into a digest."""
    for piece in source:
        digest.update(piece)
        yield None


# --- who moves it ------------------------------------------------------------------------------------


@implementer(IReadWriteDescriptor)
class Transfer:
    """Drives one generator to its end, and closes what is `owned` then, in a worker thread.

    An abort closes it too, even one that comes before the first step.
    """

    def __init__(
        self,
        reactor: Any,
        workers: Workers,
        steps: Steps,
        connection: Connection | None,
        owned: Sequence[Closable],
    ) -> None:
        self.finished: Deferred[Any] = Deferred()
        self._reactor = reactor
        self._workers = workers
        self._steps = steps
        self._connection = connection
        self._owned = owned
        self._stop: Refusal | None = None
        self._parked: Callable[[], None] | None = None
        #: Rises whenever the peer took or gave something.
        self.progress = 0
        workers.submit(self._work)

    def abort(self, refusal: Refusal) -> None:
        """Ends the transfer with a refusal, wherever it is. The first reason counts."""
        if self._stop is None:
            self._stop = refusal
            if self._connection is not None:
                self._connection.interrupt()
            self._unpark()

    # --- in a worker thread ----------------------------------------------------------------------

    def _work(self) -> None:
        result: Any
        try:
            while not self._wait(self._step()):
                pass
            return
        except StopIteration as end:
            result = end.value
        except BaseException as error:
            result = self._failed(error)
        for each in self._owned:
            try:
                each.close()
            except BaseException as error:
                result = self._failed(error)
        self._workers.answer(self._finish, result)

    def _failed(self, error: BaseException) -> Failure:
        """What broke because of an abort is told as the abort. Frames let go of their buffers at once."""
        traceback.clear_frames(error.__traceback__)
        told = self._stop or error
        if isinstance(told, Refusal | OSError):
            told.__traceback__ = None  # a traceback is for mistakes of ours
        return Failure(told)

    def _step(self) -> int | Pause | None:
        if self._stop is not None:
            self._steps.close()
            raise self._stop
        return next(self._steps)

    def _wait(self, wanted: int | Pause | None) -> bool:
        """Whether the thread is given up; the transfer goes on in another then."""
        if not isinstance(wanted, Pause):
            self.progress += 1
        crowded = self._workers.crowded
        if wanted is None:
            if crowded:
                self._workers.submit(self._work)
            return crowded
        if not crowded and self._wait_a_moment(wanted):
            return False
        self._workers.answer(self._park, wanted)
        return True

    def _wait_a_moment(self, wanted: int | Pause) -> bool:
        if isinstance(wanted, Pause):
            if wanted.seconds * 1000 > MOMENT:
                return False
            if wanted.wake:
                self._poll(READ, wanted.seconds * 1000)
            else:
                time.sleep(wanted.seconds)
            return True
        return self._poll(wanted, MOMENT)

    def _poll(self, wanted: int, milliseconds: float) -> bool:
        poll = select.poll()
        poll.register(self.fileno(), wanted)
        return bool(poll.poll(milliseconds))

    # --- in the reactor thread -------------------------------------------------------------------

    def _park(self, wanted: int | Pause) -> None:
        if self._stop is not None:
            self._workers.submit(self._work)
        elif isinstance(wanted, Pause):
            call = self._reactor.callLater(wanted.seconds, self._unpark)
            self._parked = lambda: call.cancel() if call.active() else None
        elif wanted == READ:
            self._reactor.addReader(self)
            self._parked = lambda: self._reactor.removeReader(self)
        else:
            self._reactor.addWriter(self)
            self._parked = lambda: self._reactor.removeWriter(self)

    def _unpark(self) -> None:
        leave, self._parked = self._parked, None
        if leave is not None:
            leave()
            self._workers.submit(self._work)

    def _finish(self, result: Any) -> None:
        self._connection = None
        self.finished.callback(result)

    def fileno(self) -> int:
        """The socket, for the reactor's poll."""
        return self._connection.fileno() if self._connection is not None else -1

    def doRead(self) -> None:
        """The socket can be read again."""
        self._unpark()

    doWrite = doRead

    def connectionLost(self, reason: Failure) -> None:
        """The reactor gives up on the socket: the next step finds out why."""
        self._unpark()

    def logPrefix(self) -> str:
        """For the reactor's log."""
        return "data"


class Watch:
    """Aborts a transfer whose peer has neither given nor taken anything for too long."""

    def __init__(self, clock: Any, transfer: Transfer, seconds: float, refusal: Refusal) -> None:
        self._clock, self._transfer, self._seconds, self._refusal = clock, transfer, seconds, refusal
        self._seen = -1
        self._call: Any = None
        self._check()

    def _check(self) -> None:
        progress = self._transfer.progress
        if progress == self._seen:
            self._call = None
            self._transfer.abort(self._refusal)
        else:
            self._seen = progress
            self._call = self._clock.callLater(self._seconds, self._check)

    def stop(self) -> None:
        """The transfer has ended."""
        if self._call is not None and self._call.active():
            self._call.cancel()
