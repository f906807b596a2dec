"""Logins that all processes remember for the time when a source is down, by real links."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.task import Clock

from ftpsd.accounts.chain.recent import RecentLogins
from ftpsd.accounts.chain.shared_logins import PIECE, SharedLogins, share_logins
from ftpsd.accounts.chain.sources import RunningSources
from ftpsd.accounts.chain.store import YAML
from ftpsd.accounts.sources.source import Answer
from tests.links import LinkedWorkers

pytestmark = pytest.mark.quick

CAROL = Answer("carol", {"home": "/homes/carol", "limits": {"sessions": 2}, "groups": ["a"], "enabled": True}, True)


class Process:
    """What one process remembers, and its source."""

    def __init__(self) -> None:
        clock = Clock()
        unused: Any = None
        self.recent = RecentLogins(clock.seconds)
        self.sources = RunningSources(clock, unused, self.recent)
        self.source: Any = object()
        self.sources._running = [(SimpleNamespace(name="sql[0]"), self.source)]  # type: ignore[list-item]
        self.recent.use(3600, [YAML, self.source])


class Daemon(LinkedWorkers):
    """A supervisor and three workers."""

    def __init__(self) -> None:
        super().__init__(0)
        self.supervisor = Process()
        SharedLogins(self, self.supervisor.recent, self.supervisor.sources)
        self.workers: dict[int, Process] = {}
        for index in range(3):
            self.add(index)

    def add(self, index: int) -> None:
        """Start a worker."""
        self.start(index)
        made = self.workers[index] = Process()
        share_logins(self.ends[index], made.recent, made.sources)

    def all(self) -> list[Process]:
        """All processes."""
        return [self.supervisor, *self.workers.values()]


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """A supervisor and three workers."""
    made = Daemon()
    yield made
    made.close()


def test_a_login_is_remembered_everywhere(daemon: Daemon) -> None:
    """Each process admits the user with the same password, and with no other, and knows what the source has said."""
    first = daemon.workers[0]
    first.recent.remember("Carol", "secret", first.source, CAROL)
    first.recent.remember("dave", "word", YAML, None)
    daemon.until(lambda: all("dave" in each.recent for each in daemon.all()))
    for each in daemon.all():
        assert each.recent.last("Carol") == (each.source, CAROL)
        assert each.recent.last("dave") == (YAML, None)
        assert each.recent.admits("Carol", "secret", "n") and not each.recent.admits("Carol", "other", "n")
        assert each.recent.names() == ["Carol"]
        assert each.recent.count(each.source) == 1


def test_a_login_is_forgotten_everywhere(daemon: Daemon) -> None:
    """A source that refuses the user, or the remembered password, has told all processes."""
    first, second = daemon.workers[0], daemon.workers[1]
    first.recent.remember("carol", "secret", first.source, CAROL)
    daemon.until(lambda: "carol" in second.recent)
    second.recent.forget("carol", "another password")
    daemon.turns()
    assert all("carol" in each.recent for each in daemon.all())
    second.recent.forget("carol", "secret")
    daemon.until(lambda: not any("carol" in each.recent for each in daemon.all()))


def test_a_worker_that_starts_knows_them(daemon: Daemon) -> None:
    """One that replaces another remembers what the others do."""
    first = daemon.workers[0]
    for number in range(2 * PIECE + 1):
        name = f"user{number}"
        first.recent.remember(name, "secret", first.source, Answer(name, {"home": f"/{name}"}, True))
    daemon.until(lambda: f"user{2 * PIECE}" in daemon.supervisor.recent)
    daemon.end(2)
    daemon.add(2)
    daemon.until(lambda: f"user{2 * PIECE}" in daemon.workers[2].recent)
    assert daemon.workers[2].recent.names() == first.recent.names()


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (None,),
        ([[]],),
        ([["carol", "sql[0]"]],),
        ([["carol", "sql[0]", "carol", {}, True, "no digest"]],),
        ([["carol", "sql[0]", "carol", {}, True, "00" * 1000]],),
        ([["carol", "sql[0]", 7, {}, True, "00"]],),
        ([["carol", "sql[0]", "carol", [], True, "00"]],),
        ([["carol", "sql[0]", "carol", {}, 1, "00"]],),
        ([["carol", "ldap[7]", "carol", {}, True, "00"]],),
        ([["carol"]] * (PIECE + 1),),
    ],
)
def test_a_worker_that_was_taken_over(daemon: Daemon, arguments: tuple[object, ...]) -> None:
    """What is no login is not remembered."""
    daemon.result(daemon.ends[0].call("logins.take", *arguments))
    daemon.turns()
    assert not any("carol" in each.recent for each in daemon.all())
