"""The listening socket of a shared port: connections that the reactor tells, and those that are accepted before."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.epollreactor import EPollReactor

from ftpsd.data.passive.shared_sockets import SharedSocket
from tests.daemon import PATIENCE

pytestmark = pytest.mark.quick


class Listener(socket.socket):
    """Counts the calls of `accept`."""

    calls = 0

    def accept(self) -> tuple[socket.socket, Any]:
        """See socket."""
        self.calls += 1
        return super().accept()


class Port:
    """A shared port with a reactor of its own, and the clients that connect to it."""

    def __init__(self) -> None:
        self.reactor: Any = EPollReactor()
        self.accepted: list[socket.socket] = []
        self.listener = listener = Listener()
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        self._address = listener.getsockname()
        self._clients: list[socket.socket] = []
        self.shared = SharedSocket(
            self.reactor, listener, self._address[1], lambda *found: self.accepted.append(found[1])
        )

    def connect(self) -> None:
        """Let a client connect."""
        self._clients.append(socket.create_connection(self._address, timeout=PATIENCE))

    def turn(self) -> int:
        """Let the reactor handle the events that there are. Return how many connections are accepted now."""
        self.reactor.doIteration(0)
        return len(self.accepted)

    def close(self) -> None:
        """Close everything."""
        self.shared.close()
        for each in [*self._clients, *self.accepted]:
            each.close()
        self.reactor._poller.close()


@pytest.fixture
def port() -> Iterator[Port]:
    """A port."""
    made = Port()
    yield made
    made.close()


def test_connections_after_one_that_a_command_has_accepted(port: Port) -> None:
    """A connection that follows one that was accepted for a transfer command is accepted in the second turn at latest."""
    port.connect()
    port.shared.accept()
    assert len(port.accepted) == 1
    port.connect()
    port.turn()
    assert port.turn() == 2
    for count in range(3, 6):
        port.connect()
        assert port.turn() == count


def test_a_command_that_finds_no_connection(port: Port) -> None:
    """After a transfer command that has found no connection, the next one is accepted in the first turn."""
    port.shared.accept()
    for count in (1, 2):
        port.connect()
        assert port.turn() == count


def test_one_event_of_a_connection_and_of_its_command(port: Port) -> None:
    """If a transfer command has accepted all connections, the reactor's event for them costs no system call."""
    port.connect()
    port.shared.accept()
    calls = port.listener.calls
    port.shared.doRead()
    assert port.listener.calls == calls


def test_several_commands(port: Port) -> None:
    """Connections that each were accepted for a transfer command keep no other one waiting."""
    for count in range(1, 4):
        port.connect()
        port.shared.accept()
        assert len(port.accepted) == count
    port.connect()
    port.turn()
    assert port.turn() == 4
