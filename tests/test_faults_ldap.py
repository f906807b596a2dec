"""A directory that is down, frozen or not to be trusted, and logins over FTP meanwhile."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.ftpclient import FtpClient
from tests.ldap_daemon import example, log_in, make_server, wait_for_login
from tests.slapd import PEOPLE, Slapd
from tests.test_client_certificates import Pki


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Slapd]:
    """A server that runs."""
    slapd = make_server(tmp_path / "server")
    yield slapd
    slapd.kill()


def test_a_directory_that_is_down(make_daemon: Callable[..., Daemon], server: Slapd, tmp_path: Path) -> None:
    """While the server is down, at the start or later, logins get 451 without a ban, and the log says why."""
    server.kill()
    daemon = make_daemon(example(server, tmp_path))
    for _ in range(2):
        for _ in range(6):
            assert log_in(daemon, "berta").startswith("451 ")
        daemon.wait_for_log(f"LDAP server {server.tls_url}: Connection refused")
        server.start()
        wait_for_login(daemon, "berta")
        assert log_in(daemon, "carl").startswith("230 ")
        daemon.wait_for_log(f"LDAP server {server.tls_url} answers again")
        server.kill()
    assert "Traceback" not in daemon.log


def test_a_directory_that_hangs(make_daemon: Callable[..., Daemon], server: Slapd, tmp_path: Path) -> None:
    """While the server is frozen, its users get 451 within the timeout, and users of users.yaml do not wait."""
    daemon = make_daemon(example(server, tmp_path, timeout=2))
    assert log_in(daemon, "berta").startswith("230 ")
    server.signal(signal.SIGSTOP)
    begun = time.monotonic()
    with FtpClient(daemon) as waiting:
        waiting.start_tls()
        waiting.command("USER carl")
        waiting.send("PASS secret")
        assert log_in(daemon, "alice").startswith("230 ")
        assert time.monotonic() - begun < 1.9
        assert waiting.reply().startswith("451 ")
        assert time.monotonic() - begun < 6
    server.signal(signal.SIGCONT)
    wait_for_login(daemon, "carl")
    assert log_in(daemon, "berta").startswith("230 ")


def test_the_first_of_two_servers_fails(make_daemon: Callable[..., Daemon], server: Slapd, tmp_path: Path) -> None:
    """Logins go on with the second server while the first is dead or frozen, and the log says so once."""
    settings = example(server, tmp_path, timeout=2)
    dead = "ldaps://127.0.0.1:9"
    settings["users"]["sources"][0]["servers"].insert(0, dead)
    daemon = make_daemon(settings)
    for name in ("berta", "carl", "Anna"):
        assert log_in(daemon, name).startswith("230 ")
    assert daemon.log.count(f"LDAP server {dead}") == 1


@pytest.mark.parametrize("fault", ["expired", "authority"])
def test_a_directory_with_a_wrong_certificate(make_daemon: Callable[..., Daemon], tmp_path: Path, fault: str) -> None:
    """A certificate that has expired, or that another authority has signed: 451, and the log says what is wrong."""
    slapd = make_server(tmp_path / "server", days=-1 if fault == "expired" else 90)
    settings = example(slapd, tmp_path)
    if fault == "authority":
        other = make_server(tmp_path / "other")
        other.kill()
        settings["users"]["sources"][0]["ca_file"] = str(other.ca)
    try:
        daemon = make_daemon(settings)
        assert log_in(daemon, "berta").startswith("451 ")
        daemon.wait_for_log("certificate is not accepted: .*(expired|signature|issuer|self.signed)")
    finally:
        slapd.kill()


def test_a_wrong_password_of_the_service(make_daemon: Callable[..., Daemon], server: Slapd, tmp_path: Path) -> None:
    """A wrong password in password_file: 451 and no ban, and the log names bind_dn; a reload takes the right one."""
    settings = example(server, tmp_path)
    right = (tmp_path / "password").read_text()
    (tmp_path / "password").write_text("wrong\n")
    daemon = make_daemon(settings)
    for _ in range(6):
        assert log_in(daemon, "berta").startswith("451 ")
    daemon.wait_for_log("refuses the login of bind_dn: wrong name or password")
    (tmp_path / "password").write_text(right)
    daemon.reload()
    assert log_in(daemon, "berta").startswith("230 ")
    assert right.strip() not in daemon.log


@pytest.mark.parametrize("login", ["certificate", "password"])
def test_certificates_without_a_look_up(
    make_daemon: Callable[..., Daemon], server: Slapd, tmp_path: Path, login: str
) -> None:
    """With a login name in `bind`, certificates for which users are looked up get 451; that is no failure, and no ban."""
    alone = {"bind": "{name}@example.com", "bind_dn": None, "password_file": None}
    pki = Pki(tmp_path)
    mode = "required" if login == "password" else "optional"
    daemon = make_daemon(example(server, tmp_path, **alone) | pki.settings(login=login, mode=mode))
    context = pki.context(pki.root.issue("berta"))
    for _ in range(6):
        with FtpClient(daemon, context=context) as client:
            client.start_tls()
            if login == "password":
                client.expect(331, "USER berta")
                client.expect(451, "PASS secret")
            else:
                client.expect(451, "USER berta")
    daemon.wait_for_log(r"source ldap\[0\]: users cannot be looked up without bind_dn")
    assert "is down" not in daemon.log


def test_two_entries_for_one_name(make_daemon: Callable[..., Daemon], server: Slapd, tmp_path: Path) -> None:
    """A name that two entries have: 451, and the log says so; other users log in."""
    server.modify(f"dn: uid=carl,{PEOPLE}\nchangetype: modify\nadd: uid\nuid: berta\n")
    daemon = make_daemon(example(server, tmp_path))
    assert log_in(daemon, "berta").startswith("451 ")
    daemon.wait_for_log("more than one entry")
    assert log_in(daemon, "Anna").startswith("230 ")
