"""Sources of users in memory, without threads and with a clock of the test, and the store that asks them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from ftpsd.accounts.chain.homes import KnownHomes
from ftpsd.accounts.chain.recent import RecentLogins
from ftpsd.accounts.chain.running import RunningSource
from ftpsd.accounts.chain.store import YAML, ChainStore, Shared
from ftpsd.accounts.hash_verifier import HashVerifier
from ftpsd.accounts.sources.source import Answer, Question
from ftpsd.accounts.user_store import SourceFailed, User, WrongPassword
from ftpsd.config.users.loader import load_users
from ftpsd.config.users.records import RecordBuilder
from ftpsd.protocol.addresses import plain_address
from tests.daemon import SECRET
from tests.inprocess import DirectCalls

T = TypeVar("T")


async def admit() -> None:
    """Let every login proceed."""


def begin(awaitable: Awaitable[T]) -> Deferred[T]:
    """Start a call."""

    async def wait() -> T:
        return await awaitable

    return Deferred.fromCoroutine(wait())


def result(awaitable: Awaitable[T]) -> T:
    """Return what a call returns or raises that needs no time."""
    found: list[T] = []
    failed: list[BaseException] = []
    begin(awaitable).addCallbacks(found.append, lambda failure: failed.append(failure.value))
    if failed:
        raise failed[0]
    assert found, "it waits"
    return found[0]


class MemorySource:
    """A source in memory. `failure` is what each call raises; `asked` has the names that it was asked about."""

    kind = "memory"
    concurrency = 2
    timeout = 5.0

    def __init__(self, **users: dict[str, Any]) -> None:
        self.users = users
        self.failure: BaseException | None = None
        self.asked: list[str] = []
        self.ignores_case = False
        self.probes = 0
        self.closed = False

    def ask(self, question: Question) -> Answer | None:
        """Return a user. One with `plain` has the password checked here."""
        self.asked.append(question.name)
        if self.failure is not None:
            raise self.failure
        name = question.name.lower() if self.ignores_case else question.name
        values = dict(self.users.get(name, {}))
        if not values:
            return None
        plain = values.pop("plain", None)
        if plain is not None and question.password not in (None, plain):
            raise WrongPassword
        return Answer(name, values, verified=plain is not None)

    def names(self) -> Any:
        """Iterate over all names."""
        return iter(self.users)

    def probe(self) -> None:
        """Fail or not."""
        self.probes += 1
        if self.failure is not None:
            raise self.failure

    def close(self) -> None:
        """Remember it."""
        self.closed = True


class Threads:
    """Threads that run in the test. `hanging`: calls do not end until `finish`."""

    def __init__(self) -> None:
        self.abandoned = 0
        self.hanging = False
        self._calls: list[tuple[Deferred[Any], Callable[[], Any]]] = []

    def call(self, function: Callable[[], T]) -> Deferred[T]:
        """Call the function now, or at `finish`."""

        def abandon(_: object) -> None:
            self.abandoned += 1

        result: Deferred[T] = Deferred(abandon)
        self._calls.append((result, function))
        if not self.hanging:
            self.finish()
        return result

    def finish(self) -> None:
        """Let all calls end."""
        calls, self._calls = self._calls, []
        for result, function in calls:
            if result.called:
                self.abandoned -= 1
                continue
            try:
                value = function()
            except BaseException as error:
                result.errback(error)
            else:
                result.callback(value)

    def close(self, last: Callable[[], None]) -> None:
        """Make the last call."""
        last()


class Chain:
    """A store with Yann in YAML, and sources. Time passes with `clock`."""

    def __init__(self, directory: Path, *sources: MemorySource, place: int = 0, yaml: str | None = None) -> None:
        for name in ("yann", "alice", "bob"):
            (directory / name).mkdir(exist_ok=True)
        self.directory = directory
        self.clock = Clock()
        self.threads = [Threads() for _ in sources]
        self.running = [
            RunningSource(f"memory[{index}]", source, self.clock, threads)  # type: ignore[arg-type]
            for index, (source, threads) in enumerate(zip(sources, self.threads, strict=True))
        ]
        self.workers: Any = DirectCalls()
        self.recent = RecentLogins(self.clock.seconds)
        self.recent.use(3600, [YAML, *self.running])
        self.homes = KnownHomes()
        self.place = place
        self.load(yaml or f"users: {{yann: {{password: '{SECRET}', home: {directory}/yann}}}}\n")

    def load(self, yaml: str) -> None:
        """Load users.yaml, as a reload does."""
        (self.directory / "users.yaml").write_text(yaml)
        loaded = load_users(self.directory / "users.yaml", True)
        assert loaded.store is not None, loaded.faults
        builder = RecordBuilder(self.directory, loaded.layers, True, [str(self.directory)])
        shared = Shared(self.clock, self.workers, self.recent, self.homes)
        self.store = ChainStore(loaded.store, self.place, self.running, builder.build, shared)
        self.store.start(HashVerifier(self.workers, self.clock))

    def log_in(self, name: str, password: str = "secret", peer: str = "192.0.2.1") -> User:
        """Log in, and return the user or raise what the store raises."""
        return result(self.store.verify(name, password, plain_address(peer), admit))

    def raises(self, kind: type[Exception], name: str, password: str = "secret", peer: str = "192.0.2.1") -> str:
        """Log in, which must fail; return the text of the exception."""
        with pytest.raises(kind) as caught:
            self.log_in(name, password, peer)
        assert type(caught.value) is kind or kind is SourceFailed
        return str(caught.value)
