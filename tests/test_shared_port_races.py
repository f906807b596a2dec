"""A session leaves a shared port at the moment in which a connection arrives there: a worker thread closes its place."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from twisted.internet.epollreactor import EPollReactor

from ftpsd.data.passive.arrivals import Arrival, Arrivals
from ftpsd.data.passive.peers import ClientPeers
from ftpsd.data.passive.places import Place
from ftpsd.data.passive.routing import KnownTickets
from ftpsd.data.passive.shared_port import SharedPort
from ftpsd.protocol.addresses import plain_address
from ftpsd.system.worker_threads import WorkerThreads
from tests.daemon import PATIENCE

pytestmark = pytest.mark.quick

HOST = plain_address("127.0.0.1")


def test_a_session_leaves_while_a_connection_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `ambiguous: oldest`, the connection is given to the other session, and not to the one that has left."""
    reactor: Any = EPollReactor()
    threads = WorkerThreads(reactor, 1)
    port = SharedPort(reactor, threads, 1, KnownTickets(), lambda number: None)

    def waiting() -> Place:
        events: Any = None
        session = ClientPeers(HOST, (), None, lambda: None, events, threads, lambda: "alice")
        return port.wait(session, guess=True, ready=lambda: None)

    leaving, staying = waiting(), waiting()
    add = Arrivals.add

    def add_late(arrivals: Arrivals, arrival: Arrival, most: int) -> None:
        leaving.close()
        add(arrivals, arrival, most)

    monkeypatch.setattr(Arrivals, "add", add_late)
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname(), PATIENCE) as client,
    ):
        port.arrived(listener.accept()[0], (HOST, False))
        found = staying.accept()
        assert found is not None
        with found:
            client.sendall(b"mine")
            found.settimeout(PATIENCE)
            assert found.recv(4) == b"mine"
    port.close()
    reactor._poller.close()
