"""Hostile clients and users on the control connection. After each attack the daemon still serves."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable

import pytest

from ftpsd.commands import TABLE
from tests.daemon import Daemon, one_process
from tests.ftpclient import FtpClient, secured, tls_context
from tests.hostile import (
    ends,
    established,
    plain_login,
    reset,
    snapshot,
    wait_until,
    withstands,
)

# --- what is said in plain text -------------------------------------------------------------------


@pytest.mark.parametrize("behind", ["USER alice", "NOOP", ""], ids=["USER", "NOOP", "half a line"])
def test_plain_text_after_auth_is_not_obeyed(shared: Daemon, behind: str) -> None:
    """Bytes in one segment with AUTH cut the connection: nobody knows who has sent them."""
    with withstands(shared), FtpClient(shared) as client:
        client.send_raw(b"AUTH TLS\r\n" + (behind + "\r\n" if behind else "USER ali").encode())
        said = ends(client)
        assert said == "" or (said.startswith("234 ") and said.count("\n") == 1)


def test_plain_text_instead_of_a_handshake(shared: Daemon) -> None:
    """After AUTH the daemon accepts nothing but a TLS handshake."""
    with withstands(shared), FtpClient(shared) as client:
        client.expect(234, "AUTH TLS")
        client.send("USER alice")
        raw = b""
        try:
            while data := client.socket.recv(4096):
                raw += data
        except ConnectionResetError:
            pass
        assert b"331" not in raw


def test_a_login_in_plain_text_is_forgotten(plain: Daemon) -> None:
    """A user name sent before TLS is forgotten, and a login before TLS has to be repeated."""
    with withstands(plain), FtpClient(plain) as client:
        client.expect(331, "USER alice")
        client.start_tls()
        client.expect(503, "PASS secret")
    with plain_login(plain) as client:
        client.start_tls()
        client.expect(530, "PWD")
        client.expect(503, "PASS secret")


def test_the_order_of_the_security_commands(shared: Daemon) -> None:
    """AUTH works once, PROT and PBSZ work under TLS only, and nobody can log in before TLS."""
    with withstands(shared), FtpClient(shared) as client:
        client.expect(503, "PROT P")
        client.expect(503, "PBSZ 0")
        client.expect(530, "USER alice")
        client.expect(530, "LIST")
        client.expect(504, "AUTH GSSAPI")
        client.start_tls()
        client.expect(503, "AUTH TLS")
        client.login()


#: All that a stranger may say.
WITHOUT_LOGIN = set("USER PASS ACCT REIN QUIT HOST AUTH PBSZ PROT FEAT OPTS HELP SYST NOOP CLNT CSID LANG".split())  # noqa: SIM905


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_nothing_is_served_without_a_login(plain: Daemon, tls: bool) -> None:
    """Every other command gets 530 without a login: at first, after USER, after a wrong password, and after REIN."""
    (plain.home() / "x").write_bytes(b"x")
    before = snapshot(plain.home())
    with withstands(plain), FtpClient(plain) as client:
        if tls:
            client.start_tls()
        for said in ((), ("USER alice",), ("USER alice", "PASS wrong"), ("USER alice", "PASS secret", "REIN")):
            for line in said:
                client.command(line)
            if "REIN" in said and tls:
                client.socket = client.socket.unwrap()  # type: ignore[attr-defined]
            for verb in sorted(set(TABLE) - WITHOUT_LOGIN):
                client.expect(530, f"{verb} x")
                client.expect(530, verb)
                client.expect(200, "NOOP")  # too many errors in a row would end the session
    assert snapshot(plain.home()) == before


FOREIGN = [
    b"GET / HTTP/1.1",
    b"POST /x HTTP/1.1",
    b"EHLO mail",
    b"HELO mail",
    b"OPTIONS * HTTP/1.0",
    b"get /",
    b"PRI * HTTP/2.0",
    b"MAIL FROM:<x>",
    b"RCPT TO:<x>",
    b"RSET",
    b"STLS",
    b"CAPA",
    b"APOP alice c4c9334bac560ecc979e58001b3e22fb",
    b"UIDL",
]

IMAP = [
    b"a001 CAPABILITY",
    b"A1 LOGIN alice secret",
    b"a login alice secret",
    b"TAG AUTHENTICATE PLAIN",
    b". STARTTLS",
    b"1 ID NIL",
    b"2.1 NOOP",
]


@pytest.mark.parametrize("line", FOREIGN)
def test_other_protocols_end_the_session(shared: Daemon, line: bytes) -> None:
    """A browser or mail server that connects gets one refusal, and the log says so."""
    with withstands(shared), secured(shared) as client:
        before = len(shared.log)
        client.send_raw(line + b"\r\nHost: x\r\n\r\nQUIT\r\n")
        said = ends(client)
        assert said.startswith("421 ") and said.count("\n") == 1
        assert re.search(r"speaks?|not supported", shared.log[before:])


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("line", FOREIGN + IMAP)
def test_other_protocols_end_a_session_without_login(shared: Daemon, line: bytes, tls: bool) -> None:
    """Before the login, the first verb of HTTP, SMTP, POP3 or IMAP ends the session.

    The password of IMAP is not logged.
    """
    before = len(shared.log)
    with withstands(shared), FtpClient(shared) as client:
        if tls:
            client.start_tls()
        client.send_raw(line + b"\r\nNOOP\r\n")
        said = ends(client)
        assert said.startswith("421 ") and said.count("\n") == 1
    assert "alice secret" not in shared.log[before:]


def test_verbs_that_ftp_shares_with_others(shared: Daemon) -> None:
    """Verbs of other protocols that FTP has too, and file names with such words, work as usual."""
    with withstands(shared), FtpClient(shared) as client:
        client.start_tls()
        client.expect(331, "USER login")
        client.expect(530, "PASS capability")
        client.expect(214, "HELP list")
        client.expect(502, "HELP login")
        client.expect(200, "CLNT id")
        client.expect(501, "OPTS noop")
        client.login()
        client.expect(550, "SIZE list")
        client.expect(500, "DIR list")  # typed by somebody who has logged in


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_no_echo_before_the_login(shared: Daemon, tls: bool) -> None:
    """No reply before the login repeats what the client sent: a browser would show it as a page."""
    script = "<script>x</script>"
    lines = [f"{verb} {script}" for verb in [*TABLE, "XMD5", "NOWHERE"] if verb not in ("PASS", "QUIT")]
    lines += [script, f"USER {script} x", "PASS x", f"HELP SITE {script}", f"OPTS MLST {script}", f"OPTS HASH {script}"]
    with withstands(shared):
        for line in lines:
            with FtpClient(shared) as client:
                if tls:
                    client.start_tls()
                client.send(line, "QUIT")
                assert "script" not in ends(client).lower(), line


def test_tls_on_the_explicit_port(shared: Daemon) -> None:
    """A client that begins TLS where AUTH is expected is disconnected, and the log says why."""
    with withstands(shared):
        before = len(shared.log)
        raw = socket.create_connection((shared.host, shared.port), source_address=("127.0.0.77", 0))
        with pytest.raises((ssl.SSLError, OSError)):
            tls_context().wrap_socket(raw, server_hostname="localhost")
        wait_until(lambda: "explicit" in shared.log[before:], "a line in the log")


# --- passwords and limits ----------------------------------------------------------------------------


def test_no_password_is_ever_logged(shared: Daemon) -> None:
    """No password is logged: no right one, no wrong one, and none that came at the wrong time or with a typing error."""
    with withstands(shared):
        before = len(shared.log)
        with FtpClient(shared) as client:
            client.command("PASS hunter0-early")
            client.start_tls()
            client.command("PASS hunter1-before-user")
            client.command("USER alice")
            client.command("PASS hunter2-wrong")
            client.command("USER alice")
            client.command("pass hunter3-\xff\xfe{0}%s")
        for line in (
            b"PASS hunter4-\0x",
            b" PASS hunter5",
            b"PASS\thunter6",
            b"\xff\xf4PASS hunter7",
            b"PASS  hunter8",
        ):
            with FtpClient(shared) as client:
                client.start_tls()
                client.command("USER alice")
                client.command(line)
        with secured(shared) as client:
            client.command("PASS hunter9")
            client.command("ACCT hunter10")
            for line in (
                "PAS hunter11",
                "PASSS hunter12",
                "XPASS hunter13",
                "HELP PASS hunter14",
                "SITE PASS hunter15",
            ):
                client.command(line)
        wait_until(lambda: not established(shared), "the sessions end")
        assert "hunter" not in shared.log[before:], re.findall(".*hunter.*", shared.log[before:])


def test_too_many_wrong_passwords(shared: Daemon) -> None:
    """The third failed login also gets 530, and ends the session, whatever the client sends in between."""
    with withstands(shared), FtpClient(shared) as client:
        client.start_tls()
        for number in (1, 2):
            client.expect(331, "USER alice" if number == 1 else "USER nobody")
            client.expect(530, "PASS wrong")
        client.expect(331, "USER alice")
        client.send("PASS wrong", "USER alice", "PASS secret")
        said = ends(client)
        assert said.startswith("530 ") and said.count("\n") == 1


@pytest.mark.parametrize(("settings", "most"), [({"sessions": 3}, 3), ({"sessions_per_address": 2}, 2)])
def test_too_many_sessions(make_daemon: Callable[..., Daemon], settings: dict[str, int], most: int) -> None:
    """One session too many gets 421 in plain text. When a session ends, a new one is admitted."""
    daemon = make_daemon({"limits": settings})
    clients = [FtpClient(daemon) for _ in range(most)]
    with FtpClient(daemon, greeting=False) as refused:
        assert ends(refused).startswith("421 ")
    if "sessions" not in settings:
        FtpClient(daemon, source="127.0.0.2").socket.close()
    reset(clients.pop().socket)
    clients.pop().socket.close()
    wait_until(lambda: _greets(daemon), "a free place")
    with withstands(daemon):
        pass
    for client in clients:
        client.socket.close()


def _greets(daemon: Daemon) -> bool:
    with FtpClient(daemon, greeting=False) as client:
        return client.reply().startswith("220")


# --- surroundings that fail --------------------------------------------------------------------------


def test_a_home_that_is_removed(make_daemon: Callable[..., Daemon]) -> None:
    """If the home directory is removed, commands are refused; when it exists again, they work."""
    daemon = make_daemon(users={"alice": {}, "bob": {}})
    with withstands(daemon), secured(daemon, "bob") as inside:
        daemon.home("bob").rmdir()
        with secured(daemon, "bob") as client:
            for each in (inside, client):
                each.expect(257, "PWD")
                each.expect(550, "CWD /")
                each.expect(550, "MLST")
                each.expect(550, "SIZE x")
                each.passive_port()
                each.expect(550, "LIST")
                each.expect(550, "STOR x")
                each.expect(550, "MKD x")
            daemon.home("bob").mkdir()
            client.expect(257, "MKD x")


@one_process("each process has descriptors of its own: test_worker_faults uses up those of workers")
def test_running_out_of_descriptors(make_daemon: Callable[..., Daemon]) -> None:
    """When sessions use up all descriptors, new ones are refused; afterwards the daemon serves again."""
    daemon = make_daemon(start=False)
    daemon.start(prefix=("prlimit", "--nofile=60"))
    with withstands(daemon):
        first = secured(daemon)
        crowd: list[socket.socket] = []
        for _ in range(70):
            crowd.append(socket.create_connection((daemon.host, daemon.port), 5))
        wait_until(lambda: daemon.open_files() > 50, "few descriptors are left")
        # One or the other may be free just now: what matters is that nothing worse than a refusal comes.
        codes = {first.command(line)[:3] for line in ("EPSV", "MKD a", "MLST /", "CWD /")}
        assert codes <= {"425", "451", "421", "229", "257", "250"}, codes
        for connection in crowd:
            reset(connection)
        wait_until(lambda: daemon.open_files() < 40, "descriptors are free again")
        first.expect(250, "CWD /")
        first.expect(221, "QUIT")
