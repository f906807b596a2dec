"""What every user store promises (`ftpsd.accounts.user_store.UserStore`), and how a login asks it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock

from ftpsd.accounts import hash_verifier
from ftpsd.accounts.hash_verifier import HashVerifier
from ftpsd.accounts.user_store import SourceFailed, UnknownUser, User, UserStore, WrongPassword
from ftpsd.config.settings import QuotaSettings, UserSettings
from ftpsd.config.users.loader import load_users
from ftpsd.protocol.addresses import plain_address
from tests.daemon import SECRET
from tests.inprocess import DirectCalls, Server
from tests.memory_sources import Chain, MemorySource, admit, result
from tests.memory_store import MemoryUserStore

PEER = plain_address("192.0.2.1")


def verifier() -> HashVerifier:
    """Return a verifier that needs no threads."""
    workers: Any = DirectCalls()
    return HashVerifier(workers, Clock())


def yaml_text(directory: Path) -> str:
    """Return a users.yaml with Alice, who has a quota, and Bob, whose home lies in hers."""
    return (
        f"defaults: {{password: '{SECRET}'}}\nusers:\n"
        f"  alice: {{home: '{directory}/alice', quota: {{bytes: 1K}}}}\n"
        f"  bob: {{home: '{directory}/alice/bob'}}\n"
    )


def yaml_users(directory: Path) -> UserStore:
    """Return the store of such a file."""
    path = directory / "users.yaml"
    path.write_text(yaml_text(directory))
    loaded = load_users(path, True)
    store = loaded.store
    assert store is not None, loaded.faults
    return store


def memory_users(directory: Path) -> UserStore:
    """Return a store in memory with the same users."""
    alice = UserSettings("secret", f"{directory}/alice", quota=QuotaSettings(bytes=1024))  # type: ignore[arg-type]
    return MemoryUserStore({"alice": alice, "bob": UserSettings("secret", f"{directory}/alice/bob")})


def chain_users(directory: Path) -> UserStore:
    """Return the store of the YAML files behind a source that knows nobody."""
    return Chain(directory, MemorySource(), place=1, yaml=yaml_text(directory)).store


def source_users(directory: Path) -> UserStore:
    """Return a store whose users only a source knows. Both have logged in."""
    alice = {"password": SECRET, "home": "alice", "quota": {"bytes": "1K"}}
    bob = {"password": SECRET, "home": "alice/bob"}
    chain = Chain(directory, MemorySource(alice=alice, bob=bob), yaml="users: {}\n")
    chain.log_in("alice")
    chain.log_in("bob")
    return chain.store


@pytest.fixture(params=[yaml_users, memory_users, chain_users, source_users], ids=["yaml", "memory", "chain", "source"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> UserStore:
    """Return one store after the other, each started, all with the same users, whose password is "secret"."""
    (tmp_path / "alice" / "bob").mkdir(parents=True)
    make: Callable[[Path], UserStore] = request.param
    made = make(tmp_path)
    made.start(verifier())
    return made


async def all_names(store: UserStore) -> list[str]:
    """Return all that `names` yields."""
    return [name async for name in store.names()]


def test_a_user_is_found(store: UserStore, tmp_path: Path) -> None:
    """`find` returns the settings of a user, and raises UnknownUser for a name that nobody has."""
    alice = result(store.find("alice"))
    assert (alice.name, alice.settings.home, alice.settings.quota.bytes) == ("alice", f"{tmp_path}/alice", 1024)
    with pytest.raises(UnknownUser):
        result(store.find("Alice"))
    with pytest.raises(UnknownUser):
        result(store.find(""))


def test_a_password_is_verified(store: UserStore) -> None:
    """`verify` returns the same user as `find`, and raises WrongPassword or UnknownUser."""
    assert result(store.verify("bob", "secret", PEER, admit)) == result(store.find("bob"))
    for password in ("Secret", "", "secret\0", "x" * 5000, "\udcff"):
        with pytest.raises((WrongPassword, UnknownUser)):  # clients must not tell them apart
            result(store.verify("bob", password, PEER, admit))
    for name in ("carol", "", "\udcff", "a\0b"):
        with pytest.raises(UnknownUser):
            result(store.verify(name, "secret", PEER, admit))


def test_names_are_listed(store: UserStore) -> None:
    """`names` yields every user once, and `knows` agrees with it."""
    assert sorted(result(all_names(store))) == ["alice", "bob"]
    assert store.knows("alice") and store.knows("bob") and not store.knows("carol") and not store.knows("")


def test_homes(store: UserStore, tmp_path: Path) -> None:
    """`homes` has the home of each user, and says in which of them somebody has a quota."""
    assert store.homes.all == {f"{tmp_path}/alice", f"{tmp_path}/alice/bob"}
    assert store.homes.with_quota == {f"{tmp_path}/alice"}
    assert f"{tmp_path}/alice" in store.homes.outermost


def test_unknown_names_cost_a_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The YAML store verifies a hash for a name that nobody has, always the same one for that name."""
    (tmp_path / "alice" / "bob").mkdir(parents=True)
    store = yaml_users(tmp_path)
    store.start(verifier())
    verified: list[str] = []
    monkeypatch.setattr(hash_verifier.hashes, "verify", lambda password, hashed: verified.append(hashed))
    for name in ("carol", "carol", "dave"):
        with pytest.raises(UnknownUser):
            result(store.verify(name, "secret", PEER, admit))
    assert len(verified) == 3 and verified[0] == verified[1]


def test_decoys_log_nobody_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any user, every name is unknown, whatever the decoy hash says."""
    (tmp_path / "users.yaml").write_text("users: {}\n")
    store = load_users(tmp_path / "users.yaml", True).store
    assert store is not None
    store.start(verifier())
    monkeypatch.setattr(hash_verifier.hashes, "verify", lambda password, hashed: True)
    with pytest.raises(UnknownUser):
        result(store.verify("alice", "secret", PEER, admit))


def test_a_source_that_fails(tmp_path: Path) -> None:
    """While the source of a store fails, logins are answered with 451, which no ban counts; then they work."""
    server = Server(tmp_path)
    server.users.failure = "no answer within 5 seconds"
    with pytest.raises(SourceFailed):
        result(server.users.find("alice"))
    client = server.connect()
    client.heard()
    for _ in range(20):
        client.say("USER alice")
        assert client.say("PASS secret").startswith("451 ")
    server.users.failure = None
    client.say("USER alice")
    assert client.say("PASS secret").startswith("230 ")


def test_a_login_asks_the_store_once(tmp_path: Path) -> None:
    """The session has the settings that came with the verification: the store is not asked again."""
    server = Server(tmp_path, users={"alice": UserSettings(permissions=frozenset({"list"}))})
    asked: list[str] = []
    find = server.users.find

    async def count(name: str) -> User:
        asked.append(name)
        return await find(name)

    server.users.find = count  # type: ignore[method-assign]
    client = server.connect().log_in()
    assert client.say("MKD x").startswith("550 ")
    assert asked == ["alice"]
