"""Give accepted connections to a worker: Connection, its message, and what a worker makes of it."""

from __future__ import annotations

import base64
import ipaddress
import socket
from functools import lru_cache
from typing import Any, cast

from attrs import frozen
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger

from ftpsd.control.incoming.route import Route
from ftpsd.control.tls_layer import ControlConnection
from ftpsd.protocol.replies import Reply
from ftpsd.system.reactor import Reactor

log = Logger(namespace="ftpsd")

#: Returns the address that a text names. Those of recent clients are remembered.
_address = lru_cache(maxsize=1024)(ipaddress.ip_address)

#: Begins the message whose descriptor is no client's connection, but one to the next supervisor.
_LEFT = "left"


def left_message(seconds: int) -> object:
    """Return the message that leaves a worker to the next supervisor; running transfers get so many seconds."""
    return [_LEFT, seconds]


def seconds_left(message: object) -> int | None:
    """Return the seconds if it is that message."""
    return message[1] if isinstance(message, list) and message[0] == _LEFT else None


@frozen
class Connection:
    """A connection that becomes a session: what the worker must know beside the socket."""

    #: The number of the session.
    number: int
    route: Route
    #: Whether the listener expects TLS from the first byte.
    implicit: bool
    #: What the client has sent behind the header of a proxy.
    early: bytes = b""

    def message(self) -> object:
        """Return the connection as JSON."""
        route = self.route
        server = None if route.server is None else str(route.server)
        proxies = None if route.proxies is None else [*map(str, route.proxies)]
        early = base64.b64encode(self.early).decode() if self.early else ""
        return [self.number, str(route.client), server, proxies, route.is_check, self.implicit, early]

    @classmethod
    def from_message(cls, message: object) -> Connection:
        """Return the connection that `message` has made JSON."""
        number, client, server, proxies, is_check, implicit, early = cast(list[Any], message)
        route = Route(
            _address(client),
            None if server is None else _address(server),
            None if proxies is None else tuple(map(ipaddress.ip_network, proxies)),
            is_check,
        )
        return cls(number, route, implicit, base64.b64decode(early) if early else b"")


class _OneProtocol(Factory):
    """Gives a connection that exists already its protocol."""

    noisy = False

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: object) -> Protocol:
        """Return the protocol."""
        return self._protocol


def adopt(reactor: Reactor, connection: socket.socket, protocol: ControlConnection, early: bytes) -> None:
    """Let a protocol serve a connected socket, which is closed here: the reactor has a duplicate.

    Raises OSError if the client has gone, or if there is no descriptor for the duplicate. Then the socket stays open.
    """
    reactor.adoptStreamConnection(connection.fileno(), connection.family, _OneProtocol(protocol))
    connection.close()
    if early:
        try:
            protocol.dataReceived(early)
        except Exception:
            log.failure("internal error: the start of a connection cannot be processed")
            protocol.transport.abortConnection()


def refuse(connection: socket.socket, reply: Reply) -> None:
    """Send a reply to a client that gets no session, and close the connection."""
    with connection:
        try:
            connection.send(reply.encode(), socket.MSG_DONTWAIT)
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the client has gone
