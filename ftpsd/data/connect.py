"""Makes the data connection of a session: listens on a passive port, or dials the client."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from functools import partial

from twisted.internet.defer import Deferred

from ftpsd.data.deadlines import Timer
from ftpsd.data.dial import Dialer
from ftpsd.data.handshakes import Handshakes, plain_text
from ftpsd.data.passive.connection import Connected, PassiveConnection
from ftpsd.data.passive.peers import ClientPeers
from ftpsd.data.passive.ports import data_socket
from ftpsd.data.shared import GONE, Ends, Protection, Shared
from ftpsd.protocol.addresses import Address, Endpoint
from ftpsd.protocol.interfaces import Events
from ftpsd.protocol.replies import NoDataConnection, Refusal

#: Seconds for which the reactor does not watch a passive port: most transfer commands come earlier, and accept then.
UNWATCHED = 0.05

#: Seconds for a data connection to arrive when the client has ended its control connection. Most such clients are gone.
LAST_CONNECT = 5

#: The addresses that stand for any address of this machine, by IP version.
_ANY: dict[int, Address] = {4: ipaddress.IPv4Address(0), 6: ipaddress.IPv6Address(0)}


class Connector:
    """The data connection of one session, until a transfer takes it.

        idle        nothing is prepared
        passive     `_passive` is open: it listens, or has a connection
        targeted    `_target`: PORT, EPRT; nothing is dialled before the transfer command
        dialling    `_dialer`; a transfer waits

        from        event                                           to
        any         passive                                         passive
        any         active                                          targeted
        targeted    wait                                            dialling
        dialling    the connection is open                          idle; the transfer has the connection
        passive     take or wait, when a connection is there        idle; the transfer has the connection
        any         reset, fail, or a deadline while `wait` waits   idle

    `ends` has the addresses of the control connection. Refused connections are published to `events`.
    `owner` returns the owner of the jobs in worker threads.
    """

    def __init__(
        self,
        shared: Shared,
        ends: Ends,
        protection: Protection,
        events: Events,
        owner: Callable[[], str],
    ) -> None:
        self._shared = shared
        self._ends = ends
        self._protection = protection
        self.peers = peers = ClientPeers(
            ends.client, shared.foreign_networks, ends.proxies, protection, events, shared.workers, owner
        )
        self._passive = PassiveConnection(shared, peers, protection, owner, self)
        self._target: Endpoint | None = None
        self._dialer: Dialer | None = None
        self._timer = Timer(shared.reactor)
        #: What `wait` has returned, until it fires.
        self._awaited: Deferred[Connected] | None = None

    @property
    def prepared(self) -> bool:
        """Whether a transfer command can be served."""
        return self._target is not None or self._passive.state != "closed"

    @property
    def waiting(self) -> bool:
        """Whether a transfer waits for the connection."""
        return self._awaited is not None

    # --- a passive port, or an endpoint -----------------------------------------------------------

    def passive(self, announce: bool) -> Endpoint:
        """Listen, and return the endpoint for the reply; with `announce`, its address is that of the NAT."""
        self.reset()
        ends = self._ends
        address = ends.server
        if announce:
            address = self._shared.announcer.announce(ends.client, ends.server)
        # If another address than ours is announced, the client may reach any address of this machine. A proxy reaches
        # the one to which it has passed the control connection on.
        is_own = address == ends.local or ends.proxies is not None
        port = self._passive.listen(ends.local if is_own else _ANY[ends.local.version])
        if self._passive.begins_tls:
            self._watch()
        else:
            self._timer.set(UNWATCHED, self._watch)
        return Endpoint(address, port)

    def active(self, target: Endpoint) -> None:
        """Dial an endpoint when a transfer command comes."""
        self.reset()
        self._target = target

    # --- a transfer takes it ----------------------------------------------------------------------

    def take(self) -> Connected | None:
        """Return the connection if it is there already: most clients connect before they send the command."""
        if not self._passive.accept():
            return None
        self._timer.stop()
        return self._passive.take()

    def wait(self) -> Deferred[Connected]:
        """Return the connection when it is there. Raises Refusal if it does not come in time."""
        result = self._awaited = Deferred()
        if self._target is not None:
            self._dial(self._target)
        elif self._passive.state == "closed":
            self.fail(GONE)
        elif self._passive.ready:
            self.deliver()
        else:
            if self._passive.state == "early TLS":
                self._timer.set(self._shared.timeouts.data_connect, self._too_late)
            self._passive.expect()
        return result

    def deliver(self) -> None:
        """Give the connection of the passive port to the transfer that waits."""
        self._timer.stop()
        try:
            connection = self._passive.take()
        except Refusal as refusal:
            self.fail(refusal)
        else:
            awaited, self._awaited = self._awaited, None
            assert awaited is not None
            awaited.callback(connection)

    def _dial(self, target: Endpoint) -> None:
        self._timer.set(self._shared.timeouts.data_connect, self._too_late)
        self._target = None
        local = self._ends.local
        # Behind a proxy, the way to the client leaves by any address.
        direct = local == self._ends.server and target.address.version == local.version
        address = local if direct else _ANY[target.address.version]
        source = Endpoint(address, self._shared.source_port)
        self._dialer = Dialer(self._shared.reactor, source, target, self._dialled)

    def _dialled(self, result: socket.socket | Refusal) -> None:
        self._dialer = None
        if isinstance(result, Refusal):
            self.fail(result)
            return
        self._timer.stop()
        awaited, self._awaited = self._awaited, None
        assert awaited is not None  # `fail` would have closed the dialer
        connection, protection = data_socket(result), self._protection()
        awaited.callback(connection if protection is None else Handshakes(connection, None, protection))

    # --- deadlines, and the end -------------------------------------------------------------------

    def _watch(self) -> None:
        """Let the reactor watch the port: no transfer command came at once."""
        self._timer.set(self._shared.timeouts.data_connect, self._too_late)
        self._passive.watch()

    def _too_late(self) -> None:
        state = self._passive.state
        if self._awaited is None and state in ("connected", "early TLS"):
            # The client has connected, and may send its command at any time.
            self._passive.close_port()
            return
        code, text = 425, "No connection arrived at the passive port in time."
        if state == "early TLS":
            code, text = 522, "TLS handshake on the data connection took too long."
        elif self._dialer is not None:
            text = "Cannot open data connection: the client did not respond in time."
        self.fail(NoDataConnection("timeout", code, text))

    def hurry(self, seconds: float = LAST_CONNECT, refusal: Refusal | None = None) -> None:
        """If a transfer waits, let it wait no longer, by default as long as for a client that may be gone."""
        if self._awaited is not None:
            end = self._too_late if refusal is None else partial(self.fail, refusal)
            self._timer.set(min(seconds, self._shared.timeouts.data_connect), end)

    def fail(self, refusal: Refusal) -> None:
        """End the wait of a transfer, if there is one, and discard what was prepared."""
        awaited, self._awaited = self._awaited, None
        self.reset()
        if awaited is not None:
            awaited.errback(refusal)

    def reset(self, last: bool = False) -> None:
        """Discard what was prepared; for the `last` time, also what the session has given: it has ended."""
        self._timer.stop()
        self._target = None
        self._passive.close(last)
        if self._dialer is not None:
            self._dialer.close()
            self._dialer = None
        if last:
            self.peers.leave()
            self._protection = plain_text
