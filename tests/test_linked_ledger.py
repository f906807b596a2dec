"""Bans over several workers: they hold everywhere at once, and a login costs no call of the supervisor."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator

import pytest
from twisted.internet.defer import ensureDeferred

from ftpsd.config.settings import BanSettings, UserLimits
from ftpsd.limits.bans.ban_table import FOR_EVER, Ban
from ftpsd.limits.ledger import Failure, Ledger, SessionRefused
from ftpsd.protocol.addresses import plain_address as at
from ftpsd.protocol.replies import Refusal, SessionEnd
from ftpsd.system.link import LinkLost
from tests.linked_ledgers import LinkedLedgers

pytestmark = pytest.mark.quick

HOME = at("203.0.113.9")


@pytest.fixture
def ask() -> Iterator[LinkedLedgers]:
    """A supervisor with two workers that know the bans."""
    made = LinkedLedgers()
    made.workers.until(lambda: all(each.are_current() for each in made.bans))
    yield made
    made.close()


def both(ask: LinkedLedgers, bans: BanSettings | None = None) -> tuple[Ledger, Ledger]:
    """The ledgers of both workers."""
    return ask.ledger(bans=bans, worker=0), ask.ledger(bans=bans, worker=1)


class Calls:
    """Counts what a worker sends to the supervisor."""

    def __init__(self, ask: LinkedLedgers, worker: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        link = ask.workers.ends[worker]
        for way in ("call", "tell"):
            monkeypatch.setattr(link, way, self._counted(getattr(link, way)))

    def _counted(self, way: object) -> object:
        def count(name: str, *arguments: object) -> object:
            self.names.append(name)
            return way(name, *arguments)  # type: ignore[operator]

        return count


def test_guesses_over_several_workers(ask: LinkedLedgers) -> None:
    """The third wrong password bans, whichever worker it reaches; then both refuse the right one, too."""
    first, second = both(ask)
    assert ask(first.record_failure(HOME, "alice")) == Failure([])
    assert ask(second.record_failure(HOME, "bob")) == Failure([])
    (ban,), refusal = ask(first.record_failure(HOME, "carol"))
    assert isinstance(refusal, SessionEnd) and refusal.reply.code == 530
    assert (ban.kind, ban.subject) == ("address", str(HOME))
    for ledger in (second, first):
        with pytest.raises(SessionEnd, match="530"):
            ask(ledger.check_bans(HOME, "dave"))
    with pytest.raises(SessionRefused):
        ask(first.admit_session(HOME))


def test_a_ban_holds_before_its_message_arrives(ask: LinkedLedgers) -> None:
    """From the moment at which the supervisor has decided, a worker that does not know the ban yet asks."""
    ledger = ask.ledger(worker=1)
    ask.state.bans.add(Ban("address", str(HOME), ask.clock() + 60, 60))
    assert not ask.bans[1].are_current()
    with pytest.raises(SessionEnd, match="530"):
        ask(ledger.check_bans(HOME, "alice"))
    ask.workers.until(ask.bans[1].are_current)
    with pytest.raises(SessionEnd, match="530"):
        ask(ledger.check_bans(HOME, "alice"))


def test_a_guess_behind_others_that_are_being_counted(ask: LinkedLedgers) -> None:
    """Guesses that were sent at once are counted in their order: the right one behind too many is refused."""
    first, second = both(ask)
    for ledger in (first, second):
        failures = [ensureDeferred(_coroutine(first.record_failure(HOME, "alice"))) for _ in range(3)]
        with pytest.raises(SessionEnd, match="530"):
            ask(ledger.check_bans(HOME, "alice"))
        for each in failures:
            ask(each)
        ask.state.bans.lift("address", str(HOME))


async def _coroutine(answer: Awaitable[object]) -> object:
    return await answer


def test_a_login_needs_no_call(ask: LinkedLedgers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first login of a user from an address is told to the supervisor; later ones cost nothing, bans or not."""
    ledger = ask.ledger(worker=0)
    for number in range(200):
        ask.state.bans.add(Ban("address", f"198.51.100.{number}", ask.clock() + 60, 60))
    ask.workers.until(ask.bans[0].are_current)
    calls = Calls(ask, 0, monkeypatch)
    for _ in range(3):
        for _ in range(3):
            ask(ledger.check_bans(HOME, "alice"))
        ask(ledger.record_login(HOME, "alice"))
        ask(ledger.admit_user("alice", UserLimits())).release()
    assert calls.names == ["ledger.record_login"]
    ask.workers.until(lambda: ask.state.bans.is_known("alice", str(HOME)))


def test_a_lifted_ban(ask: LinkedLedgers) -> None:
    """When a ban is lifted, all workers admit the client; and a second ban holds again."""
    first, second = both(ask)
    for _ in range(2):
        for _ in range(3):
            ask(first.record_failure(HOME, "alice"))
        with pytest.raises(Refusal):
            ask(second.check_bans(HOME, "alice"))
        ask.state.bans.lift("address", str(HOME))
        for ledger in (first, second):
            ask(ledger.check_bans(HOME, "alice"))


def test_bans_by_an_administrator(ask: LinkedLedgers) -> None:
    """Networks and accounts that are banned are so at each worker, with the replies of an administrator's ban."""
    first, second = both(ask, BanSettings(attempts=0))
    ask.state.bans.add(Ban("network", "203.0.113.0/24", ask.clock() + FOR_EVER, FOR_EVER))
    ask.state.bans.add(Ban("account", "bob", ask.clock() + FOR_EVER, FOR_EVER))
    ask.workers.until(lambda: all(each.are_current() for each in ask.bans))
    for ledger in (first, second):
        with pytest.raises(SessionEnd, match="by the administrator"):
            ask(ledger.check_bans(HOME, "alice"))
        with pytest.raises(Refusal, match="this name are blocked by the administrator"):
            ask(ledger.check_bans(at("192.0.2.1"), "bob"))
        ask(ledger.check_bans(at("192.0.2.1"), "alice"))


def test_an_address_that_one_worker_knows(ask: LinkedLedgers) -> None:
    """A name that is banned for strangers may be used from where its user has logged in, at any worker."""
    first, second = both(ask)
    ask(first.record_login(HOME, "alice"))
    for number in range(3):
        ask(second.record_failure(at(f"198.51.100.{number}"), "alice"))
    for ledger in (first, second):
        ask(ledger.check_bans(HOME, "alice"))
        with pytest.raises(Refusal, match="530"):
            ask(ledger.check_bans(at("192.0.2.1"), "alice"))


def test_failures_that_count_nowhere(ask: LinkedLedgers, monkeypatch: pytest.MonkeyPatch) -> None:
    """With bans switched off, or from an address that is exempt, wrong passwords cost no call."""
    calls = Calls(ask, 0, monkeypatch)
    for settings in (BanSettings(attempts=0), BanSettings(attempts=1)):
        assert ask(ask.ledger(bans=settings, worker=0).record_failure(at("127.0.0.1"), "alice")) == Failure()
    assert calls.names == []


def test_a_worker_that_starts_later(ask: LinkedLedgers) -> None:
    """A worker that starts later gets the bans that are in effect, and no old ones."""
    ask.state.bans.add(Ban("address", str(HOME), ask.clock() + 60, 60))
    ask.state.bans.add(Ban("address", "192.0.2.1", ask.clock() - 1, 60))
    ask.workers.until(lambda: all(each.are_current() for each in ask.bans))
    received: list[object] = []
    ask.workers.on_start(lambda index, link: None)
    ask.workers.start(5)
    ask.workers.ends[5].serve("ledger.bans", lambda number, bans: received.extend(bans))
    ask.workers.until(lambda: received)
    assert [(kind, subject) for kind, subject, _, _ in received] == [("address", str(HOME))]  # type: ignore[misc,attr-defined]


def test_counts_of_a_worker_that_has_ended(ask: LinkedLedgers) -> None:
    """When a worker ends, the sessions of its users are counted no longer."""
    first, second = both(ask)
    ask(first.admit_user("alice", UserLimits()))
    ask(second.admit_user("alice", UserLimits()))
    assert dict(ask.state.users.sessions) == {"alice": 2}
    ask.workers.end(0)
    assert dict(ask.state.users.sessions) == {"alice": 1}


def test_a_session_ends_while_the_count_is_locked(ask: LinkedLedgers) -> None:
    """A user gets in whose last session has ended, also if another process had the lock of the count at first."""
    first, second = both(ask)
    only = UserLimits(sessions=1)
    last = ask(first.admit_user("alice", only))
    ask.workers.links[1].serve("ledger.settle", last.release)
    ask.tables[1].patience.serve(ask.workers.reactor)
    with ask.table.slot("user", "alice").lock():
        admitted = ensureDeferred(_coroutine(second.admit_user("alice", only)))
        assert not admitted.called
    ask(admitted)
    assert dict(ask.state.users.sessions) == {"alice": 1}


def test_a_supervisor_that_has_gone(ask: LinkedLedgers) -> None:
    """A wrong password gets 421 when nobody can count it."""
    ledger = ask.ledger(worker=0)
    transport = ask.workers.links[0].transport
    assert transport is not None
    transport.abortConnection()
    with pytest.raises(LinkLost, match="421"):
        ask(ledger.record_failure(HOME, "alice"))
