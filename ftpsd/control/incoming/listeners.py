"""Open the control listeners, change them with a reload, or take them over from systemd: Listeners."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.logger import Logger

from ftpsd.config.faults import Fault, InvalidConfiguration
from ftpsd.config.settings import ListenSettings
from ftpsd.control.incoming.accept import ControlPort
from ftpsd.control.incoming.factory import FtpsFactory
from ftpsd.control.incoming.passed import Key, PassedSockets
from ftpsd.snapshot import Snapshot
from ftpsd.system.reactor import ListeningPort, Reactor
from ftpsd.system.twisted_private import listen_on

log = Logger(namespace="ftpsd")

#: The number of connections that the kernel holds until they are accepted.
BACKLOG = 1024


class Listeners:
    """One Twisted port for each entry of `listen`, of the class `port`. It accepts no connections before `serve`.

    `path` is that of the configuration file, for faults.
    """

    def __init__(
        self,
        reactor: Reactor,
        path: str,
        factory: Callable[[ListenSettings], FtpsFactory],
        port: type[ControlPort] = ControlPort,
    ) -> None:
        self._reactor = reactor
        self._path = path
        self._factory = factory
        self._class = port
        self._ports: dict[Key, Any] = {}
        self._new: list[Any] = []
        self._passed = PassedSockets()

    def ports(self) -> set[int]:
        """Return the port numbers of all control listeners that are open now."""
        return {number for _, number in self._ports}

    def addresses(self) -> list[ListenSettings]:
        """Return what listens now; with the real port, if the configuration says 0."""
        hosts = [(port.getHost(), port.factory.settings) for port in self._ports.values()]
        return [attrs.evolve(settings, address=host.host, port=host.port) for host, settings in hosts]

    def missing(self, wanted: Sequence[ListenSettings]) -> list[ListenSettings]:
        """Return the entries of `listen` that are not open."""
        ports = [(each, self._ports.get(_key(each))) for each in wanted]
        return [each for each, port in ports if port is None or not port.connected]

    def open(self, wanted: Sequence[ListenSettings]) -> None:
        """Open the listeners that are not open yet: all of them, or none.

        Raises InvalidConfiguration with the first that fails.
        """
        opened: dict[Key, Any] = {}
        try:
            for settings in wanted:
                if _key(settings) not in self._ports:
                    opened[_key(settings)] = port = self._listen(settings)
                    port.stopReading()
        except CannotListenError as error:
            for key, port in opened.items():
                port.stopListening()
                self._passed.give_back(key)
            text = f"cannot listen on {error.interface} port {error.port}: {error.socketError}"
            fault = Fault(self._path, 0, "listen", text, "Choose another port, or stop the program that uses it.")
            raise InvalidConfiguration([fault]) from None
        self._ports.update(opened)
        self._new += opened.values()

    def serve(self, wanted: Sequence[ListenSettings], snapshot: Snapshot) -> None:
        """Close all other listeners, log the new ones, and give new sessions this snapshot."""
        by_key = {_key(settings): settings for settings in wanted}
        for key in self._ports.keys() - by_key.keys():
            port = self._ports.pop(key)
            if port in self._new:  # it has served nobody
                self._new.remove(port)
            else:
                log.info("no longer listening on {host} port {port}", host=key[0], port=key[1])
            port.stopListening()
            self._passed.give_back(key)
        for key, port in self._ports.items():
            port.factory.snapshot = snapshot
            port.factory.settings = by_key[key]
        while self._new:
            port = self._new.pop(0)
            port.startReading()
            host, kind = port.getHost(), port.factory.settings.tls
            log.info("listening on {host} port {port}, {tls} TLS", host=host.host, port=host.port, tls=kind)
        self._passed.close_left()
        for each in self._passed.unused():
            log.warn(
                "not serving {host} port {port}: systemd has opened it, but `listen` does not name it",
                host=str(each.address),
                port=each.port,
            )

    def drain(self) -> None:
        """Leave new connections on sockets of systemd to the next daemon. On our own sockets they still get 421."""
        for key in self._passed.used & self._ports.keys():
            self._ports[key].stopReading()

    def own(self) -> list[socket.socket]:
        """Return the listening sockets that belong to the daemon, and not to a socket unit."""
        return [port.socket for key, port in self._ports.items() if key not in self._passed.used]

    def abandon(self) -> None:
        """Close the sockets here, while another process continues to listen on them."""
        for port in self._ports.values():
            port.stopReading()
            port.socket.close()  # Twisted would shut it down first, which ends the listening of all processes

    def close(self) -> Deferred[list[object]]:
        """Close all listeners. Return a Deferred that fires when they are closed."""
        closing = [maybeDeferred(port.stopListening) for port in self._ports.values()]
        self._ports.clear()
        return gatherResults(closing)

    def _listen(self, settings: ListenSettings) -> Any:
        factory: Any = self._factory(settings)
        inherited = self._passed.use(_key(settings))
        if inherited is not None:
            return self._adopt(inherited.descriptor, inherited.family, factory)
        left = self._passed.take_left(_key(settings))
        if left is not None:
            with left:  # it is copied
                return self._adopt(left.fileno(), left.family, factory)
        address = settings.address
        if address == "::" and not _has_ipv6():
            address = "0.0.0.0"
        same_port = [port for (_, number), port in self._ports.items() if number == settings.port]
        if same_port:
            return self._take_over(same_port[0], address, settings.port, factory)
        port = self._class(settings.port, factory, BACKLOG, address, self._reactor)
        port.startListening()
        return port

    def _adopt(self, descriptor: int, family: int, factory: FtpsFactory) -> ListeningPort:
        return listen_on(self._class, self._reactor, descriptor, family, factory)

    def _take_over(self, old: Any, address: str, port: int, factory: FtpsFactory) -> Any:
        """Listen on another address of a port that is open, while the old listener still serves."""
        with open_beside(old.socket, address, port, BACKLOG) as listener:
            return self._adopt(listener.fileno(), listener.family, factory)


def open_beside(old: socket.socket, address: str, port: int, backlog: int) -> socket.socket:
    """Return a socket that listens on another address of a port on which `old` listens. Raises CannotListenError.

    Both sockets must set SO_REUSEPORT for that. No listener has it otherwise: a second daemon must find the port in
    use.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    shared = socket.SOL_SOCKET, socket.SO_REUSEPORT
    old.setsockopt(*shared, 1)
    try:
        listener = socket.create_server(
            (address, port), family=family, backlog=backlog, reuse_port=True, dualstack_ipv6=address == "::"
        )
    except OSError as error:
        raise CannotListenError(address, port, error) from None
    finally:
        old.setsockopt(*shared, 0)
    listener.setsockopt(*shared, 0)
    listener.setblocking(False)  # Twisted accepts until it would block
    return listener


def _key(settings: ListenSettings) -> Key:
    return settings.address, settings.port


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True
