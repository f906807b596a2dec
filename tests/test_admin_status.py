"""The figures of the status: rates of transfers, and the results of reloads."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from ftpsd.config import load
from ftpsd.config.faults import Fault, InvalidConfiguration
from ftpsd.control.lifecycle.reload import LoadResult, Reloader
from ftpsd.events.hub import Hub
from ftpsd.limits.transfer_counts import TransferCounts
from ftpsd.system.systemd.notifier import Notifier
from tests.daemon import PATIENCE, Daemon

pytestmark = pytest.mark.quick


class Stream:
    """A data connection that has moved some bytes."""

    def __init__(self, moved: int = 0) -> None:
        self.moved = moved


def test_rates_are_those_of_the_last_seconds() -> None:
    """A transfer that becomes slow has a low rate soon, and ended transfers still count for the rate of all."""
    clock = Clock()
    counts = TransferCounts(clock.seconds)
    fast, slow = Stream(), Stream()
    counts.begin(fast, "download")
    counts.begin(slow, "upload")
    clock.advance(10)
    fast.moved, slow.moved = 10_000, 1_000_000
    assert (counts.rate_of(fast), counts.rate_of(slow)) == (1000, 100_000)  # on average: nobody samples
    for _ in range(3):
        counts.sample()
        clock.advance(2)
        fast.moved += 40_000
        slow.moved += 10
    assert (counts.rate_of(fast), counts.rate_of(slow)) == (20_000, 5)
    assert (counts.rate("download"), counts.rate("upload")) == (20_000, 5)
    assert (counts.running("download"), counts.running("upload")) == (1, 1)
    counts.end(fast)
    assert (counts.running("download"), counts.moved("download"), counts.rate("download")) == (0, 130_000, 20_000)
    counts.sample()
    clock.advance(2)
    counts.sample()
    clock.advance(2)
    assert counts.rate("download") == 0


class Loads:
    """Loads of a configuration, which end when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.running: list[Deferred[Any]] = []
        self.clock: Any = Clock()
        monkeypatch.setattr(load, "reload", lambda *_, **__: self._begin())

        async def apply(_: load.Configuration) -> None:
            """Use a configuration."""

        self.reloader = Reloader(self.clock, "ftpsd.yaml", apply, Hub(self.clock), Notifier(self.clock, lambda: 0))
        self.results: list[LoadResult] = []

    def _begin(self) -> Deferred[Any]:
        self.running.append(Deferred())
        return self.running[-1]

    def ask(self) -> None:
        """Reload, and note the result."""
        self.reloader.reload().addCallback(self.results.append)

    def fail(self) -> None:
        """The load that runs finds a fault."""
        fault = Fault("ftpsd.yaml", 3, "listen", "is empty", "Add an entry.")
        self.running.pop(0).errback(InvalidConfiguration([fault]))

    def succeed(self) -> None:
        """The load that runs ends well."""
        self.running.pop(0).callback(SimpleNamespace(warnings=["the certificate expires soon"]))


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    """A reloader whose loads the test ends."""
    return Loads(monkeypatch)


def test_a_reload_returns_the_result_of_a_load_that_began_after_it(loads: Loads) -> None:
    """A request during a load gets the result of the next load, which has seen the files as they are now."""
    loads.ask()
    loads.ask()
    loads.ask()
    assert len(loads.running) == 1
    loads.fail()
    (first,) = loads.results
    assert not first.ok
    assert first.faults == ("ftpsd.yaml:3: listen: is empty. Add an entry.",)
    good = loads.reloader.last_good
    assert loads.reloader.last is first
    assert good is not first
    loads.succeed()
    assert len(loads.results) == 3
    assert loads.results[1] is loads.results[2] is loads.reloader.last_good
    assert loads.results[1].ok
    assert loads.results[1].warnings == ("the certificate expires soon",)
    assert not loads.running


def test_a_reload_does_not_outlast_the_daemon(loads: Loads) -> None:
    """A daemon that stops answers those who wait for a reload, and those who ask after that."""
    loads.ask()
    loads.ask()
    loads.reloader.stop()
    loads.ask()
    assert [result.faults for result in loads.results] == [("the daemon is stopping",)] * 3
    loads.succeed()
    assert len(loads.results) == 3


def test_the_warnings_of_a_reload_are_found_once_in_its_thread(
    make_daemon: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions do not wait while the users and files are looked at for warnings, and that happens once per reload."""
    daemon = make_daemon(start=False)
    daemon.users_file.chmod(0o644)
    calls: queue.Queue[Callable[[], object]] = queue.Queue()
    threads: list[int] = []
    find = load.warnings
    monkeypatch.setattr(load, "warnings", lambda *given: threads.append(threading.get_ident()) or find(*given))
    clock: Any = Clock()
    clock.callFromThread = lambda function, *given: calls.put(lambda: function(*given))

    async def apply(_: load.Configuration) -> None:
        """Use a configuration."""

    results: list[LoadResult] = []
    reloader = Reloader(clock, str(daemon.config), apply, Hub(clock), Notifier(clock, lambda: 0))
    reloader.reload().addCallback(results.append)
    while not results:
        calls.get(timeout=PATIENCE)()
    assert results[0].ok, results[0].faults
    assert any("may read the password hashes" in each for each in results[0].warnings)
    assert len(threads) == 1 and threads[0] != threading.get_ident()
