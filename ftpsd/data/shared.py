"""What all data connections of one configuration snapshot share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ftpsd.config.settings import Timeouts
from ftpsd.data.handshakes import Security
from ftpsd.data.nat import Announcer, is_local
from ftpsd.data.passive.shared_ports import Ports
from ftpsd.limits.transfer_counts import TransferCounts
from ftpsd.protocol.addresses import Address, Endpoint
from ftpsd.protocol.login_rules import Network
from ftpsd.protocol.replies import NoDataConnection
from ftpsd.system.reactor import Reactor
from ftpsd.system.worker_threads import WorkerThreads

#: Returns how the next data connection is protected (PROT); None: plain text.
Protection = Callable[[], Security | None]

#: The reply if a connection was prepared, and was lost before the transfer began.
GONE = NoDataConnection("lost", 425, "Data connection lost: send EPSV or PASV again.")


@dataclass(frozen=True, slots=True)
class Ends:
    """The addresses of a control connection."""

    client: Address
    #: The address that the client has connected to.
    server: Address
    #: The address of this machine. It differs from `server` if a proxy is in between.
    local: Address
    #: The networks of the proxies through which passive connections come. None: they come from the client.
    proxies: tuple[Network, ...] | None = None


@dataclass(frozen=True, slots=True)
class Shared:
    """The parts of the daemon and the settings that data connections use."""

    reactor: Reactor
    workers: WorkerThreads
    ports: Ports
    announcer: Announcer
    timeouts: Timeouts
    #: The local port for active mode; 0 lets the kernel choose.
    source_port: int
    #: The networks of other hosts than the client that may connect to a passive port.
    foreign_networks: tuple[Network, ...]
    #: Returns the control ports that are open now, also those of other configuration snapshots.
    control_ports: Callable[[], set[int]]
    transfers: TransferCounts

    def is_own(self, target: Endpoint) -> bool:
        """Return whether a connection to an endpoint would reach the daemon's own control port."""
        if target.port not in self.control_ports():
            return False
        return is_local(target.address) or target.address in self.announcer.announced
