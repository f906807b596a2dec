"""How the data connection of a session comes about: a passive port that listens, or an endpoint to dial.

The machine: idle -> listening (a passive port) or aimed (PORT, EPRT) -> connected -> taken by a transfer -> idle.
A transfer command may come before or after the client has connected; what arrives before the command stays in the
kernel. Only a TLS handshake that the client begins is answered before it.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ftpsd.data.dial import Dialer
from ftpsd.data.handshakes import Check, Contest, cut
from ftpsd.data.passive_ports import Listener, data_socket, is_local
from ftpsd.data.transfer import Transfer
from ftpsd.protocol.parsing import Address, Endpoint, network
from ftpsd.protocol.replies import Refusal
from ftpsd.system.reactor import DelayedCall, Reactor

if TYPE_CHECKING:
    from ftpsd.data.channel import Surroundings

log = Logger(namespace="ftpsd")

#: Seconds for which a passive port is not looked at unless a transfer command comes.
UNWATCHED = 0.05

#: Seconds for a data connection to come when the client has ended its input: most that do so are gone.
LAST_CONNECT = 5

#: A connection that a transfer may use: in plain text, or with TLS whose handshake is still to come, or done.
Connected = socket.socket | Contest

#: Tells how the next data connection is protected: a context and a check of its handshake, or None for plain text.
Secure = Callable[[], tuple[SSL.Context, Check] | None]

_GONE = Refusal(425, "The data connection is gone: send EPSV or PASV again.")


@implementer(IReadDescriptor)
class Ear:
    """Calls `heard` once when a connection has something to read, until `close`."""

    def __init__(self, reactor: Reactor, connection: socket.socket, heard: Callable[[], None]) -> None:
        self._reactor = reactor
        self._connection = connection
        self._heard = heard
        reactor.addReader(self)

    def doRead(self) -> None:
        """It has."""
        self._heard()

    def close(self) -> None:
        """The reactor looks no more."""
        self._reactor.removeReader(self)

    def fileno(self) -> int:
        """The socket, for the reactor's poll."""
        return self._connection.fileno()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor gives up on the socket: whoever uses it finds out why."""
        self._heard()

    def logPrefix(self) -> str:
        """For the reactor's log."""
        return "data connection"


class Connector:
    """The data connection of one session, until a transfer takes it. `label` names the session in the log."""

    def __init__(
        self,
        shared: Surroundings,
        client: Address,
        server: Address,
        secure: Secure,
        label: Callable[[], str],
        owner: Callable[[], str],
    ) -> None:
        self._shared = shared
        self._client = client
        self._server = server
        self._secure = secure
        self._label = label
        #: Whose jobs handshakes are, to the worker threads.
        self._owner = owner
        self._listener: Listener | None = None
        self._target: Endpoint | None = None
        self._dialer: Dialer | None = None
        self._first: socket.socket | None = None
        self._ear: Ear | None = None
        self._contest: Contest | None = None
        self._handshakes: Transfer | None = None
        self._limit: DelayedCall | None = None
        self._awaited: Deferred[Connected] | None = None
        #: Whether the client begins TLS before it sends a transfer command, as aioftp and old Go programs do.
        self._begins_tls = False

    @property
    def prepared(self) -> bool:
        """Whether a transfer command may come."""
        return bool(self._listener or self._target or self._first or self._contest)

    # --- a passive port, or an endpoint -----------------------------------------------------------

    def passive(self, announce: bool) -> Endpoint:
        """Listens; the endpoint to tell the client, with the NAT address if `announce`."""
        self.reset()
        shared, told = self._shared, self._server
        if announce:
            told = shared.announcer.announce(self._client, self._server)
        # Behind NAT, or told another address of this machine, any of its addresses may be reached.
        host = self._server if told == self._server else ipaddress.IPv4Address(0)
        self._listener = Listener(shared.reactor, shared.pool, host, self._may_connect, self._ready, self._stranger)
        if self._begins_tls:
            self._watch()
        else:
            self._limit = shared.reactor.callLater(UNWATCHED, self._watch)
        return Endpoint(told, self._listener.port)

    def active(self, target: Endpoint) -> None:
        """Dials that endpoint when a transfer command comes."""
        self.reset()
        self._target = target

    def is_own(self, target: Endpoint) -> bool:
        """Whether a connection to an endpoint would reach the daemon's own control port."""
        shared = self._shared
        if target.port not in shared.control_ports():
            return False
        return is_local(target.address) or target.address in shared.announcer.announced

    def _may_connect(self, peer: Address) -> bool:
        return peer == self._client or any(peer in each for each in self._shared.foreign)

    def _stranger(self, peer: Address) -> None:
        self._shared.workers.answer(self._log_stranger, peer)  # a worker thread may have accepted it

    def _log_stranger(self, peer: Address) -> None:
        if not self._shared.admits_line(network(peer)):
            return
        log.warn(
            "{label} a data connection from {peer} was refused: the client is elsewhere",
            label=self._label(),
            peer=str(peer),
        )

    def _watch(self) -> None:
        """No transfer command came at once: whoever connects is looked at now, strangers are sent away."""
        if self._listener is not None:
            self._listener.watch()
        self._limit = self._shared.reactor.callLater(self._shared.timeouts.data_connect, self._too_late)

    def _too_late(self) -> None:
        if self._awaited is None and (self._first or self._contest):
            # The client has connected, and may send its command whenever it likes; the port is for others.
            if self._listener is not None:
                self._listener.close()
                self._listener = None
        elif self._contest is not None:
            self._fail(Refusal(522, "The TLS handshake of the data connection took too long."))
        else:
            self._fail(Refusal(425, "Nobody connected to the passive port in time."))

    # --- somebody connects --------------------------------------------------------------------------

    def _ready(self) -> None:
        """Somebody connects to the port, and the reactor has seen it."""
        if self._listener is None:
            return
        if self._first is not None:
            self._shake_hands()  # a second one: only one of them is the client's
        elif connection := self._listener.accept():
            self._arrived(connection)

    def _arrived(self, connection: socket.socket) -> None:
        self._first = connection
        if self._awaited is not None:
            self._deliver()
        elif self._listener is not None and self._secure() is not None:
            self._ear = Ear(self._shared.reactor, connection, self._shake_hands)
        elif self._listener is not None:
            self._listener.unwatch()

    def _dialled(self, result: socket.socket | Refusal) -> None:
        self._dialer = None
        if isinstance(result, Refusal):
            self._fail(result)
        else:
            self._arrived(data_socket(result))

    def _shake_hands(self) -> None:
        """Begins with TLS before there is a transfer command."""
        secure = self._secure()
        if secure is None or self._first is None:
            self._unwatch()
            return
        contest = self._contest = self._make_contest(secure, urgent=False)
        shared = self._shared
        queue = shared.workers.queue(self._owner())
        self._handshakes = Transfer(shared.reactor, queue, contest.steps(), contest, ())
        self._handshakes.finished.addCallbacks(self._shook_hands, self._failed_to, (contest,), errbackArgs=(contest,))
        self._handshakes.start()

    def _make_contest(self, secure: tuple[SSL.Context, Check], urgent: bool) -> Contest:
        """The handshakes own the port and the first connection from now on."""
        self._unwatch()
        first, listener = self._first, self._listener
        assert first is not None
        self._first = self._listener = None
        return Contest(first, listener, *secure, urgent=urgent)

    def _shook_hands(self, _: object, contest: Contest) -> None:
        if self._contest is not contest:
            contest.close()  # the session was over, or wanted another connection
            return
        self._handshakes = None
        self._begins_tls = True
        if self._awaited is not None:
            self._deliver()

    def _failed_to(self, failure: Failure, contest: Contest) -> None:
        contest.close()
        if self._contest is contest:
            self._handshakes = None
            if self._awaited is not None:
                self._contest = None
                self._fail(failure.value if isinstance(failure.value, Refusal) else _GONE)

    # --- a transfer takes it ------------------------------------------------------------------------

    def take(self) -> Connected | None:
        """Return the connection if it is there already: most clients have connected before they send the command."""
        if self._first is None and self._listener is not None:
            self._first = self._listener.accept()
        if self._handshakes is not None or not (self._first or self._contest):
            return None
        return self._take()

    def wait(self) -> Deferred[Connected]:
        """Return the connection when it is there; Refusal if it does not come in time."""
        result = self._awaited = Deferred()
        shared = self._shared
        if self._first is not None or (self._contest is not None and self._handshakes is None):
            self._deliver()
        elif self._contest is not None and self._handshakes is not None:
            self._stop_limit()
            self._limit = shared.reactor.callLater(shared.timeouts.data_connect, self._too_late)
            self._contest.urgent = True
            self._handshakes.wake()
        elif self._target is not None:
            target, self._target = self._target, None
            self._limit = shared.reactor.callLater(shared.timeouts.data_connect, self._too_late)
            source = self._server
            if target.address.version != source.version:
                source = ipaddress.IPv4Address(0) if target.address.version == 4 else ipaddress.IPv6Address(0)
            # Not before the caller has the Deferred: a dial can fail at once.
            shared.reactor.callLater(0, self._dial, Endpoint(source, shared.source_port), target)
        elif self._listener is not None:
            self._listener.watch()
        else:
            self._fail(_GONE)
        return result

    def _dial(self, source: Endpoint, target: Endpoint) -> None:
        if self._awaited is not None:
            try:
                self._dialer = Dialer(self._shared.reactor, source, target, self._dialled)
            except OSError as error:  # no descriptor is left for a socket
                self._fail(Refusal(425, f"The data connection cannot be opened: {error.strerror}."))

    def _deliver(self) -> None:
        awaited, self._awaited = self._awaited, None
        assert awaited is not None
        try:
            connection = self._take()
        except Refusal as refusal:
            self.reset()
            awaited.errback(refusal)
        else:
            awaited.callback(connection)

    def _take(self) -> Connected:
        self._stop_limit()
        secure = self._secure()
        contest, self._contest = self._contest, None
        if contest is not None:
            if secure is None or contest.winner is None:
                contest.close()
                raise _GONE  # PROT C was sent since, or the handshake has failed
            return contest
        if secure is not None:
            return self._make_contest(secure, urgent=True)
        self._unwatch()
        first, listener = self._first, self._listener
        assert first is not None
        self._first = self._listener = None
        return _present(first, listener) if listener is not None else first

    # --- the end --------------------------------------------------------------------------------------

    def hurry(self) -> None:
        """Waits for the client no longer than for one that may be gone."""
        if self._awaited is not None:
            self._stop_limit()
            patience = min(LAST_CONNECT, self._shared.timeouts.data_connect)
            self._limit = self._shared.reactor.callLater(patience, self._too_late)

    def fail(self, refusal: Refusal) -> None:
        """Ends the wait of a transfer, if there is one, and forgets what was prepared."""
        self._fail(refusal)

    def _fail(self, refusal: Refusal) -> None:
        awaited, self._awaited = self._awaited, None
        self.reset()
        if awaited is not None:
            awaited.errback(refusal)

    def reset(self) -> None:
        """Forgets what was prepared."""
        self._stop_limit()
        self._unwatch()
        self._target = None
        for holder in (self._listener, self._dialer, self._first):
            if holder is not None:
                holder.close()
        self._listener = self._dialer = self._first = None
        contest, self._contest = self._contest, None
        handshakes, self._handshakes = self._handshakes, None
        if handshakes is not None:
            handshakes.abort(_GONE)  # which closes them
        elif contest is not None:
            contest.close()

    def _unwatch(self) -> None:
        if self._listener is not None:
            self._listener.unwatch()
        ear, self._ear = self._ear, None
        if ear is not None:
            ear.close()

    def _stop_limit(self) -> None:
        if self._limit is not None and self._limit.active():
            self._limit.cancel()
        self._limit = None


def _present(first: socket.socket, listener: Listener) -> socket.socket:
    """Closes a port, and returns the first of its connections that has not ended already, or else the last one.

    In plain text nothing else tells the client from another process on its host. Raises Refusal if all were reset.
    """
    while (ended := _end_of(first)) is not None and (other := listener.accept()) is not None:
        first.close()
        first = other
    listener.close()
    if isinstance(ended, OSError):
        first.close()
        raise cut(ended)
    return first


def _end_of(connection: socket.socket) -> OSError | Literal["FIN"] | None:
    """How a connection has ended before its first byte, as an empty upload does, too; None if it has not.

    An error is told once by the kernel: who asks later sees the end of the stream.
    """
    try:
        return None if connection.recv(1, socket.MSG_PEEK) else "FIN"
    except BlockingIOError:
        return None
    except OSError as error:
        return error
