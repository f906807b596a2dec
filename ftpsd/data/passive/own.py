"""Passive ports of which each belongs to one session at a time: OwnPorts."""

from __future__ import annotations

from ftpsd.data.passive.peers import ClientPeers
from ftpsd.data.passive.ports import Listener, PortPool, Ready
from ftpsd.data.passive.proxied import ProxiedListener
from ftpsd.protocol.addresses import Address
from ftpsd.system.reactor import Reactor


class OwnPorts:
    """Opens a free port of the pool for a session (see `shared_ports.Ports`)."""

    is_shared = False

    def __init__(self, reactor: Reactor, pool: PortPool) -> None:
        self._reactor = reactor
        self._pool = pool
        self.low, self.high = pool.low, pool.high

    @property
    def used(self) -> int:
        """How many ports are in use."""
        return self._pool.used

    def open(self, host: Address, session: ClientPeers, ready: Ready) -> Listener:
        """Listen for one session. Raises Refusal if no port is free."""
        if session.proxies is None:
            return Listener(self._reactor, self._pool, host, session, ready)
        return ProxiedListener(self._reactor, self._pool, host, session, ready, session.proxies)
