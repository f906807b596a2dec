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
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ftpsd.protocol.ascii import FromNetwork, ToNetwork
from ftpsd.protocol.checksums import Digest
from ftpsd.protocol.interfaces import Reader, Source, Upload
from ftpsd.protocol.replies import Refusal
from ftpsd.system.reactor import Clock, DelayedCall, Reactor
from ftpsd.system.worker_threads import JobQueue

log = Logger(namespace="ftpsd")

READ = select.POLLIN
WRITE = select.POLLOUT

#: How long a thread waits for a socket before it parks the transfer, in milliseconds.
MOMENT = 4

#: Seconds after an abort at which the client is told of it, even if a disk call has not returned.
PATIENCE = 5

#: Seconds without a byte after which nothing is on its way any more from a client that has gone, on a fast network;
#: and bytes that kernels may hold of what it has sent.
QUIET = 0.02
IN_FLIGHT = 32 * 1024 * 1024

#: Bytes given to one TLS or socket call: large, and still within the second-level cache.
PIECE = 256 * 1024

#: Bytes that are copied within the disk in one step, where no rate limits it.
COPY = 64 * 1024 * 1024

#: The size of buffers at first. They become large when they are filled once.
SMALL = 32 * 1024


@dataclass(frozen=True, slots=True)
class Pause:
    """Yielded: go on after so many seconds, or sooner if the peer has sent something and `wake` is set."""

    seconds: float
    wake: bool = False


Steps = Generator[int | Pause | None, None, Any]


class Polled(Protocol):
    """What a transfer waits for, and is interrupted by."""

    @property
    def moved(self) -> int:
        """Bytes of the file or listing that have gone through."""

    @property
    def opened(self) -> bool:
        """Whether the handshake is done."""

    def fileno(self) -> int: ...
    def round_trip(self) -> float: ...
    def interrupt(self) -> None: ...


class Connection(Polled, Protocol):
    """A data connection as the transfers below use it; see `streams.py`."""

    def open(self) -> Steps: ...
    def send(self, data: bytes | memoryview) -> Steps: ...
    def send_file(self, source: FileSource) -> Steps: ...
    def finish_sending(self) -> Steps: ...
    def receive(self, buffer: memoryview) -> Generator[int | Pause | None, None, int]: ...
    def finish_receiving(self) -> Steps: ...
    def turn(self) -> Generator[int | Pause | None, None, int]: ...
    def pay(self, count: int) -> None: ...
    def close(self) -> None: ...


# --- what moves --------------------------------------------------------------------------------------


class FileSource:
    """Part of an open file: from `offset` to `end`, or to wherever the file ends (None).

    `size` is the file's size when it was opened. A file that ends before it is a `Refusal`: the client was
    promised those bytes. 0 promises nothing, since files of /proc have that size.
    """

    def __init__(self, fd: int, offset: int, end: int | None, size: int) -> None:
        self.fd, self.offset, self.end, self.size = fd, offset, end, size

    def left(self, at_most: int) -> int:
        """How many bytes to ask for next."""
        return at_most if self.end is None else max(0, min(at_most, self.end - self.offset))

    def window(self, size: int) -> FileSource:
        """Return the next `size` bytes of this source as a source of their own, on the same descriptor."""
        return FileSource(self.fd, self.offset, self.offset + size, self.size)

    @property
    def remaining(self) -> int:
        """How many bytes are left to read, if the file has the size that it had when it was opened."""
        return max(0, (self.size if self.end is None else min(self.size, self.end)) - self.offset)

    def check_end(self) -> None:
        """Accept that the file has ended at `offset`; raises Refusal if it was longer when it was opened."""
        if self.offset < (self.size if self.end is None else min(self.size, self.end)):
            raise Refusal(451, "The file became shorter while it was read.")

    def __iter__(self) -> Iterator[memoryview]:
        """The bytes, piece by piece, all in the same buffer."""
        buffer = memoryview(bytearray(min(PIECE, max(self.size + 1, SMALL))))
        while wanted := self.left(len(buffer)):
            count = os.preadv(self.fd, [buffer[:wanted]], self.offset)
            if not count:
                self.check_end()
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


class Closable(Protocol):
    """What a transfer frees in the end."""

    def close(self) -> None: ...


def download(connection: Connection, source: Source, text: bool) -> Steps:
    """Sends a source to its end. Done when the peer's TCP has all of it, and our close_notify."""
    yield from connection.open()
    if isinstance(source, FileSource) and not text:
        yield from connection.send_file(source)
    else:
        converter = ToNetwork() if text else None
        for piece in source:
            if piece:  # a listing has empty ones, too: points where others may have the thread
                yield from connection.send(converter.convert(bytes(piece)) if converter else piece)
            yield None
    yield from connection.finish_sending()
    return connection.moved


def upload(connection: Connection, sink: Upload, text: bool) -> Steps:
    """Receives into a sink, and publishes it when the peer has ended the stream as it should."""
    yield from connection.open()
    converter = FromNetwork() if text else None
    buffer = memoryview(bytearray(SMALL))
    yield from _copy(connection, sink, complete=False)
    while count := (yield from connection.receive(buffer)):
        piece = buffer[:count]
        sink.write(converter.convert(bytes(piece)) if converter else piece)
        if count == len(buffer) < 2 * PIECE:  # fresh memory costs more than a small file
            buffer = memoryview(bytearray(2 * PIECE))
        yield None
    if converter:
        sink.write(converter.end())
    yield from _copy(connection, sink, complete=True)
    sink.publish()
    try:
        yield from connection.finish_receiving()
    except Refusal:
        pass  # an abort or a deadline comes too late
    return connection.moved


def _copy(connection: Connection, sink: Upload, complete: bool) -> Steps:
    """Copy what an upload starts with. That is charged like bytes that are received: it costs the disk as much."""
    while sink.must_copy(complete):
        size = yield from connection.turn()
        connection.pay(sink.copy(size))
        yield None


def checksum(source: Reader, digest: Digest) -> Steps:
    """Reads a source into a digest; returns where in the file the bytes start and end.

    Where there were none, the end is that of the file.
    """
    start = source.offset
    for piece in source:
        digest.update(piece)
        yield None
    return start, source.offset if source.offset > start else source.size


# --- who moves it ------------------------------------------------------------------------------------


@implementer(IReadWriteDescriptor)
class Transfer:
    """Drives one generator to its end, and closes what is `owned` then, in a worker thread.

    An abort closes it too, even one that comes before the first step.
    """

    def __init__(
        self,
        reactor: Reactor,
        queue: JobQueue,
        steps: Steps,
        connection: Polled | None,
        owned: Sequence[Closable],
    ) -> None:
        self.finished: Deferred[Any] = Deferred()
        self._reactor = reactor
        self._queue = queue
        self._queued = False
        self._steps = steps
        self._connection = connection
        self._owned = owned
        self._stop: Refusal | None = None
        self._parked: Callable[[], None] | None = None
        self._wanted: int | Pause = READ
        self._woken = False
        self._patience: DelayedCall | None = None
        self._steps_taken = 0

    @property
    def progress(self) -> tuple[int, float]:
        """Changes whenever the peer took or gave something; also while the transfer waits for a thread and others of
        its owner have one."""
        return self._steps_taken, self._queue.progress if self._queued else 0.0

    def start(self) -> None:
        """Takes the first step."""
        self._submit()

    def _submit(self) -> None:
        self._queued = True
        self._queue.submit(self._work)

    def abort(self, refusal: Refusal) -> None:
        """Ends the transfer with a refusal, wherever it is. The first reason counts."""
        if self._stop is None:
            self._stop = refusal
            if self._connection is not None:
                self._connection.interrupt()
            self._unpark()
            self._patience = self._reactor.callLater(PATIENCE, self._abandon)

    def leave(self, refusal: Refusal) -> None:
        """End the upload of a client that has gone: receive what it has sent before, then abort with a refusal.

        Its data stream may have ended properly, and be read later than the end of its control connection.
        """
        self._look_until_quiet(refusal, self.abort)

    def doubt(self, refusal: Refusal) -> None:
        """Do the same for a client that may have gone; one that sends more than was on its way has not."""
        self._look_until_quiet(refusal, lambda _: None)

    def _look_until_quiet(self, refusal: Refusal, too_much: Callable[[Refusal], None]) -> None:
        if self._connection is not None:
            quiet = min(max(QUIET, 4 * self._connection.round_trip()), 1.0)
            self._look_again(refusal, too_much, quiet, self._connection.moved + IN_FLIGHT, -1)

    def _look_again(
        self, refusal: Refusal, too_much: Callable[[Refusal], None], quiet: float, most: int, seen: int
    ) -> None:
        if self._connection is None:
            return  # it has ended
        if self._steps_taken == seen and self._waits_for_peer():
            self.abort(refusal)
        elif self._connection.moved > most:
            too_much(refusal)
        else:
            self._reactor.callLater(quiet, self._look_again, refusal, too_much, quiet, most, self._steps_taken)

    def _waits_for_peer(self) -> bool:
        wanted = self._wanted
        if self._parked is None or (isinstance(wanted, Pause) and not wanted.wake):
            return False  # it runs, or waits for its rate
        return not self._poll(READ if isinstance(wanted, Pause) else wanted, 0)

    @property
    def expected_size(self) -> int | None:
        """The number of bytes that a download will have moved in the end, if the size of the file is known."""
        source = self._owned[0] if self._owned else None
        if not isinstance(source, FileSource) or not source.size or self._connection is None:
            return None
        return self._connection.moved + source.remaining

    @property
    def opened(self) -> bool:
        """Whether bytes of the file may move: there is no connection to open, or it is open."""
        return self._connection is None or self._connection.opened

    # --- in a worker thread ----------------------------------------------------------------------

    def _work(self) -> None:
        self._queued = False
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
                self._queue.answer(_closing_failed, error)  # the result stands: an upload may be published
        self._queue.answer(self._finish, result)

    def _failed(self, error: BaseException) -> Failure:
        """What broke because of an abort is told as the abort. Frames let go of their buffers at once."""
        traceback.clear_frames(error.__traceback__)
        told = self._stop or error
        if isinstance(told, Refusal | OSError):
            told.__traceback__ = None  # a traceback is for mistakes of ours
        return Failure(told)

    def _step(self) -> int | Pause | None:
        if self._stop is not None:
            return self._steps.throw(self._stop)  # not close(): an upload that is published ends well
        return next(self._steps)

    def _wait(self, wanted: int | Pause | None) -> bool:
        """Whether the thread is given up; the transfer goes on in another then."""
        if not isinstance(wanted, Pause):
            self._steps_taken += 1
        crowded = self._queue.step_ended()
        if wanted is None:
            if crowded:
                self._submit()
            return crowded
        if not crowded and self._wait_a_moment(wanted):
            return False
        self._queue.answer(self._park, wanted)
        return True

    def _wait_a_moment(self, wanted: int | Pause) -> bool:
        if isinstance(wanted, Pause):
            milliseconds = wanted.seconds * 1000
            if wanted.wake:
                return self._poll(READ, min(milliseconds, MOMENT)) or milliseconds <= MOMENT
            if milliseconds > MOMENT:
                return False
            time.sleep(wanted.seconds)
            return True
        return self._poll(wanted, MOMENT)

    def _poll(self, wanted: int, milliseconds: float) -> bool:
        poll = select.poll()
        poll.register(self.fileno(), wanted)
        return bool(poll.poll(milliseconds))

    # --- in the reactor thread -------------------------------------------------------------------

    def _park(self, wanted: int | Pause) -> None:
        self._wanted = wanted
        if self._stop is not None or self._woken:
            self._woken = False
            self._submit()
        elif isinstance(wanted, Pause):
            self._parked = self._pause(wanted)
        elif wanted == READ:
            self._reactor.addReader(self)
            self._parked = lambda: self._reactor.removeReader(self)
        else:
            self._reactor.addWriter(self)
            self._parked = lambda: self._reactor.removeWriter(self)

    def _pause(self, pause: Pause) -> Callable[[], None]:
        """Begins a pause; what ends it."""
        call = self._reactor.callLater(pause.seconds, self._unpark)
        if pause.wake:
            self._reactor.addReader(self)

        def end() -> None:
            if call.active():
                call.cancel()
            if pause.wake:
                self._reactor.removeReader(self)

        return end

    def wake(self) -> None:
        """Take a step now: what it waits for has changed."""
        self._woken = self._parked is None
        self._unpark()

    def _unpark(self) -> None:
        leave, self._parked = self._parked, None
        if leave is not None:
            leave()
            self._submit()

    def _abandon(self) -> None:
        """The thread is in a disk call that does not return. Nobody waits for it; it closes what is owned then."""
        if self._stop is not None:
            self._finish(Failure(Refusal(self._stop.reply.code, f"{self._stop.reply.text} The disk does not answer.")))

    def _finish(self, result: Any) -> None:
        if self._patience is not None and self._patience.active():
            self._patience.cancel()
        if not self.finished.called:
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


def _closing_failed(error: BaseException) -> None:
    log.warn("a file or connection could not be closed: {error}", error=str(error))


class Watch:
    """Aborts a transfer whose connection is not open in `opening` seconds, or whose peer has neither given
    nor taken anything for `stalled` seconds. One timer does for both."""

    def __init__(self, clock: Clock, transfer: Transfer, opening: float, stalled: float) -> None:
        self._clock, self._transfer, self._stalled = clock, transfer, stalled
        self._seen, self._since = transfer.progress, clock.seconds()
        self._deadline = self._since + opening
        self._call = clock.callLater(min(opening, stalled), self._check)

    def _check(self) -> None:
        transfer, now = self._transfer, self._clock.seconds()
        if transfer.progress != self._seen:
            self._seen, self._since = transfer.progress, now
        silent = now - self._since
        if not transfer.opened and now >= self._deadline:
            transfer.abort(Refusal(522, "The TLS handshake of the data connection took too long."))
        elif silent >= self._stalled:
            transfer.abort(Refusal(426, f"Nothing moved for {self._stalled} seconds."))
        else:
            left = self._stalled - silent
            wait = left if transfer.opened else min(left, self._deadline - now)
            self._call = self._clock.callLater(wait, self._check)

    def stop(self) -> None:
        """The transfer has ended."""
        if self._call.active():
            self._call.cancel()
