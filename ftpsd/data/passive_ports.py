"""The passive port pool, and the address that PASV announces behind NAT."""

from __future__ import annotations

import errno
import ipaddress
import random
import socket
from collections.abc import Callable, Mapping, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ftpsd.config.settings import NetworkOverride, PassiveSettings
from ftpsd.protocol.parsing import Address, is_ipv4, plain_address, socket_address
from ftpsd.protocol.replies import Refusal
from ftpsd.system.reactor import Reactor

log = Logger(namespace="ftpsd")

_PRIVATE = [
    ipaddress.ip_network(each)
    for each in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
]


#: Connections to a passive port that the kernel holds until they are accepted.
_BACKLOG = 8


def data_socket(connection: socket.socket) -> socket.socket:
    """Set a socket up for a data connection."""
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


class PortPool:
    """The configured range. A port is taken while it listens, and free again the moment it is closed."""

    def __init__(self, low: int, high: int) -> None:
        self._range = range(low, high + 1)
        self._taken: set[int] = set()

    def listen(self, host: Address) -> tuple[socket.socket, int]:
        """A listening socket on a random free port of the range; 425 when there is none."""
        start = random.randrange(len(self._range))
        for step in range(len(self._range)):
            port = self._range[(start + step) % len(self._range)]
            if port not in self._taken and (listener := _try_to_listen(host, port)):
                self._taken.add(port)
                return listener, port
        raise Refusal(425, "All passive ports are in use. Try again later.")

    def release(self, port: int) -> None:
        """The listener on that port is closed."""
        self._taken.discard(port)


def _try_to_listen(host: Address, port: int) -> socket.socket | None:
    family = socket.AF_INET if host.version == 4 else socket.AF_INET6
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(socket_address(host, port))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        return None
    return listener


@implementer(IReadDescriptor)
class Listener:
    """One passive port. Connections from hosts that may not connect are closed, and reported to `stranger`.

    The reactor watches it only between `watch` and `unwatch`, and then calls `ready`. `accept` and `close` may be
    called in another thread while it does not: most clients have connected before the transfer command comes.
    """

    def __init__(
        self,
        reactor: Reactor,
        pool: PortPool,
        host: Address,
        may_connect: Callable[[Address], bool],
        ready: Callable[[], object],
        stranger: Callable[[Address], None],
    ) -> None:
        self._reactor = reactor
        self._pool = pool
        self._may_connect = may_connect
        self._ready = ready
        self._stranger = stranger
        self._watched = False
        self._socket, self.port = pool.listen(host)

    def watch(self) -> None:
        """From now on the reactor tells of connections; any number of times."""
        if not self._watched and self._socket.fileno() >= 0:
            self._watched = True
            self._reactor.addReader(self)

    def unwatch(self) -> None:
        """The reactor tells no more; any number of times."""
        if self._watched:
            self._watched = False
            self._reactor.removeReader(self)

    def doRead(self) -> None:
        """Somebody connects."""
        self._ready()

    def accept(self) -> socket.socket | None:
        """Return the next connection of somebody who may connect, or None if there is none now."""
        for _ in range(_BACKLOG):
            try:
                connection, address = self._socket.accept()
            except BlockingIOError:
                return None
            except OSError as error:
                # No descriptor is left: looking again at once would only spin. The client gets 425 in time.
                log.warn("a data connection could not be accepted: {error}", error=error.strerror)
                self.close()
                return None
            peer = plain_address(address[0], *address[3:])
            if self._may_connect(peer):
                return data_socket(connection)
            connection.close()
            self._stranger(peer)
        return None

    def close(self) -> None:
        """Stops listening; any number of times."""
        if self._socket.fileno() >= 0:
            self.unwatch()
            self._socket.close()
            self._pool.release(self.port)

    def fileno(self) -> int:
        """The socket, for the reactor's poll."""
        return self._socket.fileno()

    def doWrite(self) -> None:
        """Not for us: see `connectionLost`."""

    def connectionLost(self, reason: Failure) -> None:
        """Not for us: nothing can happen to a listening socket. But it may have got the number of a descriptor
        that was closed among the events that were polled together, and then gets that one's (see `accept.py`)."""
        if self._watched:
            self._reactor.addReader(self)

    def logPrefix(self) -> str:
        """For the reactor's log."""
        return "passive port"


class Announcer:
    """The IPv4 address that 227 tells a client.

    A host name is looked up when the daemon starts and every `refresh` seconds; while the resolver
    fails, the last good answer stays.
    """

    def __init__(
        self,
        settings: PassiveSettings,
        resolve: Callable[[str], Deferred[str]],
        known: Mapping[str, str],
    ) -> None:
        self._settings = settings
        self._resolve = resolve
        self._known = dict(known)
        self._warned: set[str] = set()
        self._asked: set[str] = set()

    @property
    def names(self) -> list[str]:
        """The host names that have to be looked up."""
        return self._settings.host_names

    @property
    def announced(self) -> set[Address]:
        """The configured addresses, which lead to this machine through a NAT."""
        networks = (network.address for network in self._settings.networks)
        told = {told for told in (self._settings.address, *networks) if told is not None}
        return {
            ipaddress.IPv4Address(self._known.get(each, each)) for each in told if each in self._known or is_ipv4(each)
        }

    def warn_if_private(self) -> None:
        """Says at start that only clients in private networks can reach what PASV will announce."""
        told = self._settings.address
        address = self._known.get(told, told) if told is not None else None
        if address is not None and is_private(ipaddress.IPv4Address(address)):
            log.warn(
                "passive.address is the private address {address}: clients elsewhere cannot connect to it",
                address=address,
            )

    def refresh(self) -> None:
        """Looks all host names up again."""
        for name in self.names:
            if name not in self._asked:  # a resolver that is silent for long gets one thread, not one each time
                self._asked.add(name)
                self._resolve(name).addCallbacks(
                    lambda address, name=name: self._learn(name, address),
                    lambda failure, name=name: self._keep(name, failure),
                )

    def _learn(self, name: str, address: str) -> None:
        self._asked.discard(name)
        if self._known.get(name) != address:
            log.info("passive.address: {name} is {address}", name=name, address=address)
        self._known[name] = address

    def _keep(self, name: str, failure: Failure) -> None:
        self._asked.discard(name)
        log.warn(
            "passive.address: {name} cannot be looked up ({error}); {address} stays in use",
            name=name,
            error=failure.getErrorMessage(),
            address=self._known.get(name, "the address that the client reached"),
        )

    def announce(self, client: Address, reached: Address) -> Address:
        """The address for this client, who reached the server at `reached`."""
        told = self._configured(self._settings.networks, client)
        if told is None:
            address = reached
        elif is_ipv4(told):
            address = ipaddress.IPv4Address(told)
        else:
            known = self._known.get(told)
            address = ipaddress.IPv4Address(known) if known else reached
        if is_private(address) and not is_private(client) and str(address) not in self._warned:
            self._warned.add(str(address))
            log.warn(
                "PASV announces the private address {address} to {client}, which is not in a private "
                "network: behind NAT, set passive.address to the public address",
                address=str(address),
                client=str(client),
            )
        return address

    def _configured(self, networks: Sequence[NetworkOverride], client: Address) -> str | None:
        for network in networks:
            if any(client in net for net in network.clients):
                return network.address
        return self._settings.address


def is_local(address: Address) -> bool:
    """Whether a connection to an address ends on this machine: to bind to another one is an error."""
    if address.is_loopback or address.is_unspecified:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
            probe.bind(socket_address(address, 0))
    except OSError as error:
        return error.errno != errno.EADDRNOTAVAIL  # with no descriptor left, for example, nobody knows
    return True


def is_private(address: Address) -> bool:
    """Whether an address means something within one network only (RFC 1918, 3927, 6598), or one machine."""
    return address.is_loopback or address.is_link_local or any(address in network for network in _PRIVATE)
