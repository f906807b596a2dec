"""Users of a source that ignores case: one user, however the client spells the name."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import succeed

from ftpsd.accounts import hashes
from ftpsd.accounts.certificate_checker import CertificateChecker, CertificateCredentials, LoginIncorrect
from ftpsd.accounts.chain import recent
from ftpsd.accounts.chain.watch import RETRY
from ftpsd.accounts.one_time.totp import UsedCodes
from ftpsd.accounts.password_checker import LoginCredentials, PasswordChecker
from ftpsd.accounts.user_store import LoginDenied, SourceFailed, UnknownUser, WrongPassword
from ftpsd.protocol.addresses import plain_address
from ftpsd.system.tls.client_certificates import ClientCertificate
from tests.daemon import SECRET
from tests.memory_sources import Chain, MemorySource, admit, result

PEER = plain_address("192.0.2.1")

KEY = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"


class Memory:
    """The state in memory, which is written immediately."""

    def put(self, *_: object) -> Any:
        """Write nothing."""
        return succeed(None)


def ignoring_case(**users: dict[str, Any]) -> MemorySource:
    """Return a source that ignores case."""
    source = MemorySource(**users)
    source.ignores_case = True
    return source


@pytest.mark.parametrize(
    ("kept", "password"),
    [("password", "wrong"), *((kept, sent) for kept in ("plain", "password") for sent in ("secret000000", "secret"))],
)
def test_failures_count_for_the_user(tmp_path: Path, kept: str, password: str) -> None:
    """A wrong password, a wrong code and a missing code count for the user, and not for the name that was sent."""
    source = ignoring_case(bob={kept: "secret" if kept == "plain" else SECRET, "home": "bob", "totp": KEY})
    store: Any = Memory()
    checker = PasswordChecker(Chain(tmp_path, source).store, UsedCodes(store, time.time), time.time)
    with pytest.raises(LoginIncorrect) as caught:
        result(checker.requestAvatarId(LoginCredentials(b"BoB", password.encode(), PEER, admit)))
    assert caught.value.user == "bob"


def test_another_spelling_costs_as_many_questions(tmp_path: Path) -> None:
    """The time does not tell that a user is known in another spelling: each source is asked as often as about nobody."""
    first = MemorySource()
    source = ignoring_case(bob={"password": SECRET, "home": "bob", "totp": KEY})
    store: Any = Memory()
    checker = PasswordChecker(Chain(tmp_path, first, source).store, UsedCodes(store, time.time), time.time)
    asked = []
    for name in (b"nobody", b"bob", b"BoB"):
        first.asked.clear()
        source.asked.clear()
        with pytest.raises(LoginIncorrect):
            result(checker.requestAvatarId(LoginCredentials(name, b"wrong000000", PEER, admit)))
        asked.append((len(first.asked), len(source.asked)))
    assert asked == [(2, 2)] * 3


def test_failures_with_a_certificate_count_for_the_user(tmp_path: Path) -> None:
    """Another user's certificate, and a wrong code, count for the user and not for the name that was sent."""
    source = ignoring_case(bob={"plain": "secret", "home": "bob", "totp": KEY})
    store: Any = Memory()
    checker = CertificateChecker(Chain(tmp_path, source).store, UsedCodes(store, time.time), time.time)
    for name in ("alice", "bob"):
        certificate = ClientCertificate(f"CN={name}", "ab", "cn", (name,))
        with pytest.raises(LoginIncorrect) as caught:
            result(checker.requestAvatarId(CertificateCredentials("BoB", certificate, PEER, admit, "000000")))
        assert caught.value.user == "bob"


@pytest.mark.parametrize("kept", ["plain", "password"])
def test_users_yaml_decides_in_every_spelling(tmp_path: Path, kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user disabled in users.yaml does not get in as BOB by a later source. It costs one hash, as for any name."""
    source = ignoring_case(bob={kept: "secret" if kept == "plain" else SECRET, "home": "bob"})
    chain = Chain(tmp_path, source)
    assert chain.log_in("BOB").name == "bob"
    chain.load(f"users: {{bob: {{password: '{SECRET}', home: {tmp_path}/alice, enabled: false}}}}\n")
    verify, verified = hashes.verify, []
    monkeypatch.setattr(hashes, "verify", lambda *both: verified.append(both) or verify(*both))
    for failure in (SourceFailed("down"), None):
        source.failure = failure
        chain.clock.advance(RETRY)
        verified.clear()
        chain.raises(UnknownUser, "BOB")
        assert len(verified) == 1
        assert not chain.log_in("bob").settings.enabled
    with pytest.raises(UnknownUser):
        result(chain.store.find("BOB"))


def test_users_yaml_behind_the_source(tmp_path: Path) -> None:
    """A source before users.yaml decides about its own users, in every spelling."""
    chain = Chain(tmp_path, ignoring_case(yann={"plain": "other", "home": "bob"}), place=1)
    assert chain.log_in("YANN", "other").settings.home == f"{tmp_path}/bob"
    assert result(chain.store.find("YANN")).name == "yann"


def test_one_login_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who logs in with many spellings displaces no other from what is remembered, and only the last ones count."""
    monkeypatch.setattr(recent, "MOST", 10)
    source = ignoring_case(bob={"plain": "secret", "home": "bob"}, alice={"plain": "secret", "home": "alice"})
    chain = Chain(tmp_path, source)
    chain.log_in("bob")
    spellings = ["".join(each) for each in itertools.product(*zip("alice", "ALICE", strict=True))]
    for name in spellings:
        chain.log_in(name)
    assert chain.recent.count(chain.running[0]) == 2 and chain.recent.names() == ["bob", "ALICE"]
    source.failure = SourceFailed("down")
    assert chain.log_in("bob").name == "bob"
    assert all(chain.log_in(name).name == "alice" for name in spellings[-recent.MOST_NAMES :])
    chain.raises(SourceFailed, spellings[0])


@pytest.mark.parametrize("change", ["removed", "denied", "password"])
def test_a_refusal_forgets_all_spellings(tmp_path: Path, change: str) -> None:
    """A user who is refused in one spelling does not get in with another one while the source is down."""
    source = ignoring_case(bob={"password": SECRET, "home": "bob"})
    chain = Chain(tmp_path, source)
    for name in ("bob", "Bob", "BOB"):
        chain.log_in(name)
    if change == "removed":
        source.users = {}
        chain.raises(UnknownUser, "Bob")
    elif change == "denied":
        source.failure = LoginDenied("no")
        chain.raises(LoginDenied, "Bob")
    else:
        source.users["bob"]["password"] = SECRET[:-4] + "abcd"
        chain.raises(WrongPassword, "boB")
    source.failure = SourceFailed("down")
    for name in ("bob", "Bob", "BOB"):
        chain.raises(SourceFailed, name)


def test_the_last_password_counts(tmp_path: Path) -> None:
    """A password that was changed is replaced for all spellings by a login with one of them."""
    source = ignoring_case(bob={"plain": "old", "home": "bob"})
    chain = Chain(tmp_path, source)
    for name in ("bob", "Bob"):
        chain.log_in(name, "old")
    source.users["bob"]["plain"] = "new"
    chain.log_in("BOB", "new")
    source.failure = SourceFailed("down")
    chain.raises(SourceFailed, "bob", "old")
    assert chain.log_in("bob", "new").name == "bob"


def test_a_name_moves_to_another_user(tmp_path: Path) -> None:
    """A name that another place decides about now is no longer that of the remembered user."""
    first, second = MemorySource(), ignoring_case(bob={"plain": "secret", "home": "bob"})
    chain = Chain(tmp_path, first, second)
    for name in ("bob", "Bob"):
        chain.log_in(name)
    first.users["bob"] = {"plain": "first", "home": "alice"}
    chain.log_in("bob", "first")
    first.failure = second.failure = SourceFailed("down")
    assert chain.log_in("bob", "first").settings.home == f"{tmp_path}/alice"
    assert chain.log_in("Bob").settings.home == f"{tmp_path}/bob"
    chain.raises(SourceFailed, "bob", "secret")
