"""Who may connect to the passive port of a session: ClientPeers."""

from __future__ import annotations

from collections.abc import Callable

from ftpsd.data.handshakes import Security, plain_text
from ftpsd.protocol.addresses import Address
from ftpsd.protocol.interfaces import Events
from ftpsd.protocol.login_rules import Network
from ftpsd.system.memory.nothing import do_nothing
from ftpsd.system.worker_threads import WorkerThreads

#: From whom a connection comes, and whether through a proxy.
Origin = tuple[Address, bool]


class ClientPeers:
    """Admits the session's client and `foreign_data` to its passive ports (see `ports.Peers`).

    A shared port knows a session by this object.
    """

    def __init__(
        self,
        client: Address,
        foreign_networks: tuple[Network, ...],
        proxies: tuple[Network, ...] | None,
        protection: Callable[[], Security | None],
        events: Events,
        workers: WorkerThreads,
        owner: Callable[[], str],
    ) -> None:
        self.client = client
        self.foreign_networks = foreign_networks
        #: The networks of the proxies through which connections come. None: they come from the client.
        self.proxies = proxies
        #: From whom its connections come, unless they come from foreign networks.
        self.origin: Origin = (client, proxies is not None)
        #: Returns how the next data connection is protected; None: plain text.
        self.protection = protection
        #: Returns the name of the user.
        self.owner = owner
        #: The order in which its last connection has arrived at a shared port.
        self.arrival = -1
        #: Whether its client offers the TLS sessions of other control connections, so that they prove nothing.
        self.mixes = False
        #: Ends the transfer that has, or waits for, a connection that may be another session's.
        self.cut: Callable[[], object] = do_nothing
        self._events = events
        self._workers = workers

    def admits(self, peer: Address) -> bool:
        """Return whether a host may connect."""
        return peer == self.client or any(peer in each for each in self.foreign_networks)

    def leave(self) -> None:
        """The session has ended. A shared port may know this object for a while."""
        name = self.owner()
        self.protection, self.owner, self.cut = plain_text, lambda: name, do_nothing

    def refused(self, peer: Address) -> None:
        """Report a connection that was closed. May be called in a worker thread."""
        self._workers.call_in_reactor(self._events.data_connection_refused, peer)
