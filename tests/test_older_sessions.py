"""Sessions that began before a change of users or of the configuration, and log in after it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import yaml

from ftpsd.accounts import hashes
from ftpsd.config.sections.passwords import PasswordSettings
from tests.daemon import SECRET, Daemon, ftpsd
from tests.ftpclient import FtpClient, secured, tls_context
from tests.pki import Authority, pem

Make = Callable[..., Daemon]

#: Takes some seconds: a reload ends while it is verified. The password is "secret".
_SLOW = PasswordSettings(memory=8 << 20, iterations=100)  # type: ignore[arg-type]


def open_session(daemon: Daemon) -> FtpClient:
    """Return a client with TLS that has not logged in."""
    client = FtpClient(daemon)
    client.start_tls()
    return client


def with_users(daemon: Daemon, **users: dict[str, object]) -> None:
    """Give the daemon other users, and reload it."""
    daemon.users = users
    daemon.write()
    daemon.reload()


def user(daemon: Daemon, *arguments: str, password: str = "") -> None:
    """Run `ftpsd user`, which reloads the daemon."""
    command = ftpsd("user", *arguments, "-c", str(daemon.config))
    done = subprocess.run(command, input=password, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def refused(client: FtpClient, name: str, password: str) -> None:
    """Expect that a name and a password are wrong."""
    client.expect(331, f"USER {name}")
    assert client.command(f"PASS {password}") == "530 Login incorrect."


def test_commands_that_change_users_concern_open_sessions(make_daemon: Make, tmp_path: Path) -> None:
    """In a session that is older than `ftpsd user passwd`, `disable` and `remove`, the new users and passwords count."""
    socket = tmp_path / "admin.sock"
    daemon = make_daemon({"admin": {"socket": str(socket)}, "limits": {"login_failures": 9}, "bans": {"attempts": 99}})
    home = str(daemon.directory / "homes/carol")
    with open_session(daemon) as client:
        user(daemon, "add", "carol", "--home", home, "--password-stdin", password="first\n")
        client.expect(331, "USER carol")
        client.expect(230, "PASS first")
        user(daemon, "passwd", "carol", "--password-stdin", password="second\n")
        client.expect(257, "PWD")
        refused(client, "carol", "first")
        client.expect(331, "USER carol")
        client.expect(230, "PASS second")
        user(daemon, "disable", "carol")
        client.expect(331, "USER carol")
        assert client.command("PASS second") == "530 Account disabled."
        user(daemon, "remove", "carol")
        refused(client, "carol", "second")
        client.expect(331, "USER alice")
        client.expect(230, "PASS secret")


def test_a_reload_of_users_concerns_open_sessions(make_daemon: Make) -> None:
    """USER was sent before the reload, PASS comes after it: the new hash, rules and permissions count."""
    daemon = make_daemon(users={"alice": {}, "bob": {}})
    with open_session(daemon) as first, open_session(daemon) as second:
        first.expect(331, "USER alice")
        second.expect(331, "USER bob")
        with_users(daemon, alice={"password": hashes.make("other"), "permissions": "read-only"}, carol={})
        assert first.command("PASS secret") == "530 Login incorrect."
        assert second.command("PASS secret") == "530 Login incorrect."
        first.login("alice", "other")
        first.expect(550, "MKD x")
        second.login("carol")


def test_a_reload_while_a_password_is_checked(make_daemon: Make) -> None:
    """A password that was right when its check began, and is not when it ends, is refused; a new one is accepted."""
    slow = {"password": hashes.make("secret", _SLOW)}
    daemon = make_daemon(users={"alice": slow, "bob": slow})
    with open_session(daemon) as first, open_session(daemon) as second:
        first.expect(331, "USER alice")
        second.expect(331, "USER bob")
        first.send("PASS secret")
        second.send("PASS new")
        with_users(daemon, alice={"password": SECRET.replace("geSf", "aaaa")}, bob={"password": hashes.make("new")})
        loaded = daemon.log.index("reloaded: ")
        assert first.reply() == "530 Login incorrect."
        assert second.reply().startswith("230")
        daemon.wait_for_log(r"PASS \*+: 530")
        assert daemon.log.index("PASS ********: 530") > loaded, "the check was too fast for this test"


def test_other_settings_end_a_login(make_daemon: Make) -> None:
    """If ftpsd.yaml has changed since a session began, its next login is answered 421; who is logged in continues."""
    daemon = make_daemon({"bans": {"attempts": 2}})
    with open_session(daemon) as before, secured(daemon) as inside:
        before.expect(331, "USER alice")
        daemon.settings["tls"]["require"] = {"login": True, "data": True}
        daemon.settings["banner"] = "other"
        daemon.write()
        daemon.reload()
        assert before.command("PASS secret") == "421 Configuration has changed: connect again."
        assert before.read_line() == b""
        assert inside.upload("STOR on", b"and on").startswith("226 ")
        inside.expect(331, "USER bob")
        assert inside.command("PASS secret") == "421 Configuration has changed: connect again."
        with secured(daemon) as late:
            late.expect(257, "PWD")
    daemon.wait_for_log("login of alice refused: Configuration has changed")
    assert "login failed" not in daemon.log


def test_another_source_ends_a_login(make_daemon: Make, tmp_path: Path) -> None:
    """After a reload that changes a source of users, an older session asks neither the old one nor the new one."""
    source = {"type": "helper", "socket": str(tmp_path / "old.sock")}
    daemon = make_daemon({"users": {"sources": [source]}})
    with open_session(daemon) as before:
        before.expect(331, "USER carol")
        source["socket"] = str(tmp_path / "new.sock")
        daemon.write()
        daemon.reload()
        assert before.command("PASS secret") == "421 Configuration has changed: connect again."


def test_a_reload_without_a_change_ends_nothing(make_daemon: Make) -> None:
    """A reload of the same files is no reason to connect again."""
    daemon = make_daemon({"users": {"sources": []}, "passive": {"networks": []}})
    with open_session(daemon) as client:
        daemon.reload()
        client.login()


def test_a_revoked_certificate(make_daemon: Make, tmp_path: Path) -> None:
    """After a reload with a new revocation list, an older session logs nobody in by a certificate that it verified."""
    authority = Authority("ours")
    alice = authority.issue("alice")
    (tmp_path / "ca.pem").write_bytes(pem(authority.certificate))
    (tmp_path / "ca.crl").write_bytes(authority.crl())
    section = {"ca": str(tmp_path / "ca.pem"), "crl": str(tmp_path / "ca.crl")}
    daemon = make_daemon({"tls": {"client_certificates": section}})
    context = tls_context()
    context.load_cert_chain(alice.write(tmp_path / "alice.pem"))
    with FtpClient(daemon, context=context) as first, FtpClient(daemon, context=context) as second:
        first.start_tls()
        second.start_tls()
        first.expect(232, "USER alice")
        daemon.reload()
        second.expect(232, "USER alice")
        authority.revoke(alice)
        (tmp_path / "ca.crl").write_bytes(authority.crl())
        daemon.reload()
        first.expect(257, "PWD")
        for client in (first, second):
            assert client.command("USER alice") == "421 Configuration has changed: connect again."


def test_equal_files_are_equal_settings(make_daemon: Make) -> None:
    """Two loads of a file with every section compare equal, so that only changes end logins."""
    from ftpsd.config import load

    daemon = make_daemon(
        {"bans": {"allow": ["10.0.0.0/8"]}, "foreign_data": ["10.0.0.0/8"], "limits": {"upload_rate": "1M"}}
    )
    assert load.load(daemon.config).settings == load.load(daemon.config).settings
    other = yaml.safe_load(daemon.config.read_text())
    other["limits"]["sessions"] = 7
    before = load.load(daemon.config).settings
    daemon.config.write_text(yaml.safe_dump(other))
    assert load.load(daemon.config).settings != before
