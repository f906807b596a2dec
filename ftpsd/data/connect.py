"""Makes the data connection of a session: listens on a passive port, or dials the client."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import Literal

from twisted.internet.defer import Deferred

from ftpsd.data.dial import Dialer
from ftpsd.data.early_tls import EarlyHandshakes, InputWatch
from ftpsd.data.handshakes import Handshakes, broken
from ftpsd.data.nat import is_local
from ftpsd.data.passive_ports import Listener, data_socket
from ftpsd.data.shared import GONE, Protection, Shared
from ftpsd.protocol.interfaces import Events
from ftpsd.protocol.parsing import Address, Endpoint
from ftpsd.protocol.replies import Refusal
from ftpsd.system.reactor import DelayedCall

#: Seconds for which the reactor does not watch a passive port: most transfer commands come earlier, and accept then.
UNWATCHED = 0.05

#: Seconds for a data connection to arrive when the client has ended its control connection. Most such clients are gone.
LAST_CONNECT = 5

#: A connection that a transfer can use: in plain text, or with TLS, whose handshake may not have begun.
Connected = socket.socket | Handshakes

#: The addresses that stand for any address of this machine, by IP version.
_ANY: dict[int, Address] = {4: ipaddress.IPv4Address(0), 6: ipaddress.IPv6Address(0)}


class ClientPeers:
    """Admits the session's client and `foreign_data` to its passive ports (see `passive_ports.Peers`)."""

    def __init__(self, shared: Shared, client: Address, events: Events) -> None:
        self._shared = shared
        self._client = client
        self._events = events

    def admits(self, peer: Address) -> bool:
        """Return whether a host may connect."""
        return peer == self._client or any(peer in each for each in self._shared.foreign_networks)

    def refused(self, peer: Address) -> None:
        """Report a connection that was closed. May be called in a worker thread."""
        self._shared.workers.call_in_reactor(self._events.data_connection_refused, peer)


class Connector:
    """The data connection of one session, until a transfer takes it.

        idle        nothing is prepared
        listening   `_listener`: PASV, EPSV
        targeted    `_target`: PORT, EPRT; nothing is dialled before the transfer command
        dialling    `_dialer`
        connected   `_connection`, and `_listener` if it is passive: other connections may follow the first
        early TLS   `_early`: the client has begun TLS before its transfer command

        from        event                                           to
        any         passive                                         listening
        any         active                                          targeted
        listening   a connection arrives                            connected
        connected   the client sends its first TLS bytes, or
                    another connection arrives                      early TLS
        targeted    wait                                            dialling
        dialling    the connection is open                          connected
        connected   take, wait                                      idle; the transfer has the connection
        early TLS   take, wait, when a handshake is accepted        idle; the transfer has the connection
        any         reset, fail, or a deadline while `wait` waits   idle

    The bytes that a client sends before the transfer command stay in the kernel, those of a TLS handshake excepted.

    `client` and `server` are the addresses of the control connection. Refused connections are published to `events`.
    `owner` returns the owner of the jobs in worker threads.
    """

    def __init__(
        self,
        shared: Shared,
        client: Address,
        server: Address,
        protection: Protection,
        events: Events,
        owner: Callable[[], str],
    ) -> None:
        self._shared = shared
        self._client = client
        self._server = server
        self._protection = protection
        self._owner = owner
        self._peers = ClientPeers(shared, client, events)
        self._listener: Listener | None = None
        self._target: Endpoint | None = None
        self._dialer: Dialer | None = None
        self._connection: socket.socket | None = None
        #: Waits for the first bytes on the connection.
        self._input: InputWatch | None = None
        self._early: EarlyHandshakes | None = None
        #: The next deadline.
        self._deadline: DelayedCall | None = None
        #: What `wait` has returned, until it fires.
        self._awaited: Deferred[Connected] | None = None
        #: Whether this client has begun TLS early before. Then the port is watched immediately.
        self._begins_tls = False

    @property
    def prepared(self) -> bool:
        """Whether a transfer command can be served."""
        return bool(self._listener or self._target or self._connection or self._early)

    # --- a passive port, or an endpoint -----------------------------------------------------------

    def passive(self, announce: bool) -> Endpoint:
        """Listen, and return the endpoint for the reply; with `announce`, its address is that of the NAT."""
        self.reset()
        shared, address = self._shared, self._server
        if announce:
            address = shared.announcer.announce(self._client, self._server)
        # If another address is announced, the client may reach any address of this machine.
        host = self._server if address == self._server else _ANY[4]
        self._listener = Listener(shared.reactor, shared.ports, host, self._peers, self._ready)
        if self._begins_tls:
            self._watch()
        else:
            self._deadline = shared.reactor.callLater(UNWATCHED, self._watch)
        return Endpoint(address, self._listener.port)

    def active(self, target: Endpoint) -> None:
        """Dial an endpoint when a transfer command comes."""
        self.reset()
        self._target = target

    def is_own(self, target: Endpoint) -> bool:
        """Return whether a connection to an endpoint would reach the daemon's own control port."""
        if target.port not in self._shared.control_ports():
            return False
        return is_local(target.address) or target.address in self._shared.announcer.announced

    def _watch(self) -> None:
        """Let the reactor watch the port: no transfer command came at once. Connections of strangers are closed."""
        if self._listener is not None:
            self._listener.watch()
        self._deadline = self._shared.reactor.callLater(self._shared.timeouts.data_connect, self._too_late)

    def _too_late(self) -> None:
        if self._awaited is None and (self._connection or self._early):
            # The client has connected, and may send its command at any time; others can use the port.
            if self._listener is not None:
                self._listener.close()
                self._listener = None
        elif self._early is not None:
            self.fail(Refusal(522, "TLS handshake on the data connection took too long."))
        else:
            self.fail(Refusal(425, "No connection arrived at the passive port in time."))

    # --- a connection arrives ---------------------------------------------------------------------

    def _ready(self) -> None:
        """The reactor has seen a connection to the port."""
        if self._listener is None:
            return
        if self._connection is not None:
            self._begin_tls()  # a second connection: only one of them is the client's
        elif connection := self._listener.accept():
            self._arrived(connection)

    def _arrived(self, connection: socket.socket) -> None:
        self._connection = connection
        if self._awaited is not None:
            self._deliver()
        elif self._listener is not None and self._protection() is not None:
            self._input = InputWatch(self._shared.reactor, connection, self._begin_tls)
        elif self._listener is not None:
            self._listener.unwatch()

    def _dialled(self, result: socket.socket | Refusal) -> None:
        self._dialer = None
        if isinstance(result, Refusal):
            self.fail(result)
        else:
            self._arrived(data_socket(result))

    def _begin_tls(self) -> None:
        """Begin the handshakes before there is a transfer command."""
        protection = self._protection()
        if protection is None or self._connection is None:
            self._unwatch()
            return
        handshakes = Handshakes(*self._take_sockets(), *protection, urgent=False)
        queue = self._shared.workers.queue(self._owner())
        self._early = EarlyHandshakes(self._shared.reactor, queue, handshakes, self._early_ended)

    def _early_ended(self, refusal: Refusal | None) -> None:
        if refusal is None:
            self._begins_tls = True
        if self._awaited is not None and refusal is None:
            self._deliver()
        elif self._awaited is not None and refusal is not None:
            self.fail(refusal)

    # --- a transfer takes it ----------------------------------------------------------------------

    def take(self) -> Connected | None:
        """Return the connection if it is there already: most clients connect before they send the command."""
        if self._connection is None and self._listener is not None:
            self._connection = self._listener.accept()
        if self._connection is None and (self._early is None or self._early.running):
            return None
        return self._take()

    def wait(self) -> Deferred[Connected]:
        """Return the connection when it is there. Raises Refusal if it does not come in time."""
        result = self._awaited = Deferred()
        if self._connection is not None or (self._early is not None and not self._early.running):
            self._deliver()
        elif self._early is not None:
            self._set_deadline(self._shared.timeouts.data_connect)
            self._early.expect()
        elif self._target is not None:
            self._set_deadline(self._shared.timeouts.data_connect)
            target, self._target = self._target, None
            address = self._server if target.address.version == self._server.version else _ANY[target.address.version]
            source = Endpoint(address, self._shared.source_port)
            self._dialer = Dialer(self._shared.reactor, source, target, self._dialled)
        elif self._listener is not None:
            self._listener.watch()
        else:
            self.fail(GONE)
        return result

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
        self._stop_deadline()
        protection = self._protection()
        early, self._early = self._early, None
        if early is not None:
            if protection is None or early.handshakes.accepted is None:
                early.handshakes.close()
                raise GONE  # PROT C was sent since, or the handshakes have failed
            return early.handshakes
        if protection is not None:
            return Handshakes(*self._take_sockets(), *protection)
        return _first_open(*self._take_sockets())

    def _take_sockets(self) -> tuple[socket.socket, Listener | None]:
        """Return the connection and its port, which belong to the caller now."""
        self._unwatch()
        connection, listener = self._connection, self._listener
        assert connection is not None
        self._connection = self._listener = None
        return connection, listener

    # --- deadlines, and the end -------------------------------------------------------------------

    def hurry(self) -> None:
        """Wait no longer than for a client that may be gone."""
        if self._awaited is not None:
            self._set_deadline(min(LAST_CONNECT, self._shared.timeouts.data_connect))

    def fail(self, refusal: Refusal) -> None:
        """End the wait of a transfer, if there is one, and discard what was prepared."""
        awaited, self._awaited = self._awaited, None
        self.reset()
        if awaited is not None:
            awaited.errback(refusal)

    def reset(self) -> None:
        """Discard what was prepared."""
        self._stop_deadline()
        self._unwatch()
        self._target = None
        for each in (self._listener, self._dialer, self._connection, self._early):
            if each is not None:
                each.close()
        self._listener = self._dialer = self._connection = self._early = None

    def _unwatch(self) -> None:
        if self._listener is not None:
            self._listener.unwatch()
        if self._input is not None:
            self._input.close()
            self._input = None

    def _set_deadline(self, seconds: float) -> None:
        self._stop_deadline()
        self._deadline = self._shared.reactor.callLater(seconds, self._too_late)

    def _stop_deadline(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None


def _first_open(first: socket.socket, listener: Listener | None) -> socket.socket:
    """Close a passive port. Return the first of its connections that has not ended already, or else the last one.

    In plain text, nothing else tells the client from another process on its host. Raises Refusal if all were reset.
    """
    if listener is None:
        return first
    while (ended := _end_of(first)) is not None and (other := listener.accept()) is not None:
        first.close()
        first = other
    listener.close()
    if isinstance(ended, OSError):
        first.close()
        raise broken(ended)
    return first


def _end_of(connection: socket.socket) -> OSError | Literal["FIN"] | None:
    """Return how a connection has ended before its first byte, or None if it has not. An empty upload ends, too.

    The kernel reports an error once: the next call sees the end of the stream.
    """
    try:
        return None if connection.recv(1, socket.MSG_PEEK) else "FIN"
    except BlockingIOError:
        return None
    except OSError as error:
        return error
