"""The registries: what administration sees of running sessions, in this process or in workers."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, ensureDeferred

from ftpsd.limits.merged_registry import DISMISSALS, PAGE, PATIENCE, MergedSessionRegistry, serve_registry
from ftpsd.limits.session_registry import (
    Dismissed,
    LocalSessionRegistry,
    SessionFilter,
    SessionList,
    SessionRegistry,
    SessionView,
    WorkersSilent,
)
from ftpsd.protocol.interfaces import Progress
from ftpsd.protocol.replies import Reply
from ftpsd.system.presence import Presence
from tests.inprocess import START, Server
from tests.links import LinkedWorkers

pytestmark = pytest.mark.quick

GONE = Reply(421, "Ended.")


def now(awaitable: Any) -> Any:
    """Return what an awaitable has ready."""
    results: list[Any] = []

    async def wait() -> Any:
        return await awaitable

    Deferred.fromCoroutine(wait()).addCallback(results.append)
    return results[0]


class Watched:
    """A server without clients, and the registry that administration has: its own, or that of a supervisor."""

    def __init__(self, server: Server, registry: SessionRegistry, wait: Callable[[Any], Any] = now) -> None:
        self.server = server
        self._registry = registry
        self._wait = wait

    def sessions(self) -> SessionList:
        """All sessions."""
        found: SessionList = self._wait(self._registry.sessions())
        return found

    def only(self) -> SessionView:
        """The only session."""
        (view,) = self.sessions()
        assert isinstance(view, SessionView)
        return view

    def state(self, number: int) -> str | None:
        """What a session does; None if it has ended."""
        found = self._wait(self._registry.find(number))
        assert found is None or found.number == number
        return None if found is None else str(found.state)

    def dismiss(self, number: int, reply: Reply) -> bool:
        """End a session."""
        return bool(self._wait(self._registry.dismiss(number, reply)))

    def dismiss_each(self, wanted: SessionFilter, reply: Reply, now: bool = False) -> int:
        """End sessions."""
        found: Dismissed = self._wait(self._registry.dismiss_each(wanted, reply, now))
        assert not found.missing
        return found.count


@pytest.fixture(params=["local", "merged"])
def watched(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Watched]:
    """A server without clients: it is this process, or one of two workers."""
    server = Server(tmp_path)
    if request.param == "local":
        yield Watched(server, server.sessions)
        return
    workers = LinkedWorkers(2)
    serve_registry(workers.ends[0], LocalSessionRegistry(server.clock))
    serve_registry(workers.ends[1], server.sessions)
    yield Watched(server, MergedSessionRegistry(workers), workers.result)
    workers.close()


def test_a_session_before_and_after_its_login(watched: Watched) -> None:
    """A view shows since when a session exists, from where, whose it is, and since when it is idle."""
    server = watched.server
    client = server.connect("203.0.113.9")
    view = watched.only()
    assert (view.state, view.user, view.command, view.tls) == ("login", None, "", None)
    assert str(view.address) == "203.0.113.9"
    assert view.started == view.idle_since == START
    server.clock.advance(5)
    client.log_in()
    client.say("CLNT lftp/4.9.2")
    server.clock.advance(60)
    view = watched.only()
    assert (view.state, view.user, view.client_name) == ("idle", "alice", "lftp/4.9.2")
    assert view.command == "CLNT"
    assert view.idle_since == START + 5
    assert (view.path, view.direction, view.bytes, view.expected_size, view.rate) == (None, None, 0, None, 0)
    client.leave()
    assert watched.sessions() == []


def test_an_unknown_command_is_not_shown(watched: Watched) -> None:
    """A line that is no command may be a password: the view does not have it."""
    server = watched.server
    client = server.connect()
    client.say("secret")
    assert watched.only().command == ""


def test_a_view_is_frozen(watched: Watched) -> None:
    """A view shows one moment and cannot be changed."""
    server = watched.server
    server.connect()
    with pytest.raises(FrozenInstanceError):
        watched.only().user = "mallory"  # type: ignore[misc]


def test_find_and_dismiss(watched: Watched) -> None:
    """A session is found by its number, and ended with a reply; one that has ended is neither found nor dismissed."""
    server = watched.server
    first, second = server.connect(), server.connect()
    first.heard()
    second.heard()
    numbers = [view.number for view in watched.sessions()]
    assert watched.state(numbers[1]) == "login"
    assert watched.dismiss(numbers[0], Reply(421, "Ended by the administrator."))
    assert first.heard() == "421 Ended by the administrator.\r\n"
    assert watched.state(numbers[0]) == "closing"
    first.leave()
    assert watched.state(numbers[0]) is None
    assert not watched.dismiss(numbers[0], Reply(421, "Again."))
    assert second.say("NOOP").startswith("200 ")


def test_a_transfer(watched: Watched) -> None:
    """A running transfer shows its path, direction, bytes, total and average rate; then the session is idle again."""
    server = watched.server
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
    view = watched.only()
    assert (view.state, view.command, view.path, view.idle_since) == ("transfer", "RETR", "/f", None)
    assert (view.direction, view.bytes, view.expected_size, view.rate) == ("download", 500, 1000, 50)
    ended.callback(1000)
    server.clock.advance(0)
    view = watched.only()
    assert (view.state, view.command, view.path, view.direction) == ("idle", "RETR", None, None)


def test_dismiss_each(watched: Watched) -> None:
    """All sessions of a user, or of an address, are ended by one call, and no others."""
    server = watched.server
    clients = [server.connect(address) for address in ("10.0.0.1", "10.0.0.2", "10.0.0.2", "10.0.1.1")]
    clients[0].log_in()
    clients[1].log_in()
    reply = Reply(421, "Ended.")
    assert watched.dismiss_each(SessionFilter(user="bob"), reply) == 0
    assert watched.dismiss_each(SessionFilter(user="alice", address=ip_network("10.0.0.2")), reply) == 1
    assert clients[1].heard().endswith("421 Ended.\r\n")
    assert watched.dismiss_each(SessionFilter(address=ip_network("10.0.0.0/24"), state="login"), reply, now=True) == 1
    assert clients[2].heard().endswith("421 Ended.\r\n")
    assert [view.state for view in watched.sessions()] == ["idle", "closing", "closing", "login"]
    assert watched.dismiss_each(SessionFilter(), reply) == 4


def test_a_snapshot_of_many_sessions_is_cheap(tmp_path: Path) -> None:
    """A snapshot of 2,000 sessions takes less than 20 ms, here with a margin for a busy machine."""
    server = Server(tmp_path)
    for number in range(200):
        server.connect(f"10.0.0.{number}")
    snapshots = []
    for _ in range(20):
        began = time.perf_counter()
        views = now(server.sessions.sessions())
        snapshots.append(time.perf_counter() - began)
        assert len(views) == 200
    assert 10 * min(snapshots) < 0.1


# --- several workers -------------------------------------------------------------------------------


class Workers(LinkedWorkers):
    """Three workers with sessions, and the registry of their supervisor."""

    def __init__(self, directory: Path) -> None:
        super().__init__(3)
        numbers = itertools.count(1)
        self.servers = [Server(directory) for _ in range(3)]
        for server, link in zip(self.servers, self.ends.values(), strict=True):
            object.__setattr__(server._factory.services, "numbers", numbers)
            serve_registry(link, server.sessions)
        self.registry = MergedSessionRegistry(self)
        self._presence = Presence(self.reactor)
        self._presence.start()

    def close(self) -> None:
        """Close all links."""
        self._presence.stop()
        super().close()

    def sessions(self) -> SessionList:
        """All sessions."""
        found: SessionList = self.result(self.registry.sessions())
        return found


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    """Three workers without sessions."""
    made = Workers(tmp_path)
    yield made
    made.close()


def test_the_sessions_of_all_workers(workers: Workers) -> None:
    """Sessions of all workers are listed in the order in which they began, and each is found in its worker."""
    assert workers.sessions() == []
    for number in range(3 * PAGE + 1):
        workers.servers[number % 2].connect(f"10.0.0.{number}")
    found = workers.sessions()
    assert [view.number for view in found] == list(range(1, 3 * PAGE + 2))
    assert [str(view.address) for view in found[:3]] == ["10.0.0.0", "10.0.0.1", "10.0.0.2"]
    assert found.missing == ()
    assert workers.result(workers.registry.find(PAGE)).address == found[PAGE - 1].address
    assert workers.result(workers.registry.dismiss(PAGE, Reply(421, "Ended.")))
    assert workers.result(workers.registry.dismiss_each(SessionFilter(), GONE)) == Dismissed(3 * PAGE + 1)
    assert {view.state for view in workers.sessions()} == {"closing"}


def test_a_worker_that_does_not_answer_is_left_out(workers: Workers) -> None:
    """The others are shown after a second, and the answer says whose sessions are missing; it is asked again."""
    for server in workers.servers:
        server.connect()
    workers.freeze(1)
    began = time.monotonic()
    found = workers.sessions()
    assert [view.number for view in found] == [1, 3]
    assert found.missing == (1,)
    assert PATIENCE <= time.monotonic() - began < PATIENCE + 3
    assert workers.result(workers.registry.dismiss(3, Reply(421, "Ended.")))
    workers.reactor.addReader(workers.ends[1].transport)
    assert [view.number for view in workers.sessions()] == [1, 2, 3]


def test_a_session_of_a_worker_that_does_not_answer_is_not_called_ended(workers: Workers) -> None:
    """Nobody is told that a session has ended while the worker that may have it is silent."""
    for server in workers.servers:
        server.connect()
    workers.freeze(1)
    for asked in (workers.registry.find(2), workers.registry.dismiss(2, GONE)):
        with pytest.raises(WorkersSilent) as silent:
            workers.result(asked)
        assert silent.value.missing == (1,)
    assert workers.result(workers.registry.find(1)).number == 1
    assert workers.result(workers.registry.dismiss_each(SessionFilter(), GONE)) == Dismissed(2, (1,))


def test_a_slow_worker_counts_all_sessions_that_it_ends(workers: Workers) -> None:
    """Ending many sessions takes a busy worker longer than one answer may take. The count is right nevertheless."""
    for number in range(100):
        workers.servers[1].connect(f"10.0.0.{number}")
    registry = workers.servers[1].sessions
    for session in registry._sessions.values():
        dismiss = session.dismiss

        def slow(*arguments: Any, dismiss: Any = dismiss) -> None:
            time.sleep(1.5 * PATIENCE / 100)
            dismiss(*arguments)

        session.dismiss = slow  # type: ignore[method-assign]
    other = workers.servers[1].connect("10.0.1.1")
    ended = workers.result(workers.registry.dismiss_each(SessionFilter(address=ip_network("10.0.0.0/24")), GONE))
    assert ended == Dismissed(100)
    assert other.say("HELP").startswith("220 ") and other.say("HELP").startswith("214")


def test_a_client_that_connects_again_is_not_ended_again(workers: Workers) -> None:
    """Only sessions that run when the request comes are ended and counted, not those that begin while it is done."""
    count = DISMISSALS + 5
    for number in range(count):
        workers.servers[1].connect(f"10.0.0.{number}")
    again = []
    for session in list(workers.servers[1].sessions._sessions.values()):
        dismiss = session.dismiss

        def connect_again(*arguments: Any, dismiss: Any = dismiss) -> None:
            dismiss(*arguments)
            again.append(workers.servers[1].connect("10.0.1.1"))

        session.dismiss = connect_again  # type: ignore[method-assign]
    ended = workers.result(workers.registry.dismiss_each(SessionFilter(), GONE))
    assert (ended, len(again)) == (Dismissed(count), count)
    assert [view.state for view in workers.sessions()] == ["closing"] * count + ["login"] * count


def test_a_worker_that_ends_meanwhile(workers: Workers) -> None:
    """The sessions of a worker that ends meanwhile are left out, and nobody waits for it."""
    for server in workers.servers:
        server.connect()
    workers.freeze(2)
    listing = ensureDeferred(workers.registry.sessions())
    workers.turns(2)
    transport = workers.ends[2].transport
    assert transport is not None
    transport.abortConnection()
    found = workers.result(listing)
    assert ([view.number for view in found], found.missing) == ([1, 2], (2,))
    assert [view.number for view in workers.sessions()] == [1, 2]
    assert workers.sessions().missing == ()


@pytest.mark.parametrize(
    "page",
    [
        None,
        {},
        [None],
        [[1]],
        "endless",
        "too long",
        [[2, "idle", None, "192.0.2.1", 1e300, 0.0, None, None, "", "", None, None, 0, None, 0.0]],
        [[2, "gone", None, "192.0.2.1", 0.0, 0.0, None, None, "", "", None, None, 0, None, 0.0]],
        [[2, "idle", None, "nowhere", 0.0, 0.0, None, None, "", "", None, None, 0, None, 0.0]],
    ],
)
def test_a_worker_that_was_taken_over_is_left_out(workers: Workers, page: Any) -> None:
    """If what it sends is no list of sessions, or one that does not end, the others are shown."""
    view = [7, "idle", None, "192.0.2.1", 0.0, 0.0, None, None, "", "", None, None, 0, None, 0.0]
    page = (
        {"endless": [view] * PAGE, "too long": [view] * (PAGE + 1)}.get(page, page) if isinstance(page, str) else page
    )
    workers.servers[0].connect()
    workers.ends[2].serve("registry.page", lambda after: page)
    workers.ends[2].serve("registry.find", lambda number: page)
    workers.ends[2].serve("registry.last", lambda: 10**30)
    workers.ends[2].serve("registry.dismiss_page", lambda *_: page)
    found = workers.sessions()
    assert ([view.number for view in found], found.missing) == ([1], (2,))
    if page is not None:
        with pytest.raises(WorkersSilent):
            workers.result(workers.registry.find(99))
    assert workers.result(workers.registry.dismiss_each(SessionFilter(), GONE)) == Dismissed(1, (2,))


def test_the_supervisor_is_not_kept_busy(workers: Workers) -> None:
    """2,000 sessions in three workers are listed in turns of the reactor that are short, here with a wide margin."""
    for number in range(200):
        workers.servers[number % 3].connect(f"10.0.0.{number}")
    turns: list[float] = []

    def listen() -> None:
        for _ in range(5):
            began = time.perf_counter()
            workers.reactor.iterate(0)
            turns.append(time.perf_counter() - began)

    listing = ensureDeferred(workers.registry.sessions())
    while not listing.called:
        listen()
    assert len(workers.result(listing)) == 200
    assert sorted(turns)[-3] < 0.1
