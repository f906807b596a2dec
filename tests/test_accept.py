"""The listener for control connections, and the order of the reactor's events."""

from __future__ import annotations

import ipaddress
import itertools
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.protocol import Factory, Protocol

from ftpsd.control.incoming.accept import BATCH, MAX_SECONDS, ControlPort
from ftpsd.data.passive.ports import Listener, PortPool
from ftpsd.protocol.addresses import Address
from tests.daemon import free_range
from tests.hostile import reset


class Counting(Factory):
    """Makes protocols, and counts those that were made and those that were lost."""

    noisy = False

    def __init__(self) -> None:
        self.made = self.lost = 0

    def buildProtocol(self, addr: object) -> Protocol:
        """Count one more."""
        self.made += 1
        protocol = Protocol()
        protocol.connectionLost = self._lose  # type: ignore[method-assign]
        return protocol

    def _lose(self, *_: object) -> None:
        self.lost += 1


class End:
    """A socket in the reactor; `call` is called when it is readable."""

    def __init__(self, end: socket.socket, call: Callable[[], object] = lambda: None) -> None:
        self._call = call
        self.fileno = end.fileno

    def doRead(self) -> None:
        """The peer has sent something."""
        self._call()

    def connectionLost(self, reason: object) -> None:
        """Do nothing."""

    def logPrefix(self) -> str:
        """Return a name for the reactor's log."""
        return "end"


@pytest.fixture
def reactor() -> Iterator[Any]:
    """Return a reactor that runs one turn at a time."""
    reactor = EPollReactor()
    yield reactor
    reactor.disconnectAll()
    reactor._poller.close()


def turn(reactor: Any) -> None:
    """Run one turn: the calls that are due, then all events."""
    reactor.runUntilCurrent()
    reactor.doPoll(0)


def pair() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        return client, server.accept()[0]


def number_is_reused(reactor: Any, meanwhile: Callable[[], object], first: Callable[[], object]) -> None:
    """Let a new descriptor get the number of one that is closed in the same turn, before its hang-up event.

    In that turn a connection is closed, `first` is called, and `meanwhile` opens something, which gets the lowest free
    number.
    """
    (speaker, heard), (quiet, lost) = pair(), pair()
    lost.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:  # until it cannot be written, and has no event but its hang-up
            lost.send(bytes(1 << 16))
    waiting = End(lost)

    def happen() -> None:
        reactor.removeReader(listening)
        reactor.removeWriter(waiting)
        lost.close()
        first()

    listening = End(heard, happen)
    reactor.addReader(listening)
    reactor.addWriter(waiting)
    fillers: list[int] = []
    speaker.send(b"now")
    meanwhile()
    reset(quiet)
    while not fillers or fillers[-1] < lost.fileno():
        fillers.append(os.dup(0))
    turn(reactor)
    for each in fillers:
        os.close(each)
    speaker.close()
    heard.close()


def test_a_flood_comes_in_by_turns(reactor: Any) -> None:
    """When accepting is slow, only a few connections are accepted in each turn of the reactor, and all in the end."""
    looks = itertools.count()
    reactor.seconds = lambda: next(looks) * 2 * MAX_SECONDS
    factory = Counting()
    port = ControlPort(0, factory, 1024, "127.0.0.1", reactor)
    port.startListening()
    clients = [socket.create_connection(("127.0.0.1", port.getHost().port)) for _ in range(BATCH * 6)]
    taken = []
    for _ in range(30):
        before = factory.made
        turn(reactor)
        taken.append(factory.made - before)
    assert max(taken) <= BATCH
    assert factory.made == len(clients)
    for client in clients:
        client.close()


def test_a_connection_does_not_get_the_hang_up_of_another(reactor: Any) -> None:
    """A new control connection that gets the number of a closed descriptor does not get its hang-up event."""
    factory = Counting()
    port = ControlPort(0, factory, 1024, "127.0.0.1", reactor)
    port.startListening()
    clients = []
    number_is_reused(reactor, lambda: clients.append(socket.create_connection(port.socket.getsockname())), lambda: None)
    for _ in range(3):
        turn(reactor)
    assert (factory.made, factory.lost) == (1, 0)
    clients[0].close()


def test_a_passive_port_does_not_get_the_hang_up_of_another(reactor: Any) -> None:
    """A new passive port that gets the number of a closed descriptor continues to listen."""
    arrived: list[socket.socket] = []
    low, high = free_range()
    made: list[Listener] = []

    class Everybody:
        def admits(self, peer: Address) -> bool:
            return True

        def refused(self, peer: Address) -> None:
            raise AssertionError

    def arrive() -> None:
        connection = made[0].accept()
        assert connection is not None
        arrived.append(connection)
        made[0].close()

    def listen() -> None:
        peer = ipaddress.ip_address("127.0.0.1")
        made.append(Listener(reactor, PortPool(low, high), peer, Everybody(), arrive))
        made[-1].watch()

    number_is_reused(reactor, lambda: None, listen)
    with socket.create_connection(("127.0.0.1", made[0].port)):
        for _ in range(3):
            turn(reactor)
        assert len(arrived) == 1
    arrived[0].close()
