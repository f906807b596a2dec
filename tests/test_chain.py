"""The store that asks the YAML files and the sources in order: who decides, and what happens while a source fails."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock

from ftpsd.accounts import hash_verifier, hashes
from ftpsd.accounts.chain.homes import KnownHomes
from ftpsd.accounts.chain.recent import GUESSES, RecentLogins
from ftpsd.accounts.chain.running import GRACE, MOST_ABANDONED, MOST_WAITING, RunningSource
from ftpsd.accounts.chain.sources import RunningSources
from ftpsd.accounts.chain.store import ChainStore
from ftpsd.accounts.chain.watch import RETRY
from ftpsd.accounts.sources.source import Answer, ConfiguredSource, Question
from ftpsd.accounts.user_store import CannotLookUp, Homes, LoginDenied, SourceFailed, UnknownUser, WrongPassword
from ftpsd.config.sections.sources import RemoteSource
from ftpsd.config.settings import UserSettings
from ftpsd.protocol.addresses import plain_address
from ftpsd.protocol.replies import Refusal
from tests.daemon import SECRET
from tests.memory_sources import Chain, MemorySource, Threads, admit, begin, result

PEER = plain_address("192.0.2.1")


async def all_names(store: ChainStore) -> list[str]:
    """Return all that `names` yields."""
    return [name async for name in store.names()]


def bob(**values: object) -> MemorySource:
    """Return a source that knows Bob and Alice and checks their passwords."""
    return MemorySource(bob={"plain": "secret", "home": "bob", **values}, alice={"plain": "secret", "home": "alice"})


# --- who decides ---------------------------------------------------------------------------------


def test_sources_are_asked_in_order(tmp_path: Path) -> None:
    """The first source that knows the name decides, also with a wrong password; the others are not asked."""
    first, second = MemorySource(bob={"plain": "first", "home": "alice"}), bob()
    chain = Chain(tmp_path, first, second)
    assert chain.log_in("bob", "first").settings.home == f"{tmp_path}/alice"
    chain.raises(WrongPassword, "bob", "secret")
    assert second.asked == []
    assert chain.log_in("alice").settings.home == f"{tmp_path}/alice"
    chain.raises(UnknownUser, "carol")
    assert first.asked == ["bob", "bob", "alice", "carol"] and second.asked == ["alice", "carol"]


def test_yaml_is_first(tmp_path: Path) -> None:
    """A user of users.yaml logs in without a question to any source, and is not affected by one that fails."""
    source = MemorySource(yann={"plain": "other", "home": "bob"})
    source.failure = SourceFailed("down")
    chain = Chain(tmp_path, source)
    assert chain.log_in("yann").settings.home == f"{tmp_path}/yann"
    chain.raises(WrongPassword, "yann", "other")
    assert source.asked == []


def test_yaml_may_stand_elsewhere(tmp_path: Path) -> None:
    """With `type: yaml` behind a source, the source decides first."""
    chain = Chain(tmp_path, MemorySource(yann={"plain": "other", "home": "bob"}), MemorySource(), place=1)
    assert chain.log_in("yann", "other").settings.home == f"{tmp_path}/bob"
    chain.raises(WrongPassword, "yann")


def test_hashes_of_a_source(tmp_path: Path) -> None:
    """A source that stores hashes leaves the check to the daemon. A user without a hash cannot be checked: 451."""
    chain = Chain(tmp_path, MemorySource(bob={"password": SECRET, "home": "bob"}, alice={"home": "alice"}))
    assert chain.log_in("bob").settings.home == f"{tmp_path}/bob"
    chain.raises(WrongPassword, "bob", "wrong")
    assert "memory[0]: the user alice: password is missing" in chain.raises(SourceFailed, "alice")


def test_names_in_the_form_of_the_source(tmp_path: Path) -> None:
    """A user of a source that ignores case has the name that the source stores."""
    source = bob()
    source.ignores_case = True
    assert Chain(tmp_path, source).log_in("BoB").name == "bob"


@pytest.mark.parametrize("first", [{"plain": "other"}, {"plain": "secret"}, {"password": SECRET}])
def test_another_spelling_is_no_way_around_a_source(tmp_path: Path, first: dict[str, Any]) -> None:
    """A source that ignores case decides about no user whom an earlier source knows, whichever spelling is sent.

    That user may be disabled there, and the two would share a name, limits and `{user}` in the home.
    """
    later = bob()
    later.ignores_case = True
    chain = Chain(tmp_path, MemorySource(bob={**first, "home": "yann", "enabled": False}), later)
    assert not chain.log_in("bob", first.get("plain", "secret")).settings.enabled
    chain.raises(UnknownUser, "BOB")
    chain.raises(WrongPassword, "BOB", "other")
    with pytest.raises(UnknownUser):
        result(chain.store.find("BOB"))
    assert chain.log_in("ALICE").name == "alice"


def test_another_spelling_while_an_earlier_source_is_down(tmp_path: Path) -> None:
    """A source that fails may know the name in the form of the later one, too: 451, unless it did not at the last login."""
    first, later = MemorySource(), bob()
    later.ignores_case = True
    chain = Chain(tmp_path, first, later)
    assert chain.log_in("BOB").name == "bob"
    first.failure = SourceFailed("down")
    assert chain.log_in("BOB").name == "bob"
    chain.raises(SourceFailed, "ALICE")


def test_another_spelling_while_an_earlier_source_is_busy(tmp_path: Path) -> None:
    """A source that fails and is up may know the user by now: 451, whatever it knew at the last login."""

    class Busy(MemorySource):
        def ask(self, question: Question) -> Answer | None:
            if self.users and question.name == "bob":
                raise SourceFailed("busy")
            return super().ask(question)

    first, later = Busy(), bob()
    later.ignores_case = True
    chain = Chain(tmp_path, first, later)
    assert chain.log_in("BOB").name == "bob"
    first.users["bob"] = {"plain": "secret", "home": "bob", "enabled": False}
    assert "busy" in chain.raises(SourceFailed, "BOB")


@pytest.mark.parametrize(
    ("name", "password"), [("", "x"), ("bob", ""), ("b\0b", "x"), ("bob", "a\0"), ("x" * 1001, "x"), ("bob", "é" * 501)]
)
def test_what_is_never_asked(tmp_path: Path, name: str, password: str) -> None:
    """Names and passwords that are empty, hold NUL or are too long are refused without a question.

    An LDAP server takes an empty password for an anonymous login, which succeeds.
    """
    source = MemorySource(bob={"plain": password, "home": "bob"})
    chain = Chain(tmp_path, source)
    chain.raises(UnknownUser, name, password)
    assert source.asked == []


def test_a_denial(tmp_path: Path) -> None:
    """A source may refuse a login with a reason, in one line that can be sent."""
    source = bob()
    source.failure = LoginDenied("Password expired:\r\n230 change it\x1b[2J.")
    with pytest.raises(LoginDenied) as caught:
        Chain(tmp_path, source).log_in("bob")
    assert caught.value.denial.text == r"Password expired:\r\n230 change it\x1b[2J."


# --- while a source fails --------------------------------------------------------------------------


def test_a_failure_is_no_wrong_password(tmp_path: Path) -> None:
    """While a source fails, names that it might know cannot be checked, also if a later source knows them."""
    source = MemorySource()
    source.failure = SourceFailed("connection refused")
    chain = Chain(tmp_path, source, bob())
    assert chain.raises(SourceFailed, "bob") == "source memory[0]: connection refused"
    source.failure = ZeroDivisionError("in the library")
    chain.clock.pump([RETRY] * 2)
    assert "memory[0]: internal error: ZeroDivisionError" in chain.raises(SourceFailed, "bob")


def test_a_login_without_its_source(tmp_path: Path) -> None:
    """A user who has logged in recently gets in while the source is down, with the same password only."""
    source = bob()
    chain = Chain(tmp_path, source)
    before = chain.log_in("bob")
    source.failure = SourceFailed("down")
    assert chain.log_in("bob") == before
    chain.raises(SourceFailed, "bob", "wrong")
    chain.raises(SourceFailed, "alice")
    chain.clock.advance(3601)
    chain.raises(SourceFailed, "bob")
    source.failure = None
    chain.clock.advance(RETRY)
    assert chain.log_in("bob") == before


def test_guessing_while_a_source_is_down(tmp_path: Path) -> None:
    """While a source is down, nothing counts towards a ban: so a network has ten guesses, and then no login."""
    source = bob()
    chain = Chain(tmp_path, source)
    chain.log_in("bob")
    source.failure = SourceFailed("down")
    for _ in range(GUESSES):
        chain.raises(SourceFailed, "bob", "wrong", "198.51.100.1")
    chain.raises(SourceFailed, "bob", "secret", "198.51.100.1")
    assert chain.log_in("bob").name == "bob"
    for number in range(30):  # from many networks
        chain.raises(SourceFailed, "bob", "wrong", f"203.0.113.{number}")
    chain.raises(SourceFailed, "bob")


def test_who_is_forgotten(tmp_path: Path) -> None:
    """A removed user, one with a new password and one who is denied do not get in while the source is down."""
    for change in ("removed", "password", "denied"):
        source = bob()
        chain = Chain(tmp_path, source)
        chain.log_in("bob")
        users, source.users = source.users, {"bob": {**source.users["bob"], "plain": "new"}}
        if change == "removed":
            source.users = {}
            chain.raises(UnknownUser, "bob")
        elif change == "password":
            chain.raises(WrongPassword, "bob", "a mere guess")
            chain.raises(WrongPassword, "bob")  # the password was changed
        else:
            source.failure = LoginDenied("no")
            chain.raises(LoginDenied, "bob")
        source.users, source.failure = users, SourceFailed("down")
        chain.raises(SourceFailed, "bob")


@pytest.mark.parametrize("change", ["removed", "disabled", "denied"])
def test_who_is_forgotten_without_a_password(tmp_path: Path, change: str) -> None:
    """A login with a certificate is refused, too, while the source is down, if one was refused before."""
    source = bob()
    chain = Chain(tmp_path, source)
    chain.log_in("bob")
    if change == "removed":
        source.users = {}
        with pytest.raises(UnknownUser):
            result(chain.store.find("bob"))
    elif change == "disabled":
        source.users["bob"]["enabled"] = False
        assert not result(chain.store.find("bob")).settings.enabled
    else:
        source.failure = LoginDenied("no")
        with pytest.raises(LoginDenied):
            result(chain.store.find("bob"))
    source.failure = SourceFailed("down")
    with pytest.raises(SourceFailed):
        result(chain.store.find("bob"))
    chain.raises(SourceFailed, "bob")


def test_a_guess_forgets_nobody(tmp_path: Path) -> None:
    """A wrong password does not take away the login of the user while the source is down."""
    source = bob()
    chain = Chain(tmp_path, source)
    chain.log_in("bob")
    chain.raises(WrongPassword, "bob", "wrong")
    for password in ("", "x" * 1001):  # what no source is asked about
        chain.raises(UnknownUser, "bob", password)
    source.failure = SourceFailed("down")
    assert chain.log_in("bob").name == "bob"


def test_a_disabled_user_without_the_source(tmp_path: Path) -> None:
    """The settings of the last login hold while the source is down: a user whom it disabled stays disabled."""
    source = bob()
    chain = Chain(tmp_path, source)
    chain.log_in("bob")
    source.users["bob"]["enabled"] = False
    assert not chain.log_in("bob").settings.enabled
    source.failure = SourceFailed("down")
    assert not chain.log_in("bob").settings.enabled


def test_renamed_and_recreated_users(tmp_path: Path) -> None:
    """A user who was renamed has the new name only; one who was recreated has the new settings."""
    source = bob()
    chain = Chain(tmp_path, source)
    chain.log_in("bob")
    source.users["robert"] = source.users.pop("bob")
    chain.raises(UnknownUser, "bob")
    assert chain.log_in("robert").settings.home == f"{tmp_path}/bob"
    source.users["bob"] = {"plain": "another", "home": "alice"}
    chain.raises(WrongPassword, "bob")
    assert chain.log_in("bob", "another").settings.home == f"{tmp_path}/alice"
    source.failure = SourceFailed("down")
    chain.raises(SourceFailed, "bob")
    assert chain.log_in("bob", "another").settings.home == f"{tmp_path}/alice"


def test_a_source_that_is_late_once(tmp_path: Path) -> None:
    """The password of the last login is not enough while the source is up: it may have another one by now."""
    source, behind = bob(), MemorySource(carol={"plain": "secret", "home": "bob"})
    chain = Chain(tmp_path, source, behind)
    for name in ("bob", "carol"):
        chain.log_in(name)
    source.users["bob"]["plain"] = "new"
    for name in ("bob", "carol"):
        chain.threads[0].hanging = True
        late = begin(chain.store.verify(name, "secret", PEER, admit))
        chain.clock.advance(source.timeout + GRACE)
        assert not late.called  # the probe decides
        chain.threads[0].finish()
        late.addErrback(lambda failure: failure.trap(SourceFailed))
        assert result(late) is SourceFailed
        chain.threads[0].hanging = False
    chain.raises(WrongPassword, "bob")
    chain.log_in("carol")


def test_a_source_that_is_busy(tmp_path: Path) -> None:
    """The password of the last login is not enough either while too many logins wait for the source."""
    source = bob()
    chain = Chain(tmp_path, source)
    chain.log_in("bob")
    chain.threads[0].hanging = True
    for number in range(source.concurrency):
        begin(chain.store.verify(f"other{number}", "x", plain_address("198.51.100.1"), admit)).addErrback(
            lambda _: None
        )
    busy = begin(chain.store.verify("bob", "secret", PEER, admit))
    busy.addErrback(lambda failure: str(failure.value))
    chain.clock.advance(source.timeout)
    assert result(busy) == "source memory[0]: too many logins wait for it"  # type: ignore[comparison-overlap]


def test_the_probe_after_the_first_failure(tmp_path: Path) -> None:
    """A login whose question finds the source down waits for the probe, and so does the next; both get in."""
    source = bob()
    chain = Chain(tmp_path, source)
    chain.log_in("bob")
    source.failure = SourceFailed("down")
    chain.threads[0].hanging = True
    first = begin(chain.store.verify("bob", "secret", PEER, admit))
    chain.threads[0].finish()  # the question; the probe runs now
    second = begin(chain.store.verify("bob", "secret", PEER, admit))
    assert not first.called and not second.called
    chain.threads[0].finish()
    assert result(first).name == result(second).name == "bob"


def test_a_source_that_is_closed_during_a_probe(tmp_path: Path) -> None:
    """A login that waits for the probe ends with it, also after a reload that removed the source."""
    source = bob()
    chain = Chain(tmp_path, source)
    chain.log_in("bob")
    source.failure = SourceFailed("down")
    chain.threads[0].hanging = True
    waiting = begin(chain.store.verify("bob", "secret", PEER, admit))
    chain.threads[0].finish()
    chain.running[0].close()
    chain.threads[0].finish()
    with pytest.raises(SourceFailed):
        result(waiting)
    with pytest.raises(SourceFailed, match="not in the configuration"):
        chain.log_in("bob")


def test_users_of_a_later_source(tmp_path: Path) -> None:
    """While a source is down that did not know a user at the last login, a later source decides."""
    first, second = MemorySource(), bob()
    chain = Chain(tmp_path, first, second, place=1)
    chain.log_in("bob")
    chain.log_in("yann")
    first.failure = SourceFailed("down")
    second.users["bob"]["plain"] = "new"
    assert chain.log_in("bob", "new").name == "bob"
    chain.raises(WrongPassword, "bob", "secret")
    chain.load(f"users: {{yann: {{password: '{SECRET}', home: {tmp_path}/yann}}}}\n")
    assert chain.log_in("yann").name == "yann"
    chain.raises(SourceFailed, "alice")


def test_a_source_that_is_down_is_not_asked(tmp_path: Path) -> None:
    """After a failure the source is probed. While that fails, too, no question is asked; then they are again."""
    source = bob()
    chain = Chain(tmp_path, source)
    source.failure = SourceFailed("down")
    for _ in range(5):
        chain.raises(SourceFailed, "bob")
    assert source.asked == ["bob"] and source.probes == 1
    chain.clock.pump([RETRY] * 3)
    assert source.probes == 4
    source.failure = None
    chain.clock.advance(RETRY)
    chain.log_in("bob")
    chain.clock.pump([RETRY] * 3)
    assert source.probes == 5
    status = chain.running[0].status(0)
    assert (status.state, dict(status.results)) == ("up", {"failed": 1, "found": 1})


def test_one_bad_record_does_not_stop_a_source(tmp_path: Path) -> None:
    """A question that fails for one user does not take the source away from others: the probe works."""
    source = bob()
    chain = Chain(tmp_path, source)
    source.users["bob"] = {"plain": "secret", "home": "bob", "quota": {"bytes": "lots"}}
    assert "source memory[0]: the user bob: quota.bytes: “lots” is not a size" in chain.raises(SourceFailed, "bob")
    assert chain.log_in("alice").name == "alice"
    assert source.probes == 0


def test_a_source_that_looks_up_nobody(tmp_path: Path) -> None:
    """A look-up that a source cannot make has a clear reason, and is no failure: it is not counted, and causes no probe."""
    source = bob()
    chain = Chain(tmp_path, source)
    chain.log_in("bob")
    source.failure = CannotLookUp("users cannot be looked up")
    for name in ("bob", "alice"):
        with pytest.raises(CannotLookUp, match=r"source memory\[0\]: users cannot be looked up"):
            result(chain.store.find(name))
    status = chain.running[0].status(0)
    assert (source.probes, status.state, status.error, dict(status.results)) == (0, "up", "", {"found": 1})
    assert "bob" in chain.recent


def test_a_slow_source(tmp_path: Path) -> None:
    """A question has a deadline. Its thread is left alone, and after some such threads no more are started."""
    source = bob()
    chain = Chain(tmp_path, source)
    chain.threads[0].hanging = True
    errors: list[str] = []
    most = MOST_ABANDONED * source.concurrency
    for _ in range(most + 8):
        waiting = begin(chain.store.verify("bob", "secret", PEER, admit))
        waiting.addErrback(lambda failure: errors.append(str(failure.value)))
        chain.clock.advance(source.timeout + 1)
    assert errors[0] == "source memory[0]: no answer within 6 seconds"
    assert chain.threads[0].abandoned == most and errors[-1] == f"source memory[0]: {most} questions hang"
    chain.threads[0].hanging = False
    chain.threads[0].finish()
    chain.clock.pump([RETRY, source.timeout + 1, RETRY])
    assert chain.log_in("bob").name == "bob"


def test_others_are_served_while_a_source_is_slow(tmp_path: Path) -> None:
    """Logins that a slow source must answer delay neither users of users.yaml nor those of a source before it."""
    chain = Chain(tmp_path, MemorySource(alice={"plain": "secret", "home": "alice"}), bob())
    chain.threads[1].hanging = True
    waiting = [begin(chain.store.verify("bob", "secret", PEER, admit)) for _ in range(100)]
    assert chain.log_in("yann").name == "yann" and chain.log_in("alice").name == "alice"
    chain.threads[1].hanging = False
    while not all(each.called for each in waiting):
        chain.threads[1].finish()


def test_the_waiting_line(tmp_path: Path) -> None:
    """Questions wait in line by client network. A client that was banned meanwhile is not asked about."""
    source = bob()
    chain = Chain(tmp_path, source)
    chain.threads[0].hanging = True
    banned = False
    ended: list[str] = []

    async def check() -> None:
        if banned:
            raise Refusal(530, "Banned.")

    def ask(name: str, address: str, check: Callable[[], Awaitable[None]]) -> None:
        waiting = begin(chain.store.verify(name, "secret", plain_address(address), check))
        waiting.addBoth(lambda _: ended.append(name))

    for number in range(MOST_WAITING + 50):
        ask(f"flood{number}", "198.51.100.1", check)
    ask("bob", "192.0.2.1", admit)
    assert len(ended) == 49  # the last ones of the network with the most, so that another one finds a place
    banned = True
    chain.threads[0].finish()
    chain.threads[0].finish()
    assert source.asked == ["flood0", "flood1", "bob"] and len(ended) == MOST_WAITING + 51


# --- time tells nothing ----------------------------------------------------------------------------


def test_failed_logins_cost_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each failed login costs one hash, whoever knows the name, and as much time as if all had been asked."""
    chain = Chain(tmp_path, MemorySource(carol={"password": SECRET, "home": "bob"}), bob())
    verify, verified = hashes.verify, []

    def count(password: str, hashed: str) -> bool:
        verified.append(hashed)
        return verify(password, hashed)

    monkeypatch.setattr(hash_verifier.hashes, "verify", count)
    for running, delay in zip(chain.running, (0.25, 0.5), strict=True):
        running.usual_delay = lambda delay=delay: delay  # type: ignore[method-assign,misc]
    delays = {"yann": 0.75, "carol": 0.5, "bob": 0.0, "nobody": 0.0}
    cases = [(name, delay * times, times == 2) for name, delay in delays.items() for times in (1, 2)]
    for name, delay, after_find in cases:
        waiting = begin(chain.store.verify(name, "wrong", PEER, admit, after_find))
        waiting.addErrback(lambda failure: failure.trap(WrongPassword, UnknownUser))
        chain.clock.advance(delay - 0.01)
        assert waiting.called == (delay == 0)
        chain.clock.advance(0.01)
        assert waiting.called
    assert len(verified) == len(cases)


# --- homes -----------------------------------------------------------------------------------------


def test_homes_grow(tmp_path: Path) -> None:
    """The home of a user who logs in is known from then on, with its quota, also after a reload."""
    chain = Chain(tmp_path, bob(quota={"bytes": "1K"}))
    homes = chain.store.homes
    assert homes.all == {f"{tmp_path}/yann"} and not homes.with_quota
    assert not chain.store.knows("bob")
    chain.log_in("bob")
    chain.log_in("alice")
    assert chain.store.knows("bob")
    assert homes.all == {f"{tmp_path}/yann", f"{tmp_path}/alice", f"{tmp_path}/bob"}
    assert homes.with_quota == {f"{tmp_path}/bob"}
    chain.load("users: {}\n")
    assert sorted(chain.store.homes.outermost) == [f"{tmp_path}/alice", f"{tmp_path}/bob"]


def test_outermost_homes(tmp_path: Path) -> None:
    """Homes of sources in homes of users.yaml, and around them, are swept once."""
    (tmp_path / "yann" / "inner").mkdir(parents=True)
    source = MemorySource(bob={"plain": "secret", "home": "yann/inner"})
    chain = Chain(tmp_path, source)
    chain.log_in("bob")
    assert list(chain.store.homes.outermost) == [f"{tmp_path}/yann"]
    outer = Chain(tmp_path, source, yaml=f"users: {{y: {{password: '{SECRET}', home: {tmp_path}/yann/inner}}}}\n")
    source.users["bob"]["home"] = "yann"
    outer.log_in("bob")
    assert list(outer.store.homes.outermost) == [f"{tmp_path}/yann"]


def test_whether_there_are_homes_outside_stores() -> None:
    """Without any, a store that is down makes the daemon unready (`/ready`), also if users come from sources."""
    known = KnownHomes()
    outermost = known.beside(Homes()).outermost
    assert not outermost and not list(outermost)
    known.add(UserSettings(home="s3:archive/bob"))
    assert not outermost and not list(outermost)
    assert known.beside(Homes({"/srv/y"}, set(), ["/srv/y"])).outermost
    known.add(UserSettings(home="/srv/carol"))
    assert outermost and list(outermost) == ["/srv/carol"]


def test_outermost_of_many_homes() -> None:
    """Thousands of homes of sources beside thousands of directories of homes take well below a second."""
    known = KnownHomes()
    for number in range(3000):
        known.add(UserSettings(home=f"/srv/sql/{number}"))
    known.add(UserSettings(home="/var/www/7"))
    yaml = [f"/var/www/{number}/ftp" for number in range(10_000)]
    homes = Homes({*yaml}, set(), yaml, frozenset(f"/var/www/{number}" for number in range(10_000)))
    both = known.beside(homes)
    known.add(UserSettings(home="/srv/late"))  # they are not looked for by the reactor, but where they are used
    started = time.process_time()
    found = list(both.outermost)
    assert time.process_time() - started < 1
    assert "/srv/late" in found
    assert len(found) == len({*found}) == 10_000 - 1 + 3000 + 2
    assert "/var/www/7" in found
    assert "/var/www/7/ftp" not in found


def test_find(tmp_path: Path) -> None:
    """`find` asks in the same order, without a password."""
    chain = Chain(tmp_path, bob())
    assert result(chain.store.find("bob")).settings.home == f"{tmp_path}/bob"
    assert result(chain.store.find("yann")).settings.home == f"{tmp_path}/yann"
    for name in ("nobody", "", "x" * 2000):
        with pytest.raises(UnknownUser):
            result(chain.store.find(name))


# --- reload ----------------------------------------------------------------------------------------


def test_sources_over_a_reload() -> None:
    """A source whose settings did not change stays, and the copy is unused. Another one is closed after a while."""
    clock = Clock()
    recent = RecentLogins(clock.seconds)
    running = RunningSources(clock, lambda name: Threads(), recent)  # type: ignore[arg-type,return-value]
    made = [MemorySource() for _ in range(4)]

    def load(*numbers: int, secret: str = "s") -> list[RunningSource]:
        settings = RemoteSource(type="memory")
        sources = [
            ConfiguredSource(index, settings, {Path("f"): secret}, made[number])  # type: ignore[arg-type]
            for index, number in enumerate(numbers)
        ]
        return running.use(sources, 60)

    first, second = load(0, 1)
    running.start()
    recent.use(100, [first, second])
    recent.remember("bob", "secret", first, None)
    assert load(2, 3) == [first, second] and made[0].probes == 1 and made[2].probes == 0
    (third,) = load(2, secret="new")
    assert third is not first and made[2].probes == 1
    recent.use(100, [third])
    assert "bob" not in recent
    clock.advance(59)
    assert not made[0].closed
    clock.advance(1)
    assert made[0].closed and made[1].closed and not made[2].closed
    running.stop()
    assert made[2].closed
    with pytest.raises(SourceFailed, match="not in the configuration any more"):
        result(first.ask(Question("bob", "secret", PEER), admit))


def test_a_one_time_password_without_the_source(tmp_path: Path) -> None:
    """The settings of a user can be found while the source is down: without them no code could be checked."""
    source = bob(umask="022")
    chain = Chain(tmp_path, source)
    chain.log_in("bob")
    source.failure = SourceFailed("down")
    assert result(chain.store.find("bob")).settings.umask == 0o22
    with pytest.raises(SourceFailed):
        result(chain.store.find("alice"))


def test_recall(tmp_path: Path) -> None:
    """Users who have logged in are listed and shown without a question to the source."""
    source = bob()
    chain = Chain(tmp_path, source)
    chain.log_in("bob")
    chain.log_in("yann")
    source.asked.clear()
    assert result(all_names(chain.store)) == ["yann", "bob"]
    assert result(chain.store.recall("bob")).settings.home == f"{tmp_path}/bob"
    assert result(chain.store.recall("yann")).settings.home == f"{tmp_path}/yann"
    with pytest.raises(UnknownUser):
        result(chain.store.recall("alice"))
    assert source.asked == []


def test_names_that_a_source_cannot_give(tmp_path: Path) -> None:
    """The name in an answer stands in log lines: one that cannot be printed, or is no text, cannot be used."""
    source = bob()
    chain = Chain(tmp_path, source)
    for name in ("", "a\nb", "\x1b[2J", "\udcff", "x" * 1001, None, 7):
        answer = Answer(name, {"home": "bob"}, verified=True)  # type: ignore[arg-type]
        source.ask = lambda _, answer=answer: answer  # type: ignore[method-assign,misc,assignment]
        chain.raises(SourceFailed, "bob")
    source.ask = lambda _: "yes"  # type: ignore[method-assign,assignment,return-value]
    chain.raises(SourceFailed, "bob")


def test_recent_logins_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest login is forgotten when there are too many, and each after its time."""
    monkeypatch.setattr("ftpsd.accounts.chain.recent.MOST", 3)
    clock = Clock()
    recent = RecentLogins(clock.seconds)
    recent.use(10, ["sql", "ldap"])
    for name in ("a", "b", "c", "a", "d"):
        clock.advance(1)
        recent.remember(name, "secret", "ldap" if name == "a" else "sql", Answer(name, {}, True))
    assert recent.names() == ["c", "a", "d"] and (recent.count("sql"), recent.count("ldap")) == (2, 1)
    recent.forget_users("sql", ["a", "c"])
    assert recent.names() == ["a", "d"] and (recent.count("sql"), recent.count("ldap")) == (1, 1)
    clock.advance(9)
    assert recent.names() == ["d"] and (recent.count("sql"), recent.count("ldap")) == (1, 0)
    recent.use(0, ["sql", "ldap"])
    recent.remember("e", "secret", "sql", None)
    assert "d" not in recent and "e" not in recent
