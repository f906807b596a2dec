"""Login rules of a user: networks, expiry and hours."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ftpsd.config import load
from ftpsd.protocol.login_rules import DAYS, LoginRules
from tests.daemon import SECRET, Daemon
from tests.ftpclient import FtpClient, secured
from tests.test_configuration import GOOD, USERS, faults, files

__all__ = ["files"]

TODAY = date.today()


def day(away: int) -> str:
    """Return the name of the day that is `away` days from today."""
    return DAYS[(TODAY + timedelta(days=away)).weekday()]


def rules(directory: Path, text: str) -> LoginRules:
    """Return the login rules of a user in a users' file."""
    (directory / "users.yaml").write_text(USERS + text)
    alice = load.load(directory / "ftpsd.yaml").users.users.get("alice")
    assert alice is not None
    return alice.settings.login_rules


def reason(login_rules: LoginRules, client: str = "192.0.2.1", moment: datetime | None = None) -> str | None:
    """Return the reason for which a login would be refused."""
    denial = login_rules.denial(ipaddress.ip_address(client), (moment or datetime(2027, 1, 29, 12)).timestamp())
    return denial and denial.reason


# --- the rules ---------------------------------------------------------------------------------------


def test_networks(files: Path) -> None:
    """An empty `allow` allows all networks, `deny` wins, and an IPv4-mapped IPv6 address counts as IPv4."""
    login_rules = rules(files, "    networks: {allow: [192.0.2.0/24, 2001:db8::/32], deny: [192.0.2.128/25]}\n")
    assert reason(login_rules) is None
    assert reason(login_rules, "2001:db8::1") is None
    for client in ("192.0.2.200", "198.51.100.1", "2001:db9::1", "fe80::1%3"):
        assert reason(login_rules, client) == "network"
    login_rules = rules(files, '    networks: {deny: ["::ffff:192.0.2.0/120", fe80::/10]}\n')
    assert reason(login_rules) == reason(login_rules, "fe80::1%3") == "network"
    assert reason(login_rules, "198.51.100.1") is reason(login_rules, "::1") is None


@pytest.mark.parametrize(
    ("expires", "last"),
    [
        ("2027-01-31", datetime(2027, 1, 31, 23, 59, 59)),
        ("2027-01-31 18:00", datetime(2027, 1, 31, 17, 59, 59)),
        ("2027-01-31T18:00:00", datetime(2027, 1, 31, 17, 59, 59)),
        ("2027-01-31T18:00:00Z", datetime(2027, 1, 31, 17, 59, 59, tzinfo=UTC)),
        ("2027-01-31T18:00+02:00", datetime(2027, 1, 31, 15, 59, 59, tzinfo=UTC)),
    ],
)
def test_expiry(files: Path, expires: str, last: datetime) -> None:
    """A date allows logins through that day, and a date with a time until that time."""
    for written in (expires, f'"{expires}"'):
        login_rules = rules(files, f"    expires: {written}\n")
        assert reason(login_rules, moment=last) is None
        assert reason(login_rules, moment=last + timedelta(seconds=1)) == "expired"


@pytest.mark.parametrize(
    ("hours", "within", "without"),
    [
        ("Mon-Fri 08:00-18:00", ["Mon 08:00", "Fri 17:59"], ["Mon 07:59", "Fri 18:00", "Sat 12:00"]),
        ("mon,WED 8:00-18:00", ["Mon 08:00", "Wed 12:00"], ["Tue 12:00"]),
        ("22:00-06:00", ["Mon 22:00", "Tue 05:59", "Sun 00:00"], ["Mon 21:59", "Mon 06:00"]),
        ("Fri 22:00-06:00", ["Fri 22:00", "Sat 05:59"], ["Fri 05:59", "Sat 22:00"]),
        ("Sun 22:00-06:00", ["Sun 23:00", "Mon 05:59"], ["Sun 05:00", "Mon 22:00"]),
        ("Sat-Mon 00:00-24:00", ["Sat 00:00", "Sun 12:00", "Mon 23:59"], ["Fri 23:59", "Tue 00:00"]),
        ("Sat, Sun 12:00 - 00:00", ["Sat 23:59", "Sun 12:00"], ["Sat 11:59", "Mon 00:00"]),
    ],
)
def test_hours(files: Path, hours: str, within: list[str], without: list[str]) -> None:
    """Hours apply on their days; those whose end is before their start continue to the next day."""
    login_rules = rules(files, f'    hours: ["{hours}"]\n')

    def moment(text: str) -> datetime:
        name, time = text.split()
        monday = datetime(2027, 1, 25)
        return datetime.combine(monday + timedelta(days=DAYS.index(name)), datetime.strptime(time, "%H:%M").time())

    assert [each for each in within if reason(login_rules, moment=moment(each)) is not None] == []
    assert [each for each in without if reason(login_rules, moment=moment(each)) != "hours"] == []


FAULTS = [
    ("networks: {alow: []}", "networks.alow: unknown key. Did you mean allow?"),
    ("networks: {allow: [10.0.0.1/8]}", "networks.allow[0]: “10.0.0.1/8” is not a network"),
    ("networks: {deny: 10.0.0.0/8}", "networks.deny: must be a list."),
    ("expires: tomorrow", "expires: “tomorrow” is not a date, nor a date and time. Write it as 2027-01-31"),
    ("expires: 2027-02-30", "expires: “2027-02-30” is not a date"),
    ("expires: 20270131", "expires: 20270131 is not a date"),
    ("hours: Mon 08:00-18:00", "hours: must be a list."),
    ("hours: [Mon 8-18]", "hours[0]: “Mon 8-18” is not a time of the week. Write it as Mon-Fri 08:00-18:00."),
    ("hours: [Mo 08:00-18:00]", "hours[0]: “Mo” is not a day. Did you mean Mon?"),
    ("hours: [Thursday 08:00-18:00]", "hours[0]: “Thursday” is not a day."),
    ("hours: [08:00-18:60]", "hours[0]: 18:60 is not a time of day."),
    ("hours: [08:00-25:00]", "hours[0]: 25:00 is not a time of day."),
    ("hours: [08:00-08:00]", "hours[0]: “08:00-08:00” is an empty time span. Write 00:00-24:00 for"),
    ("hour: []", "hour: unknown key. Did you mean hours?"),
]


@pytest.mark.parametrize(("line", "expected"), FAULTS, ids=range(len(FAULTS)))
def test_faults(files: Path, line: str, expected: str) -> None:
    """An invalid rule is a fault with line and remedy, and never allows a login."""
    found = faults(files, GOOD, USERS + f"    {line}\n")
    assert len(found) == 1
    assert found[0].startswith(f"users.yaml:5: users.alice.{expected}"), found


# --- at the login ------------------------------------------------------------------------------------

GUESTS: dict[str, dict[str, Any]] = {
    "here": {"networks": {"allow": ["127.0.0.0/8"], "deny": ["127.0.0.9"]}},
    "elsewhere": {"networks": {"allow": ["192.0.2.0/24"]}},
    "past": {"expires": str(TODAY - timedelta(days=2))},
    "future": {"expires": str(TODAY + timedelta(days=2))},
    "busy": {"hours": [f"{day(3)} 08:00-18:00"]},
    "off": {"enabled": False},
    "free": {"hours": [f"{day(away)} 00:00-24:00" for away in (-1, 0, 1)]},
}

REFUSED = {
    "elsewhere": ("network", "Login not allowed from your address."),
    "past": ("expired", "Account expired."),
    "off": ("disabled", "Account disabled."),
    "busy": ("hours", f"Login not allowed at this time; allowed: {day(3)} 08:00-18:00."),
}


def test_logins(make_daemon: Callable[..., Daemon]) -> None:
    """A refused user with the right password gets 530 with the reason.

    With a wrong password the reply does not show that there is a rule.
    """
    daemon = make_daemon(users=GUESTS)
    for user in ("here", "future", "free"):
        with secured(daemon, user) as client:
            client.expect(257, "PWD")
    for user, (_, text) in REFUSED.items():
        with FtpClient(daemon) as client:
            client.start_tls()
            client.expect(331, f"USER {user}")
            assert client.command("PASS wrong") == "530 Login incorrect."
            client.expect(331, f"USER {user}")
            assert client.command("PASS secret") == f"530 {text}"
            client.expect(530, "PWD")
        assert f"login of {user} refused: {text}" in daemon.log
        assert daemon.log.count(f"login failed for {user}") == 1
    with FtpClient(daemon, source="127.0.0.9") as client:
        client.start_tls()
        client.expect(331, "USER here")
        client.expect(530, "PASS secret")


def test_a_refusal_is_no_failure(make_daemon: Callable[..., Daemon]) -> None:
    """Refusals of right passwords do not count as login failures, and another user can log in."""
    daemon = make_daemon({"limits": {"login_failures": 1}}, users=GUESTS)
    with FtpClient(daemon) as client:
        client.start_tls()
        for _ in range(5):
            client.expect(331, "USER past")
            client.expect(530, "PASS secret")
        client.login("future")


def test_the_clients_of_both_families(make_daemon: Callable[..., Daemon]) -> None:
    """A rule for IPv4 networks applies to IPv4 clients of a listener on "::"."""
    try:
        daemon = make_daemon(address="::", users=GUESTS)
    except AssertionError:
        pytest.skip("no IPv6 here")
    daemon.host = "127.0.0.1"
    with secured(daemon, "here") as client:
        client.expect(257, "PWD")


def test_running_sessions_go_on(make_daemon: Callable[..., Daemon]) -> None:
    """If an account expires while its user is logged in, only the next login is refused."""
    daemon = make_daemon(users={"alice": {"password": SECRET}})
    with secured(daemon) as client:
        daemon.users = {"alice": GUESTS["past"]}
        daemon.write()
        daemon.reload()
        assert client.upload("STOR on", b"and on").startswith("226 ")
        with FtpClient(daemon) as late:
            late.start_tls()
            late.expect(331, "USER alice")
            late.expect(530, "PASS secret")
