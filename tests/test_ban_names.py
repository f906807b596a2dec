"""A ban and its end have one name: in records of rules, in the audit file, in the log, in lists and in answers."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock

from ftpsd.events.hub import Hub
from ftpsd.events.types import BanEnded
from ftpsd.limits.bans.ban_list import BanList
from ftpsd.limits.bans.ban_table import FOR_EVER, Ban
from ftpsd.limits.bans.ends import Ends
from ftpsd.limits.bans.store import BanStore
from tests.admin import Admin
from tests.conftest import PLAIN
from tests.daemon import Daemon, merge
from tests.hostile import wait_until
from tests.outbox import JournalNow, settings, with_state
from tests.test_bans import STRICT, AtOnce, command, guess

Make = Callable[..., Daemon]
Name = tuple[str, str]

#: The bans of the test, as they are named everywhere.
LIFTED: list[Name] = [("network", "203.0.113.0/24"), ("network", "2001:db8::/64"), ("account", "bob")]
EXPIRED: list[Name] = [("address", "127.0.0.2"), ("network", "198.51.100.9")]


def names(records: list[dict[str, Any]], event: str) -> set[tuple[str, ...]]:
    """The kinds and subjects of events with a name, each with the reason of its end."""
    found = [each for each in records if each["event"] == event]
    return {(each["kind"], each["subject"], *([each["reason"]] if "reason" in each else [])) for each in found}


def test_a_ban_and_its_end_have_one_name(make_daemon: Make, tmp_path: Path) -> None:
    """Webhook, audit file, log, `ftpsd bans` and acts name a ban alike when it begins and when it ends."""
    with tempfile.TemporaryDirectory(prefix="ftpsd-") as short:
        changes = {
            "bans": {"duration": 2, "longest": 2},
            "admin": {"socket": str(Path(short) / "admin.sock")},
            **with_state(tmp_path / "state"),
            **settings({"on": ["ban", "unban"]}, audit=str(tmp_path / "audit")),
        }
        daemon = make_daemon(merge(merge(PLAIN, STRICT), changes))
        api = Admin(Path(short) / "admin.sock")
        api.post("bans", {"address": "203.0.113.0/24", "seconds": 3600}, 201)
        api.post("bans", {"address": "2001:db8::7"}, 201)
        api.post("bans", {"user": "bob"}, 201)
        listed = [(each["kind"], each["subject"]) for each in json.loads(command(daemon, "--json").stdout)]
        assert sorted(listed) == sorted(LIFTED)
        for whom in ({"address": "203.0.113.0/24"}, {"address": "2001:db8::7"}, {"user": "bob"}):
            assert api.delete("bans", **whom) == {"lifted": 1}
        api.post("bans", {"address": "198.51.100.9", "seconds": 1}, 201)
        guess(daemon, "127.0.0.2", 4)
        wait_until(lambda: len(names(JournalNow(daemon).others, "unban")) == 5, "five ends")
        daemon.stop()
    audit = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
    for records in (JournalNow(daemon).others, audit):
        assert names(records, "ban") == {*LIFTED, *EXPIRED}
        ends = {(*name, "lifted") for name in LIFTED} | {(*name, "expired") for name in EXPIRED}
        assert names(records, "unban") == ends
    for kind, subject in LIFTED:
        assert f"root: ban {kind} {subject}\n" in daemon.log
        assert f"the ban of {kind} {subject} was added" in daemon.log
        assert f"the ban of {kind} {subject} was lifted\n" in daemon.log
        assert f"root: unban {kind} {subject}\n" in daemon.log
    assert "the ban of network 198.51.100.9 has expired\n" in daemon.log
    assert "banned for 2 seconds: too many failed logins [address 127.0.0.2]\n" in daemon.log
    assert "the ban of address 127.0.0.2 has expired\n" in daemon.log


class Kept:
    """A ban list with a store, and the ends that it has published; the test sets the clock."""

    def __init__(self, store: AtOnce | None = None, start: float = 0) -> None:
        self.clock = Clock()
        self.clock.advance(start)
        self.bans = BanList(self.clock.seconds)
        hub = Hub(self.clock)
        self.ends: list[BanEnded] = []
        hub.subscribe("test", BanEnded, self.ends.append)
        self.store = store or AtOnce(None)  # type: ignore[arg-type]
        self.ban_store = BanStore(self.store, self.bans, lambda: 1_700_000_000 + self.clock.seconds(), hub)
        self.ban_store.restore()

    def ban(self, subject: str, seconds: float) -> Ban:
        """Add a ban."""
        ban = Ban("network", subject, self.clock.seconds() + seconds, seconds)
        self.bans.add(ban)
        return ban

    def after(self, seconds: float) -> list[tuple[str, str]]:
        """The ends that are published at a check that much later."""
        self.ends.clear()
        self.clock.advance(seconds)
        self.ban_store.check()
        return [(each.subject, each.reason) for each in self.ends]


def test_each_end_is_published_once() -> None:
    """A ban that was lifted does not expire, one that was replaced ends when the new one does, and each ends once."""
    kept = Kept()
    kept.ban("192.0.2.1", 10)
    lifted = kept.ban("192.0.2.2", 10)
    kept.ban("192.0.2.3", 10)
    kept.ban("192.0.2.3", 20)
    kept.ban("192.0.2.4", FOR_EVER)
    assert kept.after(5) == []
    kept.ban_store.lift(lifted)
    assert [(each.subject, each.reason) for each in kept.ends] == [("192.0.2.2", "lifted")]
    assert kept.after(5) == [("192.0.2.1", "expired")]
    assert kept.after(5) == []
    kept.ban_store.lift(Ban("network", "192.0.2.1", 10, 10))  # it only makes the next one as short as the first
    assert kept.after(10) == [("192.0.2.3", "expired")]
    assert kept.after(10) == []


def test_a_ban_that_has_ended_and_is_lifted() -> None:
    """If a ban is lifted after its end and before the next check, its end is published."""
    kept = Kept()
    ban = kept.ban("192.0.2.1", 10)
    kept.clock.advance(11)
    kept.ban_store.lift(ban)
    assert [(each.subject, each.reason) for each in kept.ends] == [("192.0.2.1", "expired")]
    assert kept.after(1) == []


def test_a_clock_that_was_set_makes_no_second_end() -> None:
    """A stored ban whose end stays the same when the time of day is set ends once."""
    first = Kept()
    first.after(0)
    first.ban("192.0.2.1", 10)
    second = Kept(first.store)
    second.after(0)
    for ahead in (0, 0):
        second.bans.clock_was_set(ahead, ahead)
    assert second.after(11) == [("192.0.2.1", "expired")]


def test_bans_that_have_ended_before_the_start_are_no_events() -> None:
    """After a restart the ends of stored bans that are in effect are published, and no others."""
    first = Kept()
    first.after(0)
    first.ban("192.0.2.1", 10)
    first.ban("192.0.2.2", 100)
    second = Kept(first.store, start=50)
    assert second.after(0) == []
    assert second.after(60) == [("192.0.2.2", "expired")]


@pytest.mark.parametrize("subjects", [1, 3000])
def test_memory_of_ends_is_bounded(subjects: int) -> None:
    """The ends of bans that are replaced again and again take no more memory than the bans."""
    kept = Kept()
    ends = Ends(kept.bans.table)
    for number in range(4000):
        kept.bans.table.keep(Ban("address", f"address {number % subjects}", 1000 + number, 1000))
    assert len(ends._ends) <= 2 * subjects + 1001
    kept.clock.advance(10_000)
    assert len(ends.take()) == subjects


def test_many_new_bans_hide_no_end() -> None:
    """A ban that has ended is published at the next check, however many bans were made before it."""
    kept = Kept()
    kept.ban("192.0.2.1", 10)
    kept.clock.advance(11)
    for number in range(2000):
        kept.ban("192.0.2.2", 1000 + number)
    assert kept.after(0) == [("192.0.2.1", "expired")]
    assert kept.after(0) == []
