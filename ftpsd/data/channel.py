"""The data connections and transfers of one session, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from ftpsd.data.connect import Connector
from ftpsd.data.deadlines import Deadlines, abort_if_quiet, abort_when_quiet
from ftpsd.data.endpoints import Closable, End, FileSource, InReactor, Steps, settled
from ftpsd.data.handshakes import Handshakes
from ftpsd.data.passive.connection import Connected
from ftpsd.data.passive.shared_ports import Ports
from ftpsd.data.shared import Ends, Protection, Shared
from ftpsd.data.steps import checksum, download, upload
from ftpsd.data.streams import PlainStream, TlsReceiver, TlsSender
from ftpsd.data.throttle import Move, throttled
from ftpsd.data.transfer import AnyTransfer, Transfer
from ftpsd.protocol.addresses import network
from ftpsd.protocol.checksums import Checksum
from ftpsd.protocol.interfaces import Direction, Events, Opened, Opening, Progress, RateLimit, Reader, Source, Upload
from ftpsd.protocol.replies import MixedUp, Refusal, Reply
from ftpsd.system.jobs.job_lock import Busy, again
from ftpsd.system.jobs.job_queue import JobQueue

T = TypeVar("T")
E = TypeVar("E", bound=End)


class DataPlane:
    """Makes the data channels of the sessions of one configuration snapshot."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def channel(self, ends: Ends, protection: Protection, events: Events) -> DataChannel:
        """Return the data channel of a new session."""
        return DataChannel(self._shared, ends, protection, events)

    @property
    def ports(self) -> Ports:
        """The passive ports."""
        return self._shared.ports

    def warn_if_private(self) -> None:
        """Log a warning if clients outside private networks cannot reach the address that PASV will announce."""
        self._shared.announcer.warn_if_private()


class DataChannel:
    """The data connections of one session, one at a time: `protocol.interfaces.Data`.

        idle       no transfer runs; `_connector` may have prepared a connection
        opening    the file is opened in a worker thread
        connecting waits for the data connection
        moving     `_transfer` runs

    Each state but idle ends with the result of the transfer, or with the Refusal of an abort. `ends` has the
    addresses of the control connection. Refused connections are published to `events`.
    """

    def __init__(
        self,
        shared: Shared,
        ends: Ends,
        protection: Protection,
        events: Events,
    ) -> None:
        self._shared = shared
        self._connector = connector = Connector(shared, ends, protection, events, lambda: self.owner)
        self.passive, self.active, self.is_own = connector.passive, connector.active, shared.is_own
        connector.peers.cut = self._cut_mixed
        #: Discards what was prepared. A transfer that runs continues.
        self.reset = connector.reset
        self._transfer: AnyTransfer | None = None
        self._stream: PlainStream | None = None
        #: The owner of the transfers' jobs in worker threads: the user, or the network before the login.
        self.owner = network(ends.client)
        #: Returns the token limits that limit transfers in one direction: none before the login.
        self.rate_limits: Callable[[Direction], Sequence[RateLimit]] = lambda _: ()
        #: Whether an upload is complete without TLS close_notify. The login sets it.
        self.lenient = False
        self._moved = 0
        self._direction: Direction = "download"
        #: Set by an abort: the command that runs must not begin to move anything.
        self._abort_reason: Refusal | None = None
        self._closed = False

    @property
    def prepared(self) -> bool:
        """Whether a transfer command can be served."""
        return self._connector.prepared

    @property
    def moved(self) -> int:
        """The bytes that the transfer has moved so far, or that the last one has moved in all."""
        return self._stream.moved if self._stream is not None else self._moved

    def progress(self) -> Progress | None:
        """Return how far the transfer is; None while none moves bytes. Costs no system call."""
        if self._transfer is None:
            return None
        source = self._transfer.owned[0] if self._transfer.owned else None
        expected = source.expected if isinstance(source, FileSource) and source.size else None
        rate = None if self._stream is None else self._shared.transfers.rate_of(self._stream)
        return Progress(self._direction, self.moved, expected, rate)

    # --- moving -----------------------------------------------------------------------------------

    async def send(
        self, opening: Opening[Source], opened: Opened[Source], text: bool = False, walk: bool = False
    ) -> int:
        """Send the source that `opening` opens, and return the number of bytes.

        `opening` runs in a worker thread. What it returns is closed in any case. `opened` is called with it in the
        reactor thread, before the first byte is sent. `walk` says that the source goes through directories.
        """
        queue = self._shared.workers.queue(self.owner, "walk" if walk else "command")
        return await self._move(queue, opening, opened, download, "download", text)

    async def receive(self, opening: Opening[Upload], opened: Opened[Upload], text: bool = False) -> int:
        """Receive into what `opening` opens, and return the number of bytes. The upload is published or closed."""
        queue = self._shared.workers.queue(self.owner)
        return await self._move(queue, opening, opened, upload, "upload", text)

    async def digest(self, opening: Opening[Reader], digest: Checksum) -> tuple[int, int]:
        """Read what `opening` opens into a digest. Return the offsets at which the bytes start and end.

        An abort can end it like a transfer.
        """
        owned: list[Closable] = []
        self._direction = "download"
        queue = self._shared.workers.queue(self.owner)
        steps = _open_first(queue, opening, owned, None, partial(checksum, digest=digest))
        return await self._run(queue, steps, None, owned)

    async def _move(
        self,
        queue: JobQueue,
        opening: Opening[E],
        opened: Opened[E],
        move: Move[E],
        direction: Direction,
        text: bool,
    ) -> int:
        """Open a file, get the connection, and move the bytes.

        If there is no connection yet, the 150 is sent before the wait: some clients connect only after it.
        """
        limits = self.rate_limits(direction)
        if limits:
            move = throttled(move, limits, self._shared.reactor.seconds)
        self._moved, self._direction = 0, direction
        connection = self._connector.take() if self._abort_reason is None else None
        if connection is not None:
            stream = _stream_over(connection, direction, self.lenient)
            owned: list[Closable] = [stream]
            reply_first = _needs_reply_first(connection, direction)
            steps = _open_first(queue, opening, owned, opened, partial(move, stream, text), reply_first)
            return await self._run(queue, steps, stream, owned)
        end = await queue.call(opening)
        try:
            if end.pending():
                await self._run(queue, settled(end), None, ())
            opened(end)
            connection = await self._connected()
        except BaseException:
            await queue.close(end.close)
            raise
        stream = _stream_over(connection, direction, self.lenient)
        return await self._run(queue, move(stream, text, end), stream, [end, stream])

    async def _connected(self) -> Connected:
        """Wait for the connection. Raises Refusal after an abort."""
        if self._abort_reason is None:
            return await self._connector.wait()
        self._connector.reset()
        raise self._abort_reason

    async def _run(self, queue: JobQueue, steps: Steps[T], stream: PlainStream | None, owned: Sequence[Closable]) -> T:
        reactor, timeouts = self._shared.reactor, self._shared.timeouts
        transfer = Transfer(reactor, queue, steps, stream, owned)
        self._transfer, self._stream = transfer, stream
        if stream is not None:
            self._shared.transfers.begin(stream, self._direction)
        if self._abort_reason is not None:
            transfer.abort(self._abort_reason)
        deadlines = Deadlines(reactor, transfer, timeouts.data_connect, timeouts.stalled)
        transfer.start()  # last, since from now on two threads compete for Python's lock
        try:
            return await transfer.finished
        finally:
            self._moved = self.moved
            if stream is not None:
                self._shared.transfers.end(stream)
            self._transfer = self._stream = None
            deadlines.stop()

    # --- ending -----------------------------------------------------------------------------------

    def abort(self, reply: Reply) -> None:
        """End the running command's transfer with a reply, whatever its state."""
        self._abort_reason = Refusal(reply.code, *reply.lines)
        if self._transfer is not None:
            self._transfer.abort(self._abort_reason)
        else:
            self._connector.fail(self._abort_reason)

    def _cut_mixed(self) -> None:
        """End what uses a data connection that may be another session's, and keep no byte of it."""
        if self._transfer is not None and self._stream is not None:
            self._stream.is_mixed_up = True
            self._abort_reason = MixedUp()
            self._transfer.abort(self._abort_reason)
        else:
            self._connector.fail(MixedUp())

    def settle(self) -> None:
        """The command has ended: an abort that came too late for it does not end the next command."""
        if self._closed:
            self._connector.reset(last=True)
        else:
            self._abort_reason = None

    def close(self, reply: Reply) -> None:
        """The session has ended. An upload continues while bytes arrive that the client has sent before."""
        self._closed = True
        if self._transfer is not None and self._direction == "upload":
            self._abort_reason = Refusal(reply.code, *reply.lines)
            abort_when_quiet(self._shared.reactor, self._transfer, self._abort_reason)
        else:
            self.abort(reply)
        if self._transfer is None:
            self._connector.reset(last=True)

    def input_ended(self, reply: Reply, expected: bool) -> None:
        """The client has ended its side of the control connection. Unless `expected`, it may have been killed.

        Then the end of its data stream, unless close_notify proves it, would look like the end of the file. So an
        upload must receive more than can have been in flight, or it is aborted.
        """
        self._connector.hurry()
        stream = self._stream
        if stream is not None and self._direction == "upload" and not (expected or stream.proves_end):
            assert self._transfer is not None
            abort_if_quiet(self._shared.reactor, self._transfer, Refusal(reply.code, *reply.lines))


def _needs_reply_first(connection: Connected, direction: Direction) -> bool:
    """Return whether the 150 must be sent before the transfer's first byte, on a connection that is there already.

    Some clients read it before the first byte of a download. During a TLS handshake the client has its part to do
    first, and an upload begins with the client's bytes.
    """
    return direction == "download" and not (isinstance(connection, Handshakes) and not connection.is_open)


def _stream_over(connection: Connected, direction: Direction, lenient: bool) -> PlainStream:
    if not isinstance(connection, Handshakes):
        return PlainStream(connection)
    return TlsReceiver(connection, lenient) if direction == "upload" else TlsSender(connection)


def _open_first(
    queue: JobQueue,
    opening: Opening[E],
    owned: list[Closable],
    opened: Opened[E] | None,
    move: Callable[[E], Steps[T]],
    reply_first: bool = False,
) -> Steps[T]:
    """Return steps that begin with the opening. A job of its own for that costs a small download 10 % more.

    `opened` is called in the reactor thread. With `reply_first` the steps of `move` begin when it has returned.
    """
    try:
        end = opening()
    except Busy as busy:
        end = yield from again(busy.lock, opening)
    owned.insert(0, end)
    if end.pending():
        yield from settled(end)
    if reply_first and opened is not None:
        yield InReactor(partial(opened, end))
    elif opened is not None:
        queue.call_in_reactor(opened, end)
    return (yield from move(end))
