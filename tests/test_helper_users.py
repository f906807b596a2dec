"""Users of a helper: the PAM helper, Pure-FTPd's pure-authd, and helpers that are slow, broken or hostile."""

from __future__ import annotations

import ftplib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ftpsd.accounts.sources import helper
from ftpsd.accounts.sources.helper import HelperUsers
from ftpsd.accounts.sources.source import (
    CannotLookUp,
    LoginDenied,
    Question,
    SourceFailed,
    UnusableSettings,
    WrongPassword,
)
from ftpsd.config.sections.sources import HelperSource
from ftpsd.protocol.addresses import plain_address
from tests import pam
from tests.all_sources import helper_request, serve_all
from tests.daemon import PATIENCE, Daemon, ftpsd, program
from tests.ftpclient import FtpClient, secured, tls_context
from tests.hostile import wait_until
from tests.pam import PamSystem
from tests.pki import Authority, pem
from tests.source_daemon import log_in

Make = Callable[..., Daemon]

#: What a helper does with a connection whose question has arrived: bytes to answer, or something by itself.
Behaviour = Callable[[socket.socket, bytes], bytes | None]

DOCUMENT = Path(__file__).parents[1] / "docs/users-helper.md"


@contextmanager
def helping(path: Path, behaviour: Behaviour) -> Iterator[list[bytes]]:
    """Answer on a socket; yield the list of questions."""
    questions: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                data = helper_request(connection)
                if not data:
                    return
                questions.append(data)
                answer = behaviour(connection, data)
                if answer is not None:
                    connection.sendall(answer)
            except OSError:
                pass  # the daemon has gone

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(64)
        serve_all(listener, serve)
        try:
            yield questions
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            path.unlink()


def source(path: Path, **settings: Any) -> HelperUsers:
    """Return the source for a socket."""
    return helper.make(HelperSource(type="helper", socket=path, **settings), {})


def login(name: str = "alice", password: str | None = "secret") -> Question:
    """Return a question."""
    return Question(name, password, plain_address("192.0.2.7"))


def test_a_question_and_its_answers(tmp_path: Path) -> None:
    """Each line of the document has its meaning."""
    path = tmp_path / "sock"
    answers = [
        b"auth_ok:1\nuid:42\ngid:21\ndir:/home/./j/\nslow_tilde_expansion:1\nend\n",
        b"version:1\nauth_ok:1\nname:Alice\ndir:/a\nuser_quota_size:10\nuser_quota_files:0\nper_user_max:3\n"
        b'throttling_bandwidth_ul:1024\nthrottling_bandwidth_dl:2048\nuser:{"permissions": "read-only"}\nend\nafter\n',
        b"auth_ok:0\nend\n",
        b"auth_ok:1\r\ndir:/a\r\nend\n",
        b"auth_ok:-1\nend\n",
        b"auth_ok:-1\nreason:Locked until Monday.\nend\n",
        b"error:no database\nend\n",
    ]
    with helping(path, lambda connection, data: answers[len(questions) - 1]) as questions:
        asked = source(path)
        found = asked.ask(login())
        assert found is not None
        assert (found.name, found.values, found.verified) == ("alice", {"home": "/home/j"}, True)
        assert questions == [b"version:1\naccount:alice\npassword:secret\npeer:192.0.2.7\nend\n"]
        found = asked.ask(login(password=None))
        assert found is not None
        limits = {"sessions": 3, "upload_rate": 1024, "download_rate": 2048}
        values = {"home": "/a", "quota": {"bytes": 10}, "limits": limits, "permissions": "read-only"}
        assert (found.name, found.values, found.verified) == ("Alice", values, False)
        assert b"password" not in questions[1]
        assert asked.ask(login()) is None
        found = asked.ask(login())
        assert found is not None and found.values == {"home": "/a"}
        with pytest.raises(WrongPassword):
            asked.ask(login())
        with pytest.raises(LoginDenied, match=r"^Locked until Monday\.$"):
            asked.ask(login(password=None))
        with pytest.raises(SourceFailed, match="no database"):
            asked.ask(login())
    with pytest.raises(SourceFailed):
        list(asked.names())


def test_a_helper_that_looks_up_nobody(tmp_path: Path) -> None:
    """A script for Pure-FTPd calls a look-up a wrong password. That is no failure: look-ups for a code precede logins."""
    with helping(tmp_path / "sock", lambda connection, data: b"auth_ok:-1\nend\n"):
        with pytest.raises(CannotLookUp, match="the helper does not look users up without their passwords"):
            source(tmp_path / "sock").ask(login(password=None))


def test_names_and_passwords_are_lines(tmp_path: Path) -> None:
    """A name or a password cannot add a line to a question; all other bytes arrive as they are."""
    with helping(tmp_path / "sock", lambda connection, data: b"auth_ok:0\nend\n") as questions:
        asked = source(tmp_path / "sock")
        for name in ("a:b", "end", "\udcff\u00e4", "'\"\\ {}", "x" * 1000):
            assert asked.ask(login(name, name)) is None
            text = name.encode("utf-8", "surrogateescape")
            assert b"\naccount:" + text + b"\npassword:" + text + b"\n" in questions[-1]
        count = len(questions)
        for name in ("a\nauth_ok:1", "a\rb", "a\0b"):
            assert asked.ask(login(name)) is None
            with pytest.raises(WrongPassword):
                asked.ask(login("alice", name))
        assert len(questions) == count


def _drip(connection: socket.socket, _: bytes) -> bytes:
    for each in b"auth_ok:1\ndir:/a\nend\n":
        connection.sendall(bytes((each,)))
        time.sleep(0.3)
    return b""


def _hold(connection: socket.socket, _: bytes) -> bytes:
    connection.settimeout(PATIENCE)
    connection.recv(1)
    return b""


def _endless(connection: socket.socket, piece: bytes) -> bytes:
    while True:
        connection.sendall(piece)


#: What a helper may do, and a word of what the log says.
HOSTILE: dict[str, tuple[Behaviour | bytes, str]] = {
    "nothing": (b"", "no answer"),
    "only end": (b"end\n", "no line auth_ok"),
    "no end": (b"auth_ok:1\ndir:/a\n", "without a complete answer"),
    "end without line end": (b"auth_ok:1\ndir:/a\nend", "without a complete answer"),
    "other verdict": (b"auth_ok:2\nend\n", "no line auth_ok"),
    "verdict is text": (b"auth_ok:yes\nend\n", "no line auth_ok"),
    "verdict twice": (b"auth_ok:0\nauth_ok:1\nend\n", "a keyword twice"),
    "not utf-8": (b"auth_ok:1\ndir:/\xff\nend\n", "not UTF-8"),
    "nul": (b"auth_ok:1\ndir:/a\0b\nend\n", "NUL"),
    "no keyword": (b"auth_ok:1\nhello\nend\n", "without a keyword"),
    "ratio": (b"auth_ok:1\ndir:/a\nratio_upload:1\nend\n", "ratio_upload, which ftpsd does not support"),
    "unknown": (b"auth_ok:1\n" + b"x" * 9000 + b":1\nend\n", "which ftpsd does not support"),
    "other version": (b"version:2\nauth_ok:1\nend\n", "version"),
    "negative": (b"auth_ok:1\nper_user_max:-1\nend\n", "per_user_max that is not a number"),
    "huge number": (b"auth_ok:1\nuser_quota_size:" + b"9" * 5000 + b"\nend\n", "user_quota_size that is not a number"),
    "other digits": ("auth_ok:1\nper_user_max:\u0663\nend\n".encode(), "per_user_max that is not a number"),
    "user is no json": (b"auth_ok:1\nuser:home\nend\n", "line user is not JSON"),
    "user is nested": (b"auth_ok:1\nuser:" + b"[" * 9000 + b"\nend\n", "line user is not JSON"),
    "user has a password": (b'auth_ok:1\nuser:{"password": "x"}\nend\n', "verifies passwords itself"),
    "no name": (b"auth_ok:1\nname:\nend\n", "printable"),
    "name of control characters": (b"auth_ok:1\nname:a\x1b[2Jb\nend\n", "printable"),
    "reason of control characters": (b"auth_ok:-1\nreason:\x1b[2J\nend\n", "printable reason"),
    "reason of 1 kB": (b"auth_ok:-1\nreason:" + b"x" * 1000 + b"\nend\n", "printable reason"),
    "error of 10 kB": (b"error:" + b"x" * 10_000 + b"\nend\n", "the helper reports"),
    "binary": (bytes(range(256)) + b"\nend\n", "UTF-8"),
    "endless line": (lambda connection, _: _endless(connection, b"x" * 65536), "longer than"),
    "endless lines": (lambda connection, _: _endless(connection, b"uid:1\n" * 1000), "longer than"),
    "silent": (_hold, "no answer within 1 seconds"),
    "drip": (_drip, "no answer within 1 seconds"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_a_helper_may_do(case: str, tmp_path: Path) -> None:
    """Whatever a helper answers is an answer, or SourceFailed with a reason: in time, in bounded memory."""
    found, word = HOSTILE[case]
    behaviour: Behaviour = (lambda connection, data: found) if isinstance(found, bytes) else found  # type: ignore[assignment]
    with helping(tmp_path / "sock", behaviour):
        start = time.monotonic()
        with pytest.raises(SourceFailed, match=word) as caught:
            source(tmp_path / "sock", timeout=1).ask(login())
        assert time.monotonic() - start < 2
        assert len(str(caught.value)) < 400


def test_probe(tmp_path: Path) -> None:
    """Any complete answer shows that the helper works."""
    asked = source(tmp_path / "sock")
    with pytest.raises(SourceFailed, match="No such file"):
        asked.probe()
    for answer, works in (
        (b"auth_ok:0\nend\n", True),
        (b"auth_ok:-1\nend\n", True),
        (b"error:x\nend\n", False),
        (b"", False),
    ):
        with helping(tmp_path / "sock", lambda connection, data, answer=answer: answer):  # type: ignore[misc]
            if works:
                asked.probe()
            else:
                with pytest.raises(SourceFailed):
                    asked.probe()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "sock"))
        with pytest.raises(SourceFailed, match="refused"):
            asked.probe()
    (tmp_path / "sock").unlink()
    (tmp_path / "sock").write_text("")
    with pytest.raises(SourceFailed, match="refused"):
        asked.probe()
    with pytest.raises(SourceFailed, match="too long"):
        source(tmp_path / ("x" * 200)).probe()


def test_a_full_queue_ends_in_time(tmp_path: Path) -> None:
    """A helper that accepts no connection any more is a failure after the timeout."""
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        held = [socket.socket(socket.AF_UNIX) for _ in range(2)]
        for each in held:
            each.setblocking(False)
            each.connect_ex(str(path))
        start = time.monotonic()
        with pytest.raises(SourceFailed, match="no answer within 1 seconds"):
            source(path, timeout=1).ask(login())
        assert time.monotonic() - start < 2
        for each in held:
            each.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_process_of_another_user_gets_no_password(tmp_path: Path) -> None:
    """The helper must belong to root, the daemon's user, or the user that is configured."""
    path = tmp_path / "sock"
    serving = """
import os, socket, sys
os.setuid(1)
listener = socket.socket(fileno=int(sys.argv[1]))
listener.listen(5)
print("ready", flush=True)
while True:
    connection, _ = listener.accept()
    with connection:
        question = connection.recv(4096)
        print(question, flush=True)
        if question:
            connection.sendall(b"auth_ok:0\\nend\\n")
"""
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
        command = [sys.executable, "-c", serving, str(bound.fileno())]
        with program(command, stdout=subprocess.PIPE, pass_fds=[bound.fileno()], text=True) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                for asked in (source(path), source(path, user="bin")):
                    with pytest.raises(SourceFailed, match="the user with the number 1"):
                        asked.ask(login())
                assert source(path, user="daemon").ask(login("bob")) is None
                lines = [process.stdout.readline() for _ in range(3)]
                assert lines[:2] == ["b''\n"] * 2 and "bob" in lines[2], lines
            finally:
                process.kill()
    with pytest.raises(UnusableSettings, match="user"):
        source(path, user="nobody-has-this")


# --- the daemon ------------------------------------------------------------------------------------


def configured(make_daemon: Make, path: Path, homes: Path, **settings: Any) -> Daemon:
    """Start a daemon with bob in its YAML file, and the helper for the others."""
    homes.mkdir(exist_ok=True)
    entry = {"type": "helper", "socket": str(path), "timeout": 2, **settings}
    users = {"sources": [entry], "cache": {"seconds": 1, "stale_seconds": 1}}
    bans = {"attempts": 5, "allow": []}
    return make_daemon({"users": users, "sandbox": {"homes": [str(homes)]}, "bans": bans}, {"bob": {}})


@pytest.fixture
def system(tmp_path: Path) -> Iterator[PamSystem]:
    """A system with the user alice."""
    pam.require_pam()
    (tmp_path / "system").mkdir()
    found = PamSystem(tmp_path / "system")
    found.user("alice", 1001).mkdir(parents=True)
    yield found
    found.stop()


def test_system_users_log_in(make_daemon: Make, system: PamSystem) -> None:
    """A user of the system logs in with ftplib and curl; each refusal of PAM has its reply; bans count wrong passwords."""
    homes = system.directory / "home"
    for uid, (name, shadow) in enumerate(
        {"gone": pam.EXPIRED_ACCOUNT, "old": pam.EXPIRED_PASSWORD, "far": pam.USABLE}.items(), 1002
    ):
        system.user(name, uid, shadow).mkdir()
    system.user("root", 0)
    system.user("homeless", 1010)
    shutil.rmtree(homes / "far")
    system.start()
    daemon = configured(make_daemon, system.socket, homes)
    with ftplib.FTP_TLS(context=tls_context()) as client:
        client.connect(daemon.host, daemon.port, timeout=PATIENCE)
        client.login("alice", "secret")
    with secured(daemon, "alice") as own:
        assert own.upload("STOR a.txt", b"hello").startswith("226 ")
    assert (homes / "alice/a.txt").read_bytes() == b"hello"
    if shutil.which("curl"):
        url = f"ftp://{daemon.host}:{daemon.port}/a.txt"
        command = ["curl", "-sS", "--insecure", "--ssl-reqd", "-u", "alice:secret", url]
        assert subprocess.run(command, capture_output=True, timeout=PATIENCE).stdout == b"hello"
    assert log_in(daemon, "bob").startswith("230 ")
    assert log_in(daemon, "gone") == "530 Account expired."
    assert log_in(daemon, "old") == "530 Password expired: change it on the server."
    assert log_in(daemon, "homeless").startswith("451 ")
    daemon.wait_for_log(r"source helper\[0\]: the user homeless: home: \S+/home/homeless is not a directory")
    for name, password in (("alice", "wrong"), ("root", "secret"), ("nobody-has-this", "secret")):
        assert log_in(daemon, name, password).startswith("530 Login incorrect."), name
    for _ in range(2):
        assert log_in(daemon, "alice", "wrong").startswith("530 ")
    daemon.wait_for_log("banned for")
    assert "Traceback" not in daemon.log + system.log


def test_certificates_of_system_users(make_daemon: Make, system: PamSystem) -> None:
    """A certificate logs a system user in without a password, unless PAM does not permit the account."""
    system.user("gone", 1002, pam.EXPIRED_ACCOUNT).mkdir()
    system.start()
    authority, homes = Authority("root"), system.directory / "home"
    (system.directory / "ca.pem").write_bytes(pem(authority.certificate))
    users = {"sources": [{"type": "helper", "socket": str(system.socket)}]}
    clients = {"client_certificates": {"ca": str(system.directory / "ca.pem")}}
    daemon = make_daemon({"users": users, "tls": clients, "sandbox": {"homes": [str(homes)]}})
    for name, reply in (("alice", "232 "), ("gone", "530 Account expired.")):
        context = tls_context()
        context.load_cert_chain(authority.issue(name).write(system.directory / f"{name}.pem"))
        with FtpClient(daemon, context=context) as client:
            client.start_tls()
            answer = client.command(f"USER {name}")
            assert answer.startswith(reply), answer


#: What each process logs that finds the source down.
DOWN = ": the source is down"


def recovered(daemon: Daemon, times: int) -> bool:
    """Return whether each process that has found the source down has found it up again, so many times or more."""
    down, again = (daemon.log.count(text) for text in (DOWN, "answers again"))
    return down == again >= times


def test_the_helper_is_killed_stopped_and_restarted(make_daemon: Make, system: PamSystem) -> None:
    """Without its helper the daemon answers 451 to its users, which no ban counts; it needs no restart afterwards."""
    daemon = configured(make_daemon, system.socket, system.directory / "home")
    assert log_in(daemon, "alice").startswith("451 ")  # it was never there
    command = ftpsd("check", "--online", "-c", str(daemon.config))
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1 and f"{system.socket}: No such file or directory" in done.stderr, done.stderr
    system.start()
    assert subprocess.run(command, capture_output=True, timeout=PATIENCE).returncode == 0
    for turn, number in enumerate((signal.SIGKILL, signal.SIGTERM), 1):
        wait_until(lambda turn=turn: recovered(daemon, turn), "the daemon sees it")  # type: ignore[misc]
        assert log_in(daemon, "alice").startswith("230 ")
        system.stop(number)
        time.sleep(2.1)  # the login is forgotten
        for _ in range(12):
            assert log_in(daemon, "alice", "wrong").startswith("451 ")
        assert log_in(daemon, "bob").startswith("230 ")
        system.start()
    wait_until(lambda: recovered(daemon, 3), "the daemon sees it")
    assert system.process is not None
    system.process.send_signal(signal.SIGSTOP)
    before = daemon.log.count(DOWN)
    try:
        replies: list[str] = []
        waiting = [threading.Thread(target=lambda: replies.append(log_in(daemon, "alice"))) for _ in range(6)]
        for thread in waiting:
            thread.start()
        time.sleep(0.5)
        start = time.monotonic()
        assert log_in(daemon, "bob").startswith("230 ")
        assert time.monotonic() - start < 1.5
        for thread in waiting:
            thread.join(PATIENCE)
        assert [reply[:4] for reply in replies] == ["451 "] * 6
        wait_until(lambda: daemon.log.count(DOWN) > before, "a probe has failed, too")
    finally:
        system.process.send_signal(signal.SIGCONT)
    wait_until(lambda: recovered(daemon, 4), "the daemon sees it")
    assert log_in(daemon, "alice").startswith("230 ")
    assert "Traceback" not in daemon.log


def test_a_lying_helper(make_daemon: Make, tmp_path: Path) -> None:
    """Whatever a helper answers, the client gets 451, the log a line, and the daemon continues."""
    current: list[Any] = []
    home = tmp_path / "homes/alice"
    home.mkdir(parents=True)
    good = f"auth_ok:1\ndir:{home}\nend\n".encode()

    def answer(connection: socket.socket, data: bytes) -> bytes | None:
        found = current[0] if b"account:\n" not in data else b"auth_ok:0\nend\n"  # the daemon looks whether it works
        return found if isinstance(found, bytes) else found(connection, data)  # type: ignore[no-any-return]

    bad = [
        b"auth_ok:1\nend\n",
        b"auth_ok:1\ndir:/etc\nend\n",
        b"auth_ok:1\ndir:" + str(home).encode() + b"/../../../../../etc\nend\n",
        b"auth_ok:1\ndir:relative\nend\n",
        b"auth_ok:1\nname:../x\ndir:" + str(home).encode() + b"\nend\n",
        b'auth_ok:1\nuser:{"home": ["/"]}\nend\n',
        b"auth_ok:1\nthrottling_bandwidth_ul:1\ndir:" + str(home).encode() + b"\nend\n",
    ]
    with helping(tmp_path / "sock", answer):
        daemon = configured(make_daemon, tmp_path / "sock", tmp_path / "homes")
        for each in [*bad, *(behaviour for behaviour, _ in HOSTILE.values())]:
            current[:] = [each]
            assert log_in(daemon, "alice").startswith("451 "), each
        current[:] = [good]
        assert log_in(daemon, "alice").startswith("230 ")
    assert "Traceback" not in daemon.log, daemon.log
    assert max(map(len, daemon.log.splitlines())) < 4000


def test_pure_authd_works(make_daemon: Make, tmp_path: Path) -> None:
    """A script for Pure-FTPd's pure-authd is asked by pure-authd itself."""
    program = shutil.which("pure-authd", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("not installed: pure-authd")
    home = tmp_path / "homes/john"
    home.mkdir(parents=True)
    script, path = tmp_path / "handler", tmp_path / "sock"
    script.write_text(
        '#!/bin/sh\nif test "$AUTHD_ACCOUNT" = "john"; then\n'
        '  if test "$AUTHD_PASSWORD" = "secret" -a "$AUTHD_REMOTE_IP" = 127.0.0.1; then\n'
        f"    echo 'auth_ok:1'; echo 'uid:69'; echo 'gid:42'; echo 'dir:{home}'\n  else\n    echo 'auth_ok:-1'\n  fi\n"
        "else\n  echo 'auth_ok:0'\nfi\necho 'end'\n"
    )
    script.chmod(0o755)
    command = [program, "-p", str(tmp_path / "pid"), "-s", str(path), "-r", str(script)]
    with program(command) as process:
        try:
            wait_until(path.exists, "pure-authd listens")
            daemon = configured(make_daemon, path, tmp_path / "homes")
            source(path).probe()
            with secured(daemon, "john") as client:
                assert client.upload("STOR a.txt", b"hello").startswith("226 ")
            assert log_in(daemon, "john", "wrong").startswith("530 ")
            assert log_in(daemon, "nobody").startswith("530 ")
            assert log_in(daemon, "bob").startswith("230 ")
        finally:
            process.terminate()


def test_the_example_of_the_document(make_daemon: Make, tmp_path: Path) -> None:
    """The helper of docs/users-helper.md answers the daemon."""
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    home = tmp_path / "homes/alice"
    home.mkdir(parents=True)
    (home / "a.txt").write_bytes(b"hello")
    example, path = tmp_path / "example.py", tmp_path / "sock"
    example.write_text(code.replace("/srv/ftp/alice", str(home)))
    with program([sys.executable, str(example), str(path)]) as process:
        try:
            wait_until(path.exists, "the example listens")
            daemon = configured(make_daemon, path, tmp_path / "homes")
            source(path).probe()
            with secured(daemon, "alice") as client:
                assert client.download("RETR a.txt") == b"hello"
                client.expect(550, "DELE a.txt")
            assert log_in(daemon, "alice", "wrong").startswith("530 ")
            assert log_in(daemon, "nobody").startswith("530 ")
        finally:
            process.terminate()
