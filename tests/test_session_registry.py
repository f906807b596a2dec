"""The registry: what administration sees of running sessions."""

from __future__ import annotations

import time
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any, TypeVar

import pytest
from twisted.internet.defer import Deferred

from ftpsd.limits.session_registry import SessionView
from ftpsd.protocol.interfaces import Progress
from ftpsd.protocol.replies import Reply
from tests.inprocess import START, Server

pytestmark = pytest.mark.quick

T = TypeVar("T")


def now(awaitable: Any) -> Any:
    """Return what an awaitable has ready."""
    results: list[Any] = []

    async def wait() -> Any:
        return await awaitable

    Deferred.fromCoroutine(wait()).addCallback(results.append)
    return results[0]


@pytest.fixture
def server(tmp_path: Path) -> Server:
    """A server without clients."""
    return Server(tmp_path)


def only(server: Server) -> SessionView:
    """The view of the only session."""
    (view,) = now(server.sessions.sessions())
    assert isinstance(view, SessionView)
    return view


def test_a_session_before_and_after_its_login(server: Server) -> None:
    """A view shows since when a session exists, from where, whose it is, and since when it is idle."""
    client = server.connect("203.0.113.9")
    view = only(server)
    assert (view.state, view.user, view.command, view.tls) == ("login", None, "", None)
    assert str(view.address) == "203.0.113.9"
    assert view.started == view.idle_since == START
    server.clock.advance(5)
    client.log_in()
    client.say("CLNT lftp/4.9.2")
    server.clock.advance(60)
    view = only(server)
    assert (view.state, view.user, view.client_name) == ("idle", "alice", "lftp/4.9.2")
    assert view.command == "CLNT"
    assert view.idle_since == START + 5
    assert (view.path, view.direction, view.bytes, view.expected_size, view.rate) == (None, None, 0, None, 0)
    client.leave()
    assert now(server.sessions.sessions()) == []


def test_an_unknown_command_is_not_shown(server: Server) -> None:
    """A line that is no command may be a password: the view does not have it."""
    client = server.connect()
    client.say("secret")
    assert only(server).command == ""


def test_a_view_is_frozen(server: Server) -> None:
    """A view shows one moment and cannot be changed."""
    server.connect()
    with pytest.raises(FrozenInstanceError):
        only(server).user = "mallory"  # type: ignore[misc]


def test_find_and_dismiss(server: Server) -> None:
    """A session is found by its number, and ended with a reply; one that has ended is neither found nor dismissed."""
    first, second = server.connect(), server.connect()
    first.heard()
    second.heard()
    numbers = [view.number for view in now(server.sessions.sessions())]
    assert now(server.sessions.find(numbers[1])).number == numbers[1]
    assert now(server.sessions.dismiss(numbers[0], Reply(421, "Ended by the administrator.")))
    assert first.heard() == "421 Ended by the administrator.\r\n"
    assert only_state(server, numbers[0]) == "closing"
    first.leave()
    assert now(server.sessions.find(numbers[0])) is None
    assert not now(server.sessions.dismiss(numbers[0], Reply(421, "Again.")))
    assert second.say("NOOP").startswith("200 ")


def test_a_transfer(server: Server) -> None:
    """A running transfer shows its path, direction, bytes, total and average rate; then the session is idle again."""
    client = server.connect().log_in()
    (server.homes / "alice" / "f").write_bytes(b"x" * 1000)
    client.say("CWD /")
    client.say("PASV")
    ended: Deferred[int] = Deferred()

    async def send(*_: object) -> int:
        return await ended

    client.data.send = send  # type: ignore[method-assign]
    client.data.progress = lambda: Progress("download", 500, 1000)  # type: ignore[method-assign, assignment, return-value]
    client.say("RETR f")
    server.clock.advance(10)
    view = only(server)
    assert (view.state, view.command, view.path, view.idle_since) == ("transfer", "RETR", "/f", None)
    assert (view.direction, view.bytes, view.expected_size, view.rate) == ("download", 500, 1000, 50)
    ended.callback(1000)
    server.clock.advance(0)
    view = only(server)
    assert (view.state, view.command, view.path, view.direction) == ("idle", "RETR", None, None)


def only_state(server: Server, number: int) -> str:
    """What a session does."""
    return str(now(server.sessions.find(number)).state)


def test_a_snapshot_of_many_sessions_is_cheap(server: Server) -> None:
    """A snapshot of 2,000 sessions takes less than 20 ms, here with a margin for a busy machine."""
    for number in range(200):
        server.connect(f"10.0.0.{number}")
    snapshots = []
    for _ in range(20):
        began = time.perf_counter()
        views = now(server.sessions.sessions())
        snapshots.append(time.perf_counter() - began)
        assert len(views) == 200
    assert 10 * min(snapshots) < 0.1
