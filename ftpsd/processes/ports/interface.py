"""Where the connections of shared passive ports go: DataPorts."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Protocol

from ftpsd.data.passive.peers import Origin
from ftpsd.data.passive.shared_sockets import Key
from ftpsd.protocol.addresses import Address


class DataPorts(Protocol):
    """Gives data connections to sessions: `data.passive.shared_ports.SharedPorts`, or `remote.RemotePorts`."""

    #: Accepts the connections that the kernel has for a port.
    look: Callable[[int], object]

    @property
    def keys(self) -> set[Key]:
        """The sockets that some session may need."""

    def arrived(self, port: int, connection: socket.socket, origin: Origin) -> None:
        """Give a new connection to its session, or close it."""

    def through_proxy(self, port: int, peer: Address) -> bool:
        """Return whether the connections of a host begin with a header, since it is a proxy of sessions."""
