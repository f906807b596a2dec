"""What every source of users promises (`ftpsd.accounts.sources.source.Source`), each with a real server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftpsd.accounts import hashes
from ftpsd.accounts.sources.source import Answer, Question, SourceFailed, WrongPassword
from ftpsd.config.sections.sources import SOURCES as CONFIGURED
from ftpsd.config.users.layers import Layers
from ftpsd.config.users.records import RecordBuilder
from ftpsd.protocol.addresses import plain_address
from tests import all_sources
from tests.all_sources import NAMES, PASSWORDS, SOURCES, Running

PEER = plain_address("192.0.2.1")

#: Names that mean something to some server, protocol, file system or shell.
HOSTILE = [
    "' OR '1'='1", "alice' --", "'; DROP TABLE ftpsd_users; --", '" OR ""="', "%", "_lice", "alice%", "%(name)s", "{name}",
    "*", "a*", "alice)(|(uid=*", "*)(objectClass=*", "\\61lice", "alice,ou=people", "alice\\", "cn=alice", "#alice", "$1", "?",
    "../alice", "alice/../bob", "/", ".", "..", "alice:x", "auth_ok:1", "alice\tbob", "\x01", "\x7f", "\u202ealice", "😀" * 200,
    "alice\udcff", "\udc80", "x" * 1000, '{"name": "alice"}', "<alice/>", "&#97;lice", "`id`", "$(id)", "alice ", " alice",
]  # fmt: skip


@pytest.fixture(params=list(SOURCES.values()))
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Running]:
    """Return one source after the other."""
    with all_sources.running(request.param, tmp_path) as found:
        yield found
        found.source.close()


def accepts(running: Running, name: str, password: str) -> bool | None:
    """Return whether a login works, as the daemon decides it; None for an unknown name."""
    try:
        answer = running.source.ask(Question(name, password, PEER))
    except WrongPassword:
        return False
    if answer is None:
        return None
    assert isinstance(answer, Answer) and answer.name in NAMES
    return answer.verified or hashes.verify(password, str(answer.values["password"]))


def test_every_type_is_tested() -> None:
    """Each type of source that can be configured passes these tests."""
    assert {"sql" if name in ("sqlite", "postgresql") else name for name in SOURCES} | {"yaml"} >= set(CONFIGURED)


def test_right_and_wrong_passwords(running: Running) -> None:
    """A user gets in with the right password only, and an unknown name is unknown."""
    assert accepts(running, "alice", "secret") and accepts(running, "bob", "secret")
    for password in ("Secret", "secret ", "x" * 1000, "\udcff", "sec\tret", "*"):
        assert accepts(running, "alice", password) is False, password
    assert accepts(running, "mallory", "secret") is None
    assert accepts(running, "alice", "secret")


def test_hostile_names(running: Running) -> None:
    """No name means more than itself: each is unknown. Spaces around a name may be ignored, as LDAP does."""
    for name in HOSTILE:
        if name.strip() != "alice":
            assert accepts(running, name, "secret") is None, name
    assert accepts(running, "alice", "secret") and accepts(running, "bob", "secret")


def test_a_record(running: Running, tmp_path: Path) -> None:
    """The keys of a user are those of users.yaml."""
    answer = running.source.ask(Question("bob", "secret", PEER))
    assert answer is not None
    (tmp_path / "homes" / "bob").mkdir(parents=True)
    settings = RecordBuilder(tmp_path, Layers(), True, [str(tmp_path)]).build(answer.name, answer.values)
    assert settings.home == f"{tmp_path}/homes/bob" and "upload" not in settings.permissions


def test_a_look_up(running: Running) -> None:
    """Without a password, the user is looked up and nothing is verified, or the source says that it cannot do that."""
    if not running.looks_up:
        with pytest.raises(SourceFailed):
            running.source.ask(Question("alice", None, PEER))
        return
    answer = running.source.ask(Question("alice", None, PEER))
    assert answer is not None and answer.name == "alice" and str(answer.values["home"]).startswith("homes/")
    assert running.source.ask(Question("mallory", None, PEER)) is None


def test_names(running: Running) -> None:
    """All names are listed, or the source says that it cannot list them."""
    if running.source.kind == "helper":
        with pytest.raises(SourceFailed, match="list"):
            next(running.source.names())
    elif running.source.kind != "http":
        assert sorted(running.source.names()) == list(NAMES)


def test_questions_at_the_same_time(running: Running) -> None:
    """Threads that ask at the same time get their own answers."""
    wrong: list[object] = []

    def ask(name: str, password: str, expected: bool | None) -> None:
        for _ in range(20):
            found = accepts(running, name, password)
            if found is not expected:
                wrong.append((name, password, found))

    cases = [("alice", "secret", True), ("bob", "secret", True), ("alice", "wrong", False), ("nobody", "secret", None)]
    threads = [threading.Thread(target=ask, args=case, daemon=True) for case in cases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong and not any(thread.is_alive() for thread in threads)


def test_a_server_that_goes_and_comes_back(running: Running) -> None:
    """While the server is away, questions and probes fail in time, in one line without secrets; then they work."""
    source = running.source
    source.probe()
    for _ in range(2):
        assert accepts(running, "alice", "secret")
        running.stop()
        for call in (
            source.probe,
            lambda: accepts(running, "alice", "secret"),
            lambda: accepts(running, "nobody", "x"),
        ):
            began = time.monotonic()
            with pytest.raises(SourceFailed) as failed:
                call()
            text = str(failed.value)
            assert time.monotonic() - began < source.timeout + 1
            assert text and "\n" not in text and not any(each in text for each in PASSWORDS), text
        running.start()
        source.probe()
        assert accepts(running, "alice", "secret") and accepts(running, "nobody", "secret") is None


def test_a_source_that_is_closed(running: Running) -> None:
    """A source can be closed at any time: questions that still run, or come late, end with an answer or SourceFailed."""
    failed: list[object] = []

    def ask() -> None:
        for _ in range(50):
            try:
                assert accepts(running, "alice", "secret")
            except SourceFailed:
                pass
            except BaseException as error:
                failed.append(error)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.02)
    running.source.close()
    for thread in threads:
        thread.join(30)
    running.source.close()
    assert not failed and not any(thread.is_alive() for thread in threads)
