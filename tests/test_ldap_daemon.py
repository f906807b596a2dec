"""Users in a directory: a real daemon with a real slapd, and FTP clients that log in."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import Daemon, ftpsd
from tests.ftpclient import FtpClient
from tests.ldap_daemon import ROOT, example, log_in, make_server
from tests.slapd import PEOPLE, SERVICE_PASSWORD, Slapd

pytest.importorskip("ldap", reason="python-ldap is not installed")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Slapd]:
    """A server that runs."""
    slapd = make_server(tmp_path / "server")
    yield slapd
    slapd.kill()


@pytest.fixture
def daemon(make_daemon: Callable[..., Daemon], server: Slapd, tmp_path: Path) -> Callable[..., Daemon]:
    """Return a function that makes a daemon with the documented source; keywords change keys of it."""

    def new(start: bool = True, banning: bool = True, **changes: Any) -> Daemon:
        settings = example(server, tmp_path, **changes)
        if not banning:
            del settings["bans"]
        return make_daemon(settings, start=start)

    return new


def test_the_example(daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """With the documented example, members log in and have the keys of their entries; others are refused with a reason."""
    running = daemon()
    (tmp_path / "ftp/Anna/file").write_text("x")
    with FtpClient(running) as client:
        client.start_tls()
        client.login("ANNA", "secret")
        assert client.download("NLST") == b"file\r\n"
        assert "of 1048576" in client.command("SITE QUOTA")
        assert client.command("MKD new").startswith("550 ")
    assert log_in(running, "dora").startswith("530 Login not allowed")
    assert log_in(running, "ended") == "530 Account expired."
    assert log_in(running, "berta", "wrong").startswith("530 Login incorrect")
    assert log_in(running, "nobody").startswith("530 Login incorrect")
    assert log_in(running, "berta").startswith("230 ")
    assert "Traceback" not in running.log and SERVICE_PASSWORD not in running.log


def test_a_canonical_name_for_all(daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """Session limits and the log know one user, however the client writes the name."""
    running = daemon(values={"home": str(tmp_path / "ftp/{user}"), "limits": {"sessions": 1}})
    with FtpClient(running) as client:
        client.start_tls()
        client.login("anna", "secret")
        assert log_in(running, "ANNA").startswith("421 ")
    assert log_in(running, "Anna ").startswith("230 ")
    assert "ANNA" not in running.log and "Anna" in running.log


def test_groups_of_ours(daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """A group of the directory stands for one in users.yaml, whose keys its members have."""
    running = daemon(False, groups={"team": "writers"}, values={"home": str(tmp_path / "ftp/{user}")})
    running.groups = {"writers": {"permissions": "upload-only"}}
    running.write()
    with FtpClient(running.start()) as client:
        client.start_tls()
        client.login("berta", "secret")
        assert client.upload("STOR new", b"x").startswith("226 ")
        assert client.command("RETR new").startswith("550 ")


def test_hostile_names(daemon: Callable[..., Daemon]) -> None:
    """Names that mean something in filters or distinguished names are wrong names: 530, never 451 or a login."""
    running = daemon(banning=False)
    names = (
        b"*", b"A*", b"*)(uid=*", b")(uid=*", b"\\2a", b"Anna)(|(uid=*", b"\xfe\xfd", f"Anna,{PEOPLE}".encode(), b"#x", b"a" * 900,
    )  # fmt: skip
    for name in names:
        assert log_in(running, name).startswith("530 Login incorrect"), name
    assert not log_in(running, "Anna", "").startswith("230 ")
    assert log_in(running, "Anna").startswith("230 ")
    assert "Traceback" not in running.log


def test_bans_count_wrong_passwords_only(daemon: Callable[..., Daemon]) -> None:
    """Accounts that the directory refuses never lead to a ban; wrong passwords and unknown names do."""
    running = daemon()
    for _ in range(6):
        assert log_in(running, "dora").startswith("530 Login not allowed")
        assert log_in(running, "ended").startswith("530 Account expired")
    assert log_in(running, "Anna").startswith("230 ")
    for name in ("Anna", "nobody", "berta", "carl"):
        assert log_in(running, name, "wrong").startswith("530 ")
    with FtpClient(running, greeting=False) as client:
        assert client.reply().startswith("421 ")


def test_a_name_is_banned_in_every_spelling(daemon: Callable[..., Daemon]) -> None:
    """Guesses at one user count together, however they spell the name, and the ban holds for every spelling."""
    running = daemon()
    for number, name in enumerate(("anna", "ANNA", "Anna", "aNNa")):
        assert log_in(running, name, "wrong", f"127.0.{number}.9").startswith("530 ")
    running.wait_for_log("strangers may not log in as Anna")
    for name in ("Anna", "AnnA"):
        assert log_in(running, name, "secret", "127.0.9.9").startswith("530 ")
    assert log_in(running, "berta", "secret", "127.0.9.9").startswith("230 ")


def test_faults_name_their_keys(daemon: Callable[..., Daemon]) -> None:
    """A setting that cannot be used is a fault with its line and key."""
    for changes, words in (
        (
            {"servers": ["http://ldap.example.com"]},
            "users.sources[0].servers[0]: “http://ldap.example.com” is not the URL",
        ),
        ({"filter": "(uid={name}"}, "users.sources[0].filter: “(uid={name}” is not a filter"),
        ({"membership": {"nestd": "off"}}, "users.sources[0].membership.nestd: unknown key"),
        ({"values": {"quota": {"byte": 1}, "permissions": "all"}}, "users.sources[0].values.quota.byte: unknown key"),
        ({"groups": {"team": "writers"}}, "users.sources[0].groups.team: there is no group “writers”"),
        ({"password_file": "nothing"}, "nothing"),
    ):
        found = check(daemon(start=False, **changes))
        assert found.returncode == 1 and words in found.stdout + found.stderr, found
        assert re.search(r"ftpsd\.yaml:\d+: users\.sources", found.stdout + found.stderr)


def test_plain_text_is_a_warning(daemon: Callable[..., Daemon], server: Slapd) -> None:
    """tls: off is a warning where passwords leave the machine, and none at a loopback address."""
    found = check(daemon(start=False, servers=["ldap://ldap.example.com"], tls="off", ca_file=None))
    assert (
        found.returncode == 0
        and "ldap://ldap.example.com in plain text: remove tls: off" in found.stdout + found.stderr
    )
    found = check(daemon(start=False, servers=[server.url], tls="off", ca_file=None))
    assert found.returncode == 0 and "plain text" not in found.stdout + found.stderr


def test_a_missing_library(daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """Without python-ldap, the fault names the packages for pip and apt."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/ldap.py").write_text("raise ImportError('No module named _ldap')\n")
    found = check(daemon(start=False), PYTHONPATH=f"{tmp_path / 'broken'}:{ROOT}")
    assert found.returncode == 1
    assert "pip install 'ftpsd[ldap]', or apt install python3-ldap" in found.stdout + found.stderr


def check(daemon: Daemon, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `ftpsd check`."""
    command = ftpsd("check", "-c", str(daemon.config))
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment})


def test_check_online(daemon: Callable[..., Daemon], server: Slapd) -> None:
    """`ftpsd check --online` logs in to the directory, and says why that fails."""
    configured = daemon(start=False)
    command = [*ftpsd("check", "-c", str(configured.config)), "--online"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found
    server.kill()
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert found.returncode == 1 and "Connection refused" in found.stdout + found.stderr, found
