"""The life of a session, with a connection that fails in ways which a real one cannot be made to fail in."""

from __future__ import annotations

from unittest import mock

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from ftpsd.config.settings import BanSettings, Limits, ListenSettings
from ftpsd.control.incoming.factory import FtpsFactory
from ftpsd.control.scheduler import Scheduler
from ftpsd.control.services import ControlServices
from ftpsd.events.hub import Hub
from ftpsd.limits.ledger import LedgerState, LocalLedger
from ftpsd.limits.session_registry import LocalSessionRegistry


@pytest.mark.parametrize("fails", ["getHandle", "setTcpNoDelay", "getHost", "registerProducer"])
def test_a_session_that_cannot_begin_is_not_counted(fails: str) -> None:
    """If a session fails before it has begun, its connection is closed, and the session count is as before."""
    snapshot, registry, clock = mock.Mock(), LocalSessionRegistry(mock.Mock()), Clock()
    counts = LedgerState(clock.seconds)
    snapshot.settings.limits = Limits()
    snapshot.settings.timeouts.login = 60
    snapshot.ledger = LocalLedger(counts, Limits(), BanSettings())
    snapshot.now.return_value = 0.0
    factory = FtpsFactory(
        ControlServices(clock, Scheduler(clock), Hub(clock), registry), snapshot, ListenSettings("192.0.2.2", 21)
    )
    connection = factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 40000))
    transport = mock.Mock()
    transport.getHost.return_value = IPv4Address("TCP", "192.0.2.2", 21)
    getattr(transport, fails).side_effect = OSError("no buffer space")
    connection.makeConnection(transport)
    transport.abortConnection.assert_called_once()
    transport.protocol.connectionLost(Failure(ConnectionAborted()))
    assert len(registry) == counts.sessions.total == 0
