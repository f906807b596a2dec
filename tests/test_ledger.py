"""What every ledger promises, and sessions whose ledger answers late."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from ftpsd.config.sections.groups import SharedLimits
from ftpsd.config.settings import BanSettings, Limits, QuotaSettings, UserLimits
from ftpsd.limits import session_counts
from ftpsd.limits.home_counts import Amount, GroupLimit, QuotaLimits
from ftpsd.limits.ledger import Ledger, LedgerState, LocalLedger, SessionRefused
from ftpsd.limits.user_limits import Share
from ftpsd.protocol.addresses import plain_address as at
from ftpsd.protocol.replies import Refusal, SessionEnd
from tests import late_ledger
from tests.inprocess import Server
from tests.late_ledger import DELAY, LateLedger
from tests.linked_ledgers import LinkedLedgers

pytestmark = pytest.mark.quick

T = TypeVar("T")

HOME = at("203.0.113.9")


class Asked:
    """A ledger, and the clock that its answers may need."""

    def __init__(self, make: Callable[[LedgerState, Limits, BanSettings, Clock], Ledger]) -> None:
        self.clock = Clock()
        self._state = LedgerState(self.clock.seconds)
        self._make = make

    def ledger(self, limits: Limits | None = None, bans: BanSettings | None = None) -> Ledger:
        """The ledger of one configuration snapshot; all of them have the same counts."""
        return self._make(self._state, limits or Limits(), bans or BanSettings(attempts=3, allow=()), self.clock)

    def __call__(self, answer: Awaitable[T]) -> T:
        """Return or raise what is awaited."""

        async def wait() -> T:
            return await answer

        results: list[T] = []
        failures: list[Any] = []
        Deferred.fromCoroutine(wait()).addCallbacks(results.append, failures.append)
        self.clock.advance(DELAY)
        if failures:
            failures[0].raiseException()
        return results[0]


#: The linked ledgers are those of two workers in turn.
Ask = Asked | LinkedLedgers


def local(state: LedgerState, limits: Limits, bans: BanSettings, clock: Clock) -> Ledger:
    """The ledger of a daemon that is one process."""
    return LocalLedger(state, limits, bans)


def late(state: LedgerState, limits: Limits, bans: BanSettings, clock: Clock) -> Ledger:
    """One that answers late."""
    return LateLedger(LocalLedger(state, limits, bans), clock)


@pytest.fixture(params=["local", "late", "linked"])
def ask(request: pytest.FixtureRequest) -> Iterator[Ask]:
    """Asks each implementation."""
    if request.param != "linked":
        yield Asked({"local": local, "late": late}[request.param])
        return
    linked = LinkedLedgers()
    yield linked
    linked.close()


def test_sessions_are_counted_until_they_are_released(ask: Ask) -> None:
    """The ledger admits as many sessions as the limit, in all and per address, and one more for each that is released."""
    ledger = ask.ledger(Limits(sessions=3, sessions_per_address=2))
    first, second = ask(ledger.admit_session(HOME)), ask(ledger.admit_session(HOME))
    with pytest.raises(SessionRefused, match="your address"):
        ask(ledger.admit_session(HOME))
    other = ask(ledger.admit_session(at("203.0.113.10")))
    with pytest.raises(SessionRefused, match="Too many sessions:"):
        ask(ledger.admit_session(at("203.0.113.11")))
    for lease in (first, second, other):
        lease.release()
    ask(ledger.admit_session(HOME))


def test_a_refused_session_is_421_and_logged(ask: Ask) -> None:
    """A refusal is a reply 421, and a text for the log."""
    ledger = ask.ledger(Limits(sessions=0))
    with pytest.raises(SessionRefused) as refused:
        ask(ledger.admit_session(HOME))
    assert refused.value.reply.code == 421
    assert refused.value.log_text == refused.value.reply.text


def test_counts_outlive_a_reload(ask: Ask) -> None:
    """A ledger with other limits counts the sessions that another one has admitted."""
    ask(ask.ledger(Limits(sessions=2)).admit_session(HOME))
    with pytest.raises(SessionRefused):
        ask(ask.ledger(Limits(sessions=1)).admit_session(HOME))


def test_a_banned_address_gets_no_session(ask: Ask) -> None:
    """After as many failures as the setting says the address is banned: no session, no password. The log says it once."""
    ledger = ask.ledger()
    made = [ask(ledger.record_failure(HOME, "alice")) for _ in range(3)]
    assert [[ban.kind for ban in each.bans] for each in made] == [[], [], ["address"]]
    assert [each.refusal is not None for each in made] == [False, False, True]
    behind = ask(ledger.record_failure(HOME, "bob"))
    assert not behind.bans and isinstance(behind.refusal, SessionEnd)
    with pytest.raises(SessionEnd, match="530"):
        ask(ledger.check_bans(HOME, "bob"))
    texts = []
    for _ in range(2):
        with pytest.raises(SessionRefused) as refused:
            ask(ledger.admit_session(HOME))
        texts.append(refused.value.log_text)
    assert "once per ban" in texts[0]
    assert texts[1] == ""
    ask(ledger.admit_session(at("203.0.113.10")))


def test_a_known_address_may_use_a_banned_name(ask: Ask) -> None:
    """A name that several addresses guess is banned for strangers, not where its user has logged in."""
    ledger = ask.ledger()
    ask(ledger.record_login(HOME, "alice"))
    for number in range(3):
        ask(ledger.record_failure(at(f"198.51.100.{number}"), "alice"))
    ask(ledger.check_bans(HOME, "alice"))
    with pytest.raises(Refusal, match="530"):
        ask(ledger.check_bans(at("192.0.2.1"), "alice"))


def test_sessions_of_a_user(ask: Ask) -> None:
    """A user's own limit counts instead of the general one; a released session is free again."""
    ledger = ask.ledger(Limits(sessions_per_user=1))
    lease = ask(ledger.admit_user("alice", UserLimits()))
    with pytest.raises(SessionEnd, match="421"):
        ask(ledger.admit_user("alice", UserLimits()))
    ask(ledger.admit_user("alice", UserLimits(sessions=2)))
    ask(ledger.admit_user("bob", UserLimits()))
    lease.release()
    ask(ledger.admit_user("alice", UserLimits(sessions=2)))


def test_transfers_of_a_user(ask: Ask) -> None:
    """A transfer counts while its context lasts, also when it fails; one too many gets 450."""
    ledger = ask.ledger(Limits(transfers_per_user=1))
    leases = [ask(ledger.admit_user("alice", UserLimits())) for _ in range(2)]

    async def both() -> None:
        async with leases[0].transfer():
            async with leases[1].transfer():
                pytest.fail("two transfers at the same time")

    for _ in range(2):
        with pytest.raises(Refusal, match="450"):
            ask(both())


def test_rates_are_shared_as_the_settings_say(ask: Ask) -> None:
    """A session has a rate of its own, shares the user's with the user's sessions, and the server's with all."""
    ledger = ask.ledger(Limits(session_download_rate=10_000, download_rate=50_000))  # type: ignore[arg-type]
    own = UserLimits(download_rate=20_000)  # type: ignore[arg-type]
    first, second = (ask(ledger.admit_user("alice", own)).rate_limits("download") for _ in range(2))
    other = ask(ledger.admit_user("bob", UserLimits())).rate_limits("download")
    assert [limit.rate for limit in first] == [10_000, 20_000, 50_000]
    assert [limit.rate for limit in other] == [10_000, 50_000]
    assert first[0] is not second[0]
    assert first[1] is second[1]
    assert first[2] is second[2] is other[1]
    lease = ask(ledger.admit_user("bob", UserLimits()))
    assert not lease.rate_limits("upload")
    assert lease.rates == "10000 bytes/s down"


def staff(**limits: int) -> Share:
    """What the members of a group share."""
    return Share("group", "staff", SharedLimits(**limits))  # type: ignore[arg-type]


def test_sessions_of_a_group(ask: Ask) -> None:
    """Sessions of all members count together, and one too many names the group; other users are not affected."""
    ledger, share = ask.ledger(), staff(sessions=2)
    lease = ask(ledger.admit_user("alice", UserLimits(), [share]))
    ask(ledger.admit_user("bob", UserLimits(), [share]))
    with pytest.raises(SessionEnd, match=r"Too many sessions of the group staff \(limit: 2\)"):
        ask(ledger.admit_user("carol", UserLimits(), [share]))
    ask(ledger.admit_user("carol", UserLimits()))
    lease.release()
    ask(ledger.admit_user("carol", UserLimits(), [share]))


def test_a_refused_session_counts_nowhere(ask: Ask) -> None:
    """A session that one limit refuses is not counted for the others."""
    ledger, share = ask.ledger(), staff(sessions=2)
    ask(ledger.admit_user("alice", UserLimits(sessions=1), [share]))
    for _ in range(3):
        with pytest.raises(SessionEnd, match="of this user"):
            ask(ledger.admit_user("alice", UserLimits(sessions=1), [share]))
    ask(ledger.admit_user("bob", UserLimits(), [share]))


def test_transfers_of_a_group(ask: Ask) -> None:
    """Transfers of all members count together; one too many gets 450, which names the group."""
    ledger, share = ask.ledger(), staff(transfers=1)
    alice, bob = (ask(ledger.admit_user(name, UserLimits(), [share])) for name in ("alice", "bob"))

    async def both() -> None:
        async with alice.transfer(), bob.transfer():
            pytest.fail("two transfers at the same time")

    for _ in range(2):
        with pytest.raises(Refusal, match=r"Too many transfers of the group staff \(limit: 1\)"):
            ask(both())


def test_rates_of_a_group(ask: Ask) -> None:
    """The members share the rate of their group; a changed rate holds for later sessions, which share the new one."""
    ledger = ask.ledger()
    first, second = (
        ask(ledger.admit_user(name, UserLimits(), [staff(upload_rate=9000)])).rate_limits("upload")
        for name in ("alice", "bob")
    )
    assert first[0] is second[0] and first[0].rate == 9000
    later = ask(ask.ledger().admit_user("alice", UserLimits(), [staff(upload_rate=5000)])).rate_limits("upload")
    assert later[0] is not first[0] and later[0].rate == 5000


def test_few_descriptors(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last descriptors are for the sessions that exist."""
    monkeypatch.setattr(session_counts, "descriptors_are_short", lambda: True)
    with pytest.raises(SessionRefused, match="open files"):
        ask(ask.ledger().admit_session(HOME))


def test_a_home_is_counted_for_all_who_use_it(ask: Ask) -> None:
    """Each charge counts for everybody in the home, and one that would exceed a limit adds nothing."""
    ledger, reloaded = ask.ledger(), ask.ledger()
    mine, theirs, other = ledger.home("/srv/a"), reloaded.home("/srv/a"), ledger.home("/srv/b")
    assert ledger.knows_home("/srv/a") and not ledger.knows_home("/srv/c")
    limit = QuotaLimits(QuotaSettings(bytes=1000, files=2))
    mine.charge(Amount(600, 1), limit)
    with pytest.raises(Refusal, match="Quota exceeded: 600 bytes of 1000 bytes used"):
        theirs.charge(Amount(401), limit)
    theirs.charge(Amount(400, 1), limit)
    with pytest.raises(Refusal, match="Quota exceeded: 2 of 2 files"):
        mine.charge(Amount(files=1), limit)
    mine.charge(Amount(-500, -1), limit)
    assert (mine.amount, theirs.amount, other.amount) == (Amount(500, 1), Amount(500, 1), Amount())
    assert not mine.set(Amount(1, 1), 0, mine.names.changes - 1)  # names have changed since the walk began
    assert mine.set(Amount(2000, 7), 0, mine.names.changes)
    mine.charge(Amount(-1), limit)
    assert theirs.amount == Amount(2499, 8)  # with what is charged


def test_a_group_counts_the_homes_of_its_members(ask: Ask) -> None:
    """What one home holds counts for the group in the same step, whoever changes it; each home counts once."""
    ledger = ask.ledger()
    mine, theirs, group = ledger.home("/srv/a"), ledger.home("/srv/b"), ledger.group("staff")
    assert theirs.set(Amount(600, 1), 0, theirs.names.changes)
    for home in ("/srv/a", "/srv/b", "/srv/a"):
        group.include(home)
    limits = QuotaLimits(groups=(GroupLimit("staff", group, QuotaSettings(bytes=1000, files=4)),))
    mine.charge(Amount(300, 1), limits)
    with pytest.raises(Refusal, match="Quota of the group staff exceeded: 900 bytes of 1000 bytes used"):
        mine.charge(Amount(101), limits)
    assert mine.amount == Amount(300, 1) and group.amount == Amount(900, 2)
    theirs.charge(Amount(5000), QuotaLimits())  # by a user of that home who is not in the group
    theirs.correct(Amount(-5600), [(Amount(500, 2), limits)])
    assert group.amount == Amount(800, 4)
    with pytest.raises(Refusal, match="Quota of the group staff exceeded: 4 of 4 files"):
        mine.charge(Amount(files=1), limits)
    group.exclude("/srv/b")
    theirs.charge(Amount(10_000), QuotaLimits())
    assert group.amount == mine.amount == Amount(300, 1)


def test_a_home_in_several_groups(ask: Ask) -> None:
    """Each group's limit must be kept, and a charge that one of them refuses counts for none."""
    ledger = ask.ledger()
    home, wide, narrow = ledger.home("/srv/a"), ledger.group("wide"), ledger.group("narrow")
    for group in (wide, narrow):
        group.include("/srv/a")
    limits = QuotaLimits(
        groups=(
            GroupLimit("wide", wide, QuotaSettings(bytes=1000)),
            GroupLimit("narrow", narrow, QuotaSettings(bytes=100)),
        )
    )
    with pytest.raises(Refusal, match="of the group narrow"):
        home.charge(Amount(101), limits)
    assert home.amount == wide.amount == narrow.amount == Amount()
    home.charge(Amount(100), limits)
    assert home.amount == wide.amount == narrow.amount == Amount(100)


def test_measured_changes_have_no_limit(ask: Ask) -> None:
    """What was measured counts whatever it is; charges in the same step keep their limits."""
    home = ask.ledger().home("/srv/a")
    home.correct(Amount(5000, 1), [])
    home.correct(Amount(-4500), [(Amount(500), QuotaLimits(QuotaSettings(bytes=1000)))])
    assert home.amount == Amount(1000, 1)
    with pytest.raises(Refusal, match="552"):
        home.correct(Amount(3, 1), [(Amount(1), QuotaLimits(QuotaSettings(bytes=1000)))])
    assert home.amount == Amount(1003, 2)


# --- sessions whose ledger answers late ----------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Server:
    """A server whose ledger answers late, with room for one session of an address."""
    state: list[LedgerState] = []

    def make(clock: Clock, settings: Any) -> Ledger:
        state.append(LedgerState(clock.seconds))
        return LateLedger(LocalLedger(state[0], settings.limits, settings.bans), clock)

    server = Server(tmp_path, {"limits": Limits(sessions_per_address=1)}, make_ledger=make)
    server.counts = state[0]
    return server


def test_a_connection_waits_for_the_ledger(server: Server) -> None:
    """The greeting comes when the ledger has admitted the session; nothing is read before."""
    client = server.connect()
    assert client.heard() == ""
    assert client.transport.producerState == "paused"
    server.clock.advance(DELAY)
    assert client.heard().startswith("220 ")
    assert client.transport.producerState == "producing"
    assert client.say("NOOP").startswith("200 ")


def test_a_refusal_comes_late(server: Server) -> None:
    """A connection that the ledger refuses gets 421 when the ledger has answered."""
    server.connect()
    server.clock.advance(DELAY)
    refused = server.connect()
    assert refused.heard() == ""
    server.clock.advance(DELAY)
    assert refused.heard().startswith("421 ")
    assert refused.transport.disconnecting


def test_a_client_that_leaves_before_the_answer(server: Server) -> None:
    """A connection that is lost while the ledger decides is not counted."""
    client = server.connect()
    client.leave()
    server.clock.advance(DELAY)
    assert server.counts.sessions.total == 0
    assert len(server.sessions) == 0


def test_a_ledger_that_does_not_answer(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection waits for the ledger no longer than for a login; an admission that comes later is given back."""
    monkeypatch.setattr(late_ledger, "DELAY", 1000)
    client = server.connect()
    server.clock.advance(59)
    assert client.heard() == ""
    server.clock.advance(2)
    assert client.heard() == "421 Service not available: try again later.\r\n"
    assert client.transport.disconnecting
    server.clock.advance(1000)
    assert client.heard() == ""
    assert server.counts.sessions.total == 0
    assert len(server.sessions) == 0


def test_a_login_waits_for_the_ledger(server: Server) -> None:
    """A login takes as long as the ledger does, and commands behind it wait for it."""
    client = server.connect()
    server.clock.advance(DELAY)
    client.heard()
    client.say("USER alice")
    client.send(b"PASS secret\r\nPWD\r\n")
    assert client.heard() == ""
    for _ in range(5):
        server.clock.advance(DELAY)
    assert [line[:3] for line in client.heard().splitlines()] == ["230", "257"]


@pytest.mark.parametrize("answers", range(5))
def test_a_client_that_leaves_during_its_login(server: Server, answers: int) -> None:
    """A client that has gone holds no session of the user, however many answers of the ledger its login had."""
    client = server.connect()
    server.clock.advance(DELAY)
    client.say("USER alice")
    client.send(b"PASS secret\r\n")
    for _ in range(answers):
        server.clock.advance(DELAY)
    client.leave()
    for _ in range(5):
        server.clock.advance(DELAY)
    assert not server.counts.users.sessions
