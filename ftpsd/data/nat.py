"""The address that the reply to PASV announces, behind NAT too."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable, Mapping
from weakref import WeakSet

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ftpsd.config.settings import PassiveSettings
from ftpsd.protocol.addresses import Address, is_ipv4, socket_address
from ftpsd.system.periodic import PeriodicTask
from ftpsd.system.reactor import Clock

log = Logger(namespace="ftpsd")

_PRIVATE = [
    ipaddress.ip_network(each)
    for each in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
]


class Announcer:
    """Chooses the IPv4 address that 227 announces to a client.

    The configured address is that of the first entry of `passive.networks` that contains the client, else
    `passive.address`.

        configured address          announced
        none                        the address that the client reached
        IPv4 address                that address
        host name                   its address as looked up last; the address that the client reached if there is none

    Host names are looked up when the daemon starts, and by each `refresh`. While a lookup fails, the last address
    remains in use.
    """

    def __init__(
        self,
        settings: PassiveSettings,
        resolve: Callable[[str], Deferred[str]],
        known: Mapping[str, str],
    ) -> None:
        self._settings = settings
        self._resolve = resolve
        #: The IPv4 addresses of host names.
        self._known = dict(known)
        self._warned: set[str] = set()
        #: Names whose lookup has not ended.
        self._pending: set[str] = set()

    @property
    def names(self) -> list[str]:
        """The host names that have to be looked up."""
        return self._settings.host_names

    @property
    def announced(self) -> set[Address]:
        """All addresses that may be announced, as far as they are known: they lead to this machine through NAT."""
        networks = (network.address for network in self._settings.networks)
        configured = {each for each in (self._settings.address, *networks) if each is not None}
        return {
            ipaddress.IPv4Address(self._known.get(each, each))
            for each in configured
            if each in self._known or is_ipv4(each)
        }

    def warn_if_private(self) -> None:
        """Log a warning if clients outside private networks cannot reach the address that PASV will announce."""
        configured = self._settings.address
        address = self._known.get(configured, configured) if configured is not None else None
        if address is not None and is_private(ipaddress.IPv4Address(address)):
            log.warn(
                "passive.address is the private address {address}: clients elsewhere cannot connect to it",
                address=address,
            )

    def refresh(self) -> None:
        """Look up all host names again."""
        for name in self.names:
            if name not in self._pending:  # a resolver that does not answer occupies one thread, not one each time
                self._pending.add(name)
                self._resolve(name).addCallbacks(
                    lambda address, name=name: self._learn(name, address),
                    lambda failure, name=name: self._keep(name, failure),
                )

    def _learn(self, name: str, address: str) -> None:
        self._pending.discard(name)
        if self._known.get(name) != address:
            log.info("passive.address: {name} is {address}", name=name, address=address, log_once=True)
        self._known[name] = address

    def _keep(self, name: str, failure: Failure) -> None:
        self._pending.discard(name)
        log.warn(
            "passive.address: {name} cannot be looked up ({error}); {address} remains in use",
            name=name,
            error=failure.getErrorMessage(),
            address=self._known.get(name, "the address that the client reached"),
            log_once=True,
        )

    def announce(self, client: Address, reached: Address) -> Address:
        """Return the address for a client that reached the server at `reached`."""
        configured = self._configured(client)
        known = self._known.get(configured, configured) if configured is not None else None
        address = ipaddress.IPv4Address(known) if known is not None and is_ipv4(known) else reached
        if is_private(address) and not is_private(client) and str(address) not in self._warned:
            self._warned.add(str(address))
            log.warn(
                "PASV announces the private address {address} to {client}, which is not in a private "
                "network: behind NAT, set passive.address to the public address",
                address=str(address),
                client=str(client),
                log_once=f"PASV announces {address}",
            )
        return address

    def _configured(self, client: Address) -> str | None:
        for override in self._settings.networks:
            if any(client in network for network in override.clients):
                return override.address
        return self._settings.address


class AddressRefresh:
    """Looks up the host names of all configuration snapshots again, periodically.

    A snapshot is forgotten when its last session has ended: until then its announcer needs the address of today too.
    """

    def __init__(self, clock: Clock) -> None:
        self._announcers: WeakSet[Announcer] = WeakSet()
        self._task = PeriodicTask(clock, "looking up passive.address", self._refresh_all)

    def add(self, announcer: Announcer) -> None:
        """Include the host names of another snapshot."""
        self._announcers.add(announcer)

    def start(self, seconds: int) -> None:
        """Look up all host names at regular intervals from now on; do nothing if there are none."""
        self.stop()
        if any(announcer.names for announcer in self._announcers):
            self._task.start(seconds, now=False)

    def stop(self) -> None:
        """Look up nothing more. May be called any number of times."""
        self._task.stop()

    def _refresh_all(self) -> None:
        for announcer in list(self._announcers):
            announcer.refresh()


def is_local(address: Address) -> bool:
    """Return whether a connection to an address ends on this machine. Tries to bind to it."""
    if address.is_loopback or address.is_unspecified:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
            probe.bind(socket_address(address, 0))
    except OSError as error:
        return error.errno != errno.EADDRNOTAVAIL  # without a free descriptor, for example, it is not known
    return True


def is_private(address: Address) -> bool:
    """Return whether an address is valid only within one network (RFC 1918, 3927, 6598) or one machine."""
    return address.is_loopback or address.is_link_local or any(address in network for network in _PRIVATE)
