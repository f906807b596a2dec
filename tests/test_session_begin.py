"""The life of a session, with a connection that fails in ways which a real one cannot be made to fail in."""

from __future__ import annotations

import itertools
from unittest import mock

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from ftpsd.config.settings import Limits
from ftpsd.control.ftp_protocol import FtpsFactory
from ftpsd.control.scheduler import Scheduler
from ftpsd.events.log_budget import LogBudget
from ftpsd.limits.session_registry import Sessions


@pytest.mark.parametrize("fails", ["getHandle", "setTcpNoDelay", "getHost", "registerProducer"])
def test_a_session_that_cannot_begin_is_not_counted(fails: str) -> None:
    """If a session fails before it has begun, its connection is closed, and the session count is as before."""
    generation, sessions = mock.Mock(), Sessions()
    generation.settings.limits = Limits()
    generation.settings.timeouts.login = 60
    generation.bans.of_address.return_value = None
    clock = Clock()
    factory = FtpsFactory(clock, generation, False, sessions, itertools.count(1), Scheduler(clock), LogBudget(clock))
    connection = factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 40000))
    transport = mock.Mock()
    transport.getHost.return_value = IPv4Address("TCP", "192.0.2.2", 21)
    getattr(transport, fails).side_effect = OSError("no buffer space")
    connection.makeConnection(transport)
    transport.abortConnection.assert_called_once()
    connection.connectionLost(Failure(ConnectionAborted()))
    assert len(sessions) == 0
