"""The control listeners: opened all or none, moved by a reload, or taken over from systemd."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.logger import Logger

from ftpsd.config.faults import Fault, InvalidConfiguration
from ftpsd.config.settings import ListenSettings
from ftpsd.control.accept import Door
from ftpsd.control.factory import FtpsFactory
from ftpsd.snapshot import Generation
from ftpsd.system.reactor import Reactor
from ftpsd.system.systemd import Inherited, choose, inherited_listeners

log = Logger(namespace="ftpsd")

#: Connections that the kernel holds until they are accepted.
BACKLOG = 1024


class Listeners:
    """One Twisted port for each entry of `listen`. `path` is the configuration's, for faults."""

    def __init__(self, reactor: Reactor, path: str, factory: Callable[[ListenSettings], FtpsFactory]) -> None:
        self._reactor = reactor
        self._path = path
        self._factory = factory
        self._ports: dict[tuple[str, int], Any] = {}
        self._new: list[Any] = []
        #: Which entry of `listen` has taken what systemd has handed over.
        self._adopted: dict[tuple[str, int], Inherited] = {}

    def __bool__(self) -> bool:
        return bool(self._ports)

    def ports(self) -> set[int]:
        """Return the numbers of all control ports that are open now."""
        return {number for _, number in self._ports}

    def open(self, wanted: Sequence[ListenSettings]) -> None:
        """Opens those that are not there yet, all or none: InvalidConfiguration tells the first that cannot be had."""
        opened: dict[tuple[str, int], Any] = {}
        try:
            for settings in wanted:
                if _place(settings) not in self._ports:
                    opened[_place(settings)] = self._listen(settings)
        except CannotListenError as error:
            for place, port in opened.items():
                port.stopListening()
                self._adopted.pop(place, None)
            text = f"cannot listen on {error.interface} port {error.port}: {error.socketError}"
            fault = Fault(self._path, 0, "listen", text, "Choose another port, or end who has it.")
            raise InvalidConfiguration([fault]) from None
        self._ports.update(opened)
        self._new += opened.values()

    def serve(self, wanted: Sequence[ListenSettings], generation: Generation) -> None:
        """Closes all others; sessions that begin from now on are of that generation. The log tells the new ones."""
        kinds = {_place(settings): settings.tls for settings in wanted}
        for place in self._ports.keys() - kinds.keys():
            log.info("no longer listening on {host} port {port}", host=place[0], port=place[1])
            self._ports.pop(place).stopListening()
            self._adopted.pop(place, None)
        for place, port in self._ports.items():
            port.factory.generation = generation
            port.factory.implicit = kinds[place] == "implicit"
        while self._new:
            port = self._new.pop(0)
            host, kind = port.getHost(), "implicit" if port.factory.implicit else "explicit"
            log.info("listening on {host} port {port}, {tls} TLS", host=host.host, port=host.port, tls=kind)
        for each in self._left():
            log.warn(
                "nobody is served on {host} port {port}: systemd holds it, and `listen` does not name it",
                host=str(each.address),
                port=each.port,
            )

    def drain(self) -> None:
        """Sockets of systemd hold the attempts for whoever comes next; ours go on, and say 421."""
        for place in self._adopted.keys() & self._ports.keys():
            self._ports[place].stopReading()

    async def close(self) -> None:
        """Closes all of them."""
        for port in self._ports.values():
            await maybeDeferred(port.stopListening)
        self._ports.clear()

    def _listen(self, settings: ListenSettings) -> Any:
        factory: Any = self._factory(settings)
        inherited = choose(self._left(), settings.address, settings.port)
        if inherited is not None:
            self._adopted[_place(settings)] = inherited
            return self._adopt(inherited.descriptor, inherited.family, factory)
        address = settings.address
        if address == "::" and not _has_ipv6():
            address = "0.0.0.0"
        before = [port for (_, number), port in self._ports.items() if number == settings.port]
        if before:
            return self._take_over(before[0], address, settings.port, factory)
        door = Door(settings.port, factory, BACKLOG, address, self._reactor)
        door.startListening()
        return door

    @cached_property
    def _inherited(self) -> list[Inherited]:
        return inherited_listeners()

    def _left(self) -> list[Inherited]:
        taken = self._adopted.values()
        return [each for each in self._inherited if each not in taken]

    def _adopt(self, descriptor: int, family: int, factory: Any) -> Door:
        door: Door = Door._fromListeningDescriptor(self._reactor, descriptor, family, factory)
        door.startListening()
        return door

    def _take_over(self, before: Any, address: str, port: int, factory: FtpsFactory) -> Any:
        """Listens on another address of a port that we have, while the old listener still serves.

        Both must allow it (SO_REUSEPORT), which no listener does else: a second daemon is to find the port taken.
        """
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        shared = socket.SOL_SOCKET, socket.SO_REUSEPORT
        before.socket.setsockopt(*shared, 1)
        try:
            with socket.create_server(
                (address, port), family=family, backlog=BACKLOG, reuse_port=True, dualstack_ipv6=address == "::"
            ) as listener:
                listener.setsockopt(*shared, 0)
                listener.setblocking(False)  # Twisted accepts until it would block
                return self._adopt(listener.fileno(), family, factory)
        except OSError as error:
            raise CannotListenError(address, port, error) from None
        finally:
            before.socket.setsockopt(*shared, 0)


def _place(settings: ListenSettings) -> tuple[str, int]:
    return settings.address, settings.port


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True
