"""The transfers of one session: their data connections, deadlines, abort."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from OpenSSL import SSL

from ftpsd.config.settings import Timeouts
from ftpsd.data.connect import Connected, Connector, Secure
from ftpsd.data.handshakes import Contest
from ftpsd.data.passive_ports import Announcer, PortPool
from ftpsd.data.streams import PlainStream, TlsReceiver, TlsSender
from ftpsd.data.throttle import paced
from ftpsd.data.transfer import Closable, Steps, Transfer, Watch, checksum, download, upload
from ftpsd.protocol.checksums import Digest
from ftpsd.protocol.interfaces import Direction, Opened, Opening, Progress, Reader, Source, TokenBucket, Upload
from ftpsd.protocol.login_rules import Network
from ftpsd.protocol.parsing import Address, network
from ftpsd.protocol.replies import Refusal, Reply
from ftpsd.system import tls
from ftpsd.system.reactor import Reactor
from ftpsd.system.worker_threads import JobQueue, Workers

End = TypeVar("End", bound=Closable)


class Surroundings:
    """What all data connections of a server share."""

    def __init__(
        self,
        reactor: Reactor,
        workers: Workers,
        pool: PortPool,
        announcer: Announcer,
        timeouts: Timeouts,
        source_port: int | None,
        foreign: tuple[Network, ...],
        control_ports: Callable[[], set[int]],
        admits_line: Callable[[str], bool] = lambda network: True,
    ) -> None:
        self.reactor = reactor
        self.workers = workers
        self.pool = pool
        self.announcer = announcer
        self.timeouts = timeouts
        self.source_port = source_port or 0
        self.foreign = foreign
        #: The numbers of the control ports that are open now, whatever configuration a session has.
        self.control_ports = control_ports
        #: Whether the log has room for a line about a stranger from that network.
        self.admits_line = admits_line

    def channel(self, client: Address, server: Address, secure: Secure, label: Callable[[], str]) -> DataChannel:
        """Return the data connections of a new session."""
        return DataChannel(self, client, server, secure, label)


class DataChannel:
    """The data connections of one session, one at a time. `secure` tells how the next one is to be
    protected: a context and a check of its handshake, or None for plain text."""

    def __init__(
        self,
        shared: Surroundings,
        client: Address,
        server: Address,
        secure: Secure,
        label: Callable[[], str],
    ) -> None:
        self._shared = shared
        self._connector = connector = Connector(shared, client, server, secure, label, lambda: self.owner)
        self.passive, self.active, self.is_own = connector.passive, connector.active, connector.is_own
        #: Forgets what was prepared. A transfer that runs goes on.
        self.reset = connector.reset
        self._transfer: Transfer | None = None
        self._stream: PlainStream | None = None
        #: Whose jobs transfers are, to the worker threads: the user's, once one has logged in.
        self.owner = network(client)
        #: The token buckets that limit transfers in one direction: none before the login.
        self.buckets: Callable[[Direction], Sequence[TokenBucket]] = lambda _: ()
        #: Whether an upload is complete without TLS close_notify; the login sets it.
        self.lenient = False
        self._moved = 0
        self._receiving = False
        #: Why the command that runs must not begin to move anything.
        self._stop: Refusal | None = None
        self._closed = False

    @property
    def prepared(self) -> bool:
        """Whether a transfer command may come."""
        return self._connector.prepared

    @property
    def moved(self) -> int:
        """Bytes that the transfer has moved so far, or that the last one had in the end."""
        return self._stream.moved if self._stream is not None else self._moved

    def progress(self) -> Progress | None:
        """Return how far the transfer is that runs; None while none runs."""
        if self._transfer is None:
            return None
        return Progress("upload" if self._receiving else "download", self.moved, self._transfer.expected_size)

    # --- moving -----------------------------------------------------------------------------------

    async def send(
        self, opening: Opening[Source], opened: Opened[Source], text: bool = False, walk: bool = False
    ) -> int:
        """Sends what `opening` opens; the bytes sent.

        `opening` runs in a worker thread, and what it returns is closed in the end whatever happens;
        `opened` is called with that, in the reactor thread, before the first byte goes. With `walk` it goes through
        directories.
        """
        queue = self._shared.workers.queue(self.owner, "walk" if walk else "command")
        return await self._move(queue, opening, opened, download, False, text)

    async def receive(self, opening: Opening[Upload], opened: Opened[Upload], text: bool = False) -> int:
        """Receives into what `opening` opens, which is published or closed; the bytes received."""
        queue = self._shared.workers.queue(self.owner)
        return await self._move(queue, opening, opened, upload, True, text)

    async def digest(self, opening: Opening[Reader], digest: Digest) -> tuple[int, int]:
        """Reads what `opening` opens into a digest, where ABOR can end it; where in the file that starts and ends."""
        owned: list[Closable] = []
        self._receiving = False
        steps = _opened_first(opening, owned.append, lambda end: checksum(end, digest))
        start, end = await self._run(self._shared.workers.queue(self.owner), steps, None, owned)
        return start, end

    async def _move(
        self,
        queue: JobQueue,
        opening: Opening[End],
        opened: Opened[End],
        move: Callable[[Any, End, bool], Steps],
        receiving: bool,
        text: bool,
    ) -> int:
        buckets = self.buckets("upload" if receiving else "download")
        if buckets:
            move = paced(move, buckets, self._shared.reactor.seconds)
        self._moved, self._receiving = 0, receiving
        connection = self._connector.take() if self._stop is None else None
        if connection is None or (not receiving and _may_send(connection)):
            # Some clients connect after the 150 only, and some read it before the first byte of a download. Where
            # that byte comes after the client's part of a handshake, one hand-over is saved.
            end = await self._open(queue, opening, connection)
            try:
                opened(end)
                connection = await self._connected(connection)
            except BaseException:
                await queue.call(end.close)
                raise
            stream = self._stream_over(connection, receiving)
            return int(await self._run(queue, move(stream, end, text), stream, [end, stream]))
        stream = self._stream_over(connection, receiving)
        owned: list[Closable] = [stream]

        def note(end: End) -> None:
            owned.insert(0, end)
            queue.answer(opened, end)

        steps = _opened_first(opening, note, lambda end: move(stream, end, text))
        return int(await self._run(queue, steps, stream, owned))

    async def _open(self, queue: JobQueue, opening: Opening[End], connection: Connected | None) -> End:
        """What `opening` opens; a connection that has no use without it is closed."""
        try:
            return await queue.call(opening)
        except BaseException:
            if connection is not None:
                connection.close()
            raise

    async def _connected(self, connection: Connected | None) -> Connected:
        """The connection, waited for if it is not there yet, unless the command has been aborted meanwhile."""
        if self._stop is None:
            return connection or await self._connector.wait()
        if connection is not None:
            connection.close()
        self._connector.reset()
        raise self._stop

    def _stream_over(self, connection: Connected, receiving: bool) -> PlainStream:
        if not isinstance(connection, Contest):
            return PlainStream(connection)
        if receiving:
            return TlsReceiver(connection, self.lenient)
        return TlsSender(connection)

    async def _run(self, queue: JobQueue, steps: Steps, stream: PlainStream | None, owned: Sequence[Closable]) -> Any:
        shared, timeouts = self._shared, self._shared.timeouts
        transfer = Transfer(shared.reactor, queue, steps, stream, owned)
        self._transfer, self._stream = transfer, stream
        if self._stop is not None:
            transfer.abort(self._stop)
        watch = Watch(shared.reactor, transfer, timeouts.data_connect, timeouts.stalled)
        transfer.start()  # last, since from now on two threads want Python's lock
        try:
            return await transfer.finished
        finally:
            self._moved = self.moved
            self._transfer = self._stream = None
            watch.stop()

    # --- ending -----------------------------------------------------------------------------------

    def abort(self, reply: Reply) -> None:
        """Ends the transfer that waits, moves or is about to, with that reply."""
        self._stop = Refusal(reply.code, *reply.lines)
        if self._transfer is not None:
            self._transfer.abort(self._stop)
        else:
            self._connector.fail(self._stop)

    def settle(self) -> None:
        """The command is over: an abort that was meant for it does not meet the next one."""
        if not self._closed:
            self._stop = None

    def close(self, reply: Reply) -> None:
        """The session is over. An upload goes on as long as bytes arrive that the client has sent before."""
        self._closed = True
        if self._transfer is not None and self._receiving:
            self._stop = Refusal(reply.code, *reply.lines)
            self._transfer.leave(self._stop)
        else:
            self.abort(reply)

    def input_ended(self, reply: Reply, expected: bool) -> None:
        """The client has ended its side of the control connection. Unless that was expected, perhaps it was killed.

        Without the proof of close_notify, the end of its data stream would look like the end of the file then. So
        an upload must keep bytes coming until more have come than can have been on their way.
        """
        self._connector.hurry()
        stream = self._stream
        if stream is not None and self._receiving and not (expected or stream.proves_end):
            assert self._transfer is not None
            self._transfer.doubt(Refusal(reply.code, *reply.lines))


def _may_send(connection: Connected) -> bool:
    """Whether bytes could go to the client at once."""
    return not isinstance(connection, Contest) or connection.opened


def _opened_first(opening: Opening[End], note: Callable[[End], object], move: Callable[[End], Steps]) -> Steps:
    """Steps that begin with the opening: one hand-over to a thread for both."""
    end = opening()
    note(end)
    return (yield from move(end))


def require_resumption(connection: SSL.Connection) -> None:
    """The check of `data_session: require`. A ticket of another control connection does not resume."""
    if not tls.resumed(connection):
        raise Refusal(
            522,
            "The data connection must resume the TLS session of its control connection. "
            "(data_session: allow, for all or for a user, lets clients in that cannot.)",
        )


def accept_any(_: SSL.Connection) -> None:
    """The check of `data_session: allow` and `off`."""
