"""One client's data connection: listen or dial, the rule about peers, TLS, deadlines, abort.

The machine: idle -> awaited (a passive port listens) or aimed (PORT, EPRT) -> open -> moving -> idle.
A transfer command may come before or after the client has connected; what arrives before the
command stays in the kernel.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IWriteDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ftpsd import tls
from ftpsd.access import Network
from ftpsd.pacing import paced
from ftpsd.ports import Announcer, Listener, PortPool, is_local
from ftpsd.pump import Closable, Steps, Transfer, Watch, checksum, download, upload
from ftpsd.rates import Bucket
from ftpsd.replies import Refusal, Reply
from ftpsd.session import Digest, Direction
from ftpsd.settings import Timeouts
from ftpsd.streams import PlainStream, TlsReceiver, TlsSender
from ftpsd.wire import Address, Endpoint, socket_address
from ftpsd.workers import Workers

log = Logger(namespace="ftpsd")

#: Seconds for which a passive port is not looked at unless a transfer command comes.
UNWATCHED = 0.05

#: Opens a source or a sink; blocks. And who is told what was opened.
Opening = Callable[[], Any]
Opened = Callable[[Any], None]

#: Tells how the next data connection is protected: a context and a check of the handshake, or None for plain text.
Secure = Callable[[], tuple[SSL.Context, Callable[[SSL.Connection], None]] | None]


@implementer(IWriteDescriptor)
class Dialer:
    """A connection that we open (PORT, EPRT): `done` gets the socket, or the Refusal."""

    def __init__(
        self,
        reactor: Any,
        source: Endpoint,
        target: Endpoint,
        done: Callable[[socket.socket | Refusal], None],
    ) -> None:
        family = socket.AF_INET if target.address.version == 4 else socket.AF_INET6
        self._reactor = reactor
        self._done: Callable[[socket.socket | Refusal], None] | None = done
        self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(socket_address(source.address, source.port))
            problem = self._socket.connect_ex(socket_address(target.address, target.port))
        except OSError as error:
            problem = error.errno or errno.EIO
        if problem == errno.EINPROGRESS:
            reactor.addWriter(self)
        else:
            self._end(problem)

    def doWrite(self) -> None:
        """The connection stands, or has failed."""
        self._reactor.removeWriter(self)
        self._end(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def _end(self, problem: int) -> None:
        done, self._done = self._done, None
        if done is None:
            return
        if problem:
            self._socket.close()
            done(Refusal(425, f"The data connection cannot be opened: {os.strerror(problem)}."))
        else:
            done(self._socket)

    def close(self) -> None:
        """Gives up."""
        if self._done is not None:
            self._done = None
            self._reactor.removeWriter(self)
            self._socket.close()

    def fileno(self) -> int:
        """The socket, for the reactor's poll."""
        return self._socket.fileno()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor gives up on the socket."""
        problem = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._end(problem or errno.ECONNABORTED)

    def logPrefix(self) -> str:
        """For the reactor's log."""
        return "active connection"


class Surroundings:
    """What all data connections of a server share."""

    def __init__(
        self,
        reactor: Any,
        workers: Workers,
        pool: PortPool,
        announcer: Announcer,
        timeouts: Timeouts,
        source_port: int | None,
        foreign: tuple[Network, ...],
        control_ports: Callable[[], set[int]],
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
        self._client = client
        self._server = server
        self._secure = secure
        self._label = label
        self._listener: Listener | None = None
        self._target: Endpoint | None = None
        self._dialer: Dialer | None = None
        self._socket: socket.socket | None = None
        self._limit: Any = None
        self._awaited: Deferred[socket.socket] | None = None
        self._transfer: Transfer | None = None
        self._stream: PlainStream | None = None
        #: The token buckets that limit transfers in one direction: none before the login.
        self.buckets: Callable[[Direction], Sequence[Bucket]] = lambda _: ()
        #: Whether an upload is complete without TLS close_notify; the login sets it.
        self.lenient = False
        self._moved = 0
        self._receiving = False
        #: Why the command that runs must not begin to move anything.
        self._stop: Refusal | None = None
        self._closed = False

    # --- preparing --------------------------------------------------------------------------------

    @property
    def prepared(self) -> bool:
        """Whether a transfer command may come."""
        return bool(self._listener or self._target or self._socket)

    @property
    def moved(self) -> int:
        """Bytes that the transfer has moved so far, or that the last one had in the end."""
        return self._stream.moved if self._stream is not None else self._moved

    def passive(self, announce: bool) -> Endpoint:
        """Listens; the endpoint to tell the client, with the NAT address if `announce`."""
        self.reset()
        shared, told = self._shared, self._server
        if announce:
            told = shared.announcer.announce(self._client, self._server)
        # Behind NAT, or told another address of this machine, any of its addresses may be reached.
        host = self._server if told == self._server else ipaddress.IPv4Address(0)
        self._listener = Listener(
            shared.reactor,
            shared.pool,
            host,
            self._may_connect,
            self._arrived,
            self._stranger,
        )
        self._limit = shared.reactor.callLater(UNWATCHED, self._watch)
        return Endpoint(told, self._listener.port)

    def _watch(self) -> None:
        """No transfer command came at once: whoever connects is looked at now, strangers are sent away."""
        if self._listener is not None:
            self._listener.watch()
        self._limit = self._shared.reactor.callLater(self._shared.timeouts.data_connect, self._too_late)

    def _may_connect(self, peer: Address) -> bool:
        return peer == self._client or any(peer in network for network in self._shared.foreign)

    def is_own(self, target: Endpoint) -> bool:
        """Whether a connection to an endpoint would reach the daemon's own control port."""
        shared = self._shared
        if target.port not in shared.control_ports():
            return False
        return is_local(target.address) or target.address in shared.announcer.announced

    def active(self, target: Endpoint) -> None:
        """Dials that endpoint when a transfer command comes."""
        self.reset()
        self._target = target

    def _arrived(self, connection: socket.socket) -> None:
        self._listener = None
        self._stop_limit()
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        awaited, self._awaited = self._awaited, None
        if awaited is not None:
            awaited.callback(connection)
        else:
            self._socket = connection

    def _stranger(self, peer: Address) -> None:
        log.warn(
            "{label} a data connection from {peer} was refused: the client is elsewhere",
            label=self._label(),
            peer=str(peer),
        )

    def _too_late(self) -> None:
        self._fail(Refusal(425, "Nobody connected to the passive port in time."))

    def _dialled(self, result: socket.socket | Refusal) -> None:
        self._dialer = None
        if isinstance(result, Refusal):
            self._fail(result)
        else:
            self._arrived(result)

    def _fail(self, refusal: Refusal) -> None:
        awaited, self._awaited = self._awaited, None
        self.reset()
        if awaited is not None:
            awaited.errback(refusal)

    def _connect(self, connection: socket.socket | None) -> Deferred[socket.socket]:
        result: Deferred[socket.socket] = Deferred()
        connection = connection or self._socket
        self._socket = None
        if self._stop is not None:
            if connection is not None:
                connection.close()
            self.reset()
            result.errback(self._stop)
            return result
        if connection is not None:
            result.callback(connection)
            return result
        self._awaited = result
        if self._target is not None:
            target, self._target = self._target, None
            shared = self._shared
            self._limit = shared.reactor.callLater(shared.timeouts.data_connect, self._too_late)
            source = self._server
            if target.address.version != source.version:
                source = ipaddress.IPv4Address(0) if target.address.version == 4 else ipaddress.IPv6Address(0)
            # Not before the caller has the Deferred: a dial can fail at once.
            shared.reactor.callLater(0, self._dial, Endpoint(source, shared.source_port), target)
        elif self._listener is not None:
            self._listener.watch()
        else:
            self._fail(Refusal(425, "The data connection is gone: send EPSV or PASV again."))
        return result

    def _dial(self, source: Endpoint, target: Endpoint) -> None:
        if self._awaited is not None:
            try:
                self._dialer = Dialer(self._shared.reactor, source, target, self._dialled)
            except OSError as error:  # no descriptor is left for a socket
                self._fail(Refusal(425, f"The data connection cannot be opened: {error.strerror}."))

    # --- moving -----------------------------------------------------------------------------------

    async def send(self, opening: Opening, opened: Opened, text: bool = False) -> int:
        """Sends what `opening` opens; the bytes sent.

        `opening` runs in a worker thread, and what it returns is closed in the end whatever happens;
        `opened` is called with that, in the reactor thread, before the first byte goes.
        """
        return await self._move(opening, opened, download, False, text)

    async def receive(self, opening: Opening, opened: Opened, text: bool = False) -> int:
        """Receives into what `opening` opens, which is published or closed; the bytes received."""
        return await self._move(opening, opened, upload, True, text)

    async def digest(self, opening: Opening, digest: Digest) -> tuple[int, int]:
        """Reads what `opening` opens into a digest, where ABOR can end it; where in the file that starts and ends."""
        owned: list[Closable] = []
        self._receiving = False
        steps = _opened_first(opening, owned.append, lambda end: checksum(end, digest))
        start, end = await self._run(steps, None, owned)
        return start, end

    async def _move(
        self, opening: Opening, opened: Opened, move: Callable[..., Steps], receiving: bool, text: bool
    ) -> int:
        buckets = self.buckets("upload" if receiving else "download")
        if buckets:
            move = paced(move, buckets, self._shared.reactor.seconds)
        self._moved, self._receiving = 0, receiving
        workers = self._shared.workers
        if self._listener is not None:
            self._listener.doRead()  # most clients have connected before they send the command
        plain = self._secure() is None
        connection, self._socket = self._socket, None
        if connection is None or self._stop is not None or (plain and not receiving):
            # Some clients connect after the 150 only, and some read it before the first byte of a plain download.
            # Under TLS that byte comes after the client's part of the handshake, and one hand-over is saved.
            end = await self._opened(opening, connection)
            try:
                opened(end)
                connection = await self._connect(connection)
            except BaseException:
                await workers.call(end.close)
                raise
            stream = self._secured(connection, receiving)
            return int(await self._run(move(stream, end, text), stream, [end, stream]))
        stream = self._secured(connection, receiving)
        owned: list[Closable] = [stream]

        def note(end: Any) -> None:
            owned.insert(0, end)
            workers.answer(opened, end)

        steps = _opened_first(opening, note, lambda end: move(stream, end, text))
        return int(await self._run(steps, stream, owned))

    async def _opened(self, opening: Opening, connection: socket.socket | None) -> Any:
        """What `opening` opens; a connection that has no use without it is closed."""
        try:
            return await self._shared.workers.call(opening)
        except BaseException:
            if connection is not None:
                connection.close()
            raise

    def _secured(self, connection: socket.socket, receiving: bool) -> PlainStream:
        secure = self._secure()
        if secure is None:
            return PlainStream(connection)
        if receiving:
            return TlsReceiver(connection, *secure, self.lenient)
        return TlsSender(connection, *secure)

    async def _run(self, steps: Steps, stream: PlainStream | None, owned: Sequence[Closable]) -> Any:
        shared, timeouts = self._shared, self._shared.timeouts
        transfer = Transfer(shared.reactor, shared.workers, steps, stream, owned)
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
            self._fail(self._stop)

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

    def reset(self) -> None:
        """Forgets what was prepared. A transfer that runs goes on."""
        self._stop_limit()
        self._target = None
        for holder in (self._listener, self._dialer, self._socket):
            if holder is not None:
                holder.close()
        self._listener = self._dialer = self._socket = None

    def _stop_limit(self) -> None:
        if self._limit is not None and self._limit.active():
            self._limit.cancel()
        self._limit = None


def _opened_first(opening: Opening, note: Callable[[Any], object], move: Callable[[Any], Steps]) -> Steps:
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
