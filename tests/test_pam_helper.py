"""`ftpsd-pam-helper`: the passwords and accounts of system users, as the real modules of PAM see them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import ftpsd as package
from ftpsd.accounts.sources import helper
from ftpsd.accounts.sources.source import Question, SourceFailed
from ftpsd.config.sections.sources import HelperSource
from ftpsd.helper import messages
from ftpsd.helper.main import parser
from ftpsd.protocol.addresses import plain_address
from tests import pam
from tests.daemon import PATIENCE
from tests.hostile import wait_until
from tests.pam import ROOT, PamSystem

pytestmark = pytest.mark.process


@pytest.fixture
def system(tmp_path: Path) -> Iterator[PamSystem]:
    """A system with the user alice."""
    pam.require_pam()
    found = PamSystem(tmp_path)
    found.user("alice", 1001)
    yield found
    found.stop()


def test_accounts_are_told_apart(system: PamSystem) -> None:
    """A right password opens the account; each reason why it does not has its own answer; users of services are unknown."""
    system.user("gone", 1002, pam.EXPIRED_ACCOUNT)
    system.user("old", 1003, pam.EXPIRED_PASSWORD)
    system.user("new", 1004, pam.MUST_CHANGE)
    system.user("locked", 1005, pam.LOCKED)
    system.user("empty", 1006, pam.NO_PASSWORD)
    system.user("shell", 1007, shell="/usr/sbin/nologin")
    system.user("service", 999)
    system.user("root", 0)
    system.user("toor", 0)
    system.start()
    home = str(system.directory / "home" / "alice")
    user = {"version": "1", "auth_ok": "1", "name": "alice", "dir": home, "uid": "1001", "gid": "1001"}
    assert system.ask("alice") == user
    assert system.ask("alice", None) == user
    refused = {"version": "1", "auth_ok": "-1"}
    for name in ("alice", "gone", "old", "new", "locked", "shell"):
        assert system.ask(name, "wrong") == refused, name
    assert system.ask("locked") == refused
    for password in ("", "secret"):
        assert system.ask("empty", password) == refused
    for asked in ("secret", None):  # a login, and a look-up for a client that has shown a certificate
        assert system.ask("gone", asked) == {**refused, "reason": "Account expired."}
        for name in ("old", "new"):
            assert system.ask(name, asked) == {**refused, "reason": "Password expired: change it on the server."}
        assert system.ask("shell", asked) == {**refused, "reason": "Login not permitted."}
    for name in ("service", "root", "toor", "nobody-has-this", "", "a/../b", "-", "\udcff", "x" * 1000, "alice:x", "*"):
        for asked in ("secret", None):
            assert system.ask(name, asked) == {"version": "1", "auth_ok": "0"}, name
    assert "Traceback" not in system.log


def test_a_wrong_password_delays_nobody(system: PamSystem) -> None:
    """The seconds that PAM would wait after a failure are left to the daemon, which counts failures and bans."""
    system.start()
    start = time.monotonic()
    assert system.ask("alice", "wrong")["auth_ok"] == "-1"
    assert time.monotonic() - start < 1.2, "pam_unix asks for at least 1.5 seconds"


def test_a_module_that_hangs_concerns_one_login(system: PamSystem) -> None:
    """While a module keeps one login, others are answered; the deadline ends it, and a module that crashes only itself."""
    script = system.directory / "slow"
    script.write_text(
        '#!/bin/sh\n[ "$PAM_USER" = slow ] && exec sleep 60\n[ "$PAM_USER" = bad ] && kill -9 $PPID\n'
        '[ "$PAM_USER" = odd ] && kill -40 $PPID\nexit 0\n'
    )
    script.chmod(0o755)
    system.service(
        "slow", f"auth required pam_exec.so {script}\nauth required pam_unix.so\naccount required pam_unix.so\n"
    )
    system.user("slow", 1008)
    system.user("bad", 1009)
    system.user("odd", 1010)
    system.start("--service", "slow", "--timeout", "3", "--processes", "3")
    answers: list[bytes] = []
    asking = [
        threading.Thread(target=lambda: answers.append(system.exchange(b"account:slow\npassword:secret\nend\n")))
        for _ in range(2)
    ]
    for thread in asking:
        thread.start()
    assert system.ask("alice")["auth_ok"] == "1"
    for name in (b"bad", b"odd"):
        assert system.exchange(b"account:%b\npassword:secret\nend\n" % name) == b""
    assert system.ask("alice", "wrong")["auth_ok"] == "-1"
    for thread in asking:
        thread.join(PATIENCE)
    assert answers == [b"", b""]
    wait_until(lambda: "no answer within 3 seconds" in system.log, "the deadline is in the log")
    wait_until(lambda: "ended by SIGKILL" in system.log, "the crash is in the log")
    wait_until(lambda: "ended by signal 40" in system.log, "a signal without a name is in the log, too")
    assert system.ask("alice")["auth_ok"] == "1"


def test_programs_of_modules_end_with_their_request(system: PamSystem) -> None:
    """At the deadline the programs that a module has started are ended, too: in sessions of their own, and their children."""
    marks = system.directory / "marks"
    marks.mkdir()
    script = system.directory / "busy"
    script.write_text(f"#!/bin/sh\necho $$ >{marks}/$$\nsh -c 'echo $$ >{marks}/$$; sleep 60' &\nsleep 60\n")
    script.chmod(0o755)
    system.service("busy", f"auth required pam_exec.so {script}\naccount required pam_unix.so\n")
    system.start("--service", "busy", "--timeout", "2", "--processes", "1")
    assert system.exchange(b"account:alice\npassword:secret\nend\n") == b""
    wait_until(lambda: "no answer within 2 seconds" in system.log, "the deadline is in the log")
    processes = [int(each.name) for each in marks.iterdir()]
    assert len(processes) == 2
    wait_until(lambda: not any(map(is_running, processes)), "the programs have ended")
    assert system.exchange(b"account:alice\npassword:secret\nend\n") == b"", (
        "with one process, the next request had its turn"
    )


def is_running(process: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        return " Z " not in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False


def test_processes_are_bounded(system: PamSystem) -> None:
    """With all processes in use further requests wait, and are answered when one of them ends."""
    system.start("--timeout", "2", "--processes", "2")
    held = [socket.socket(socket.AF_UNIX) for _ in range(2)]
    for each in held:
        each.connect(str(system.socket))
        each.sendall(b"account:al")
    start = time.monotonic()
    assert system.ask("alice")["auth_ok"] == "1"
    assert time.monotonic() - start > 1
    for each in held:
        each.close()


def test_pam_does_what_its_files_say(system: PamSystem) -> None:
    """Other modules work: pam_pwdfile, pam_access by the address of the client; a broken service is an error, no refusal."""
    if not Path("/lib/x86_64-linux-gnu/security/pam_pwdfile.so").exists():
        pytest.skip("not installed: libpam-pwdfile")
    passwords, access = system.directory / "passwords", system.directory / "access"
    passwords.write_text("alice:" + pam.SECRET + "\n")
    access.write_text("+:alice:192.0.2.7\n-:ALL:ALL\n")
    system.service(
        "files",
        f"auth required pam_pwdfile.so pwdfile {passwords}\naccount required pam_access.so accessfile={access}\n",
    )
    system.service("broken", "auth required pam_exec.so /bin/false\n")
    system.user("bob", 1010)
    system.start("--service", "files", "--subdirectory", "ftp")
    assert system.ask("alice")["dir"] == str(system.directory / "home/alice/ftp")
    assert system.ask("alice", peer="192.0.2.8") == {"version": "1", "auth_ok": "-1", "reason": "Login not permitted."}
    assert system.ask("alice", "wrong") == {"version": "1", "auth_ok": "-1"}
    assert system.ask("bob")["auth_ok"] == "0"
    system.stop()
    system.start("--service", "broken")
    answer = system.ask("alice")
    assert "auth_ok" not in answer and "System error" in answer["error"]
    assert "System error" in system.log


def test_faillock_refuses_a_right_password(system: PamSystem) -> None:
    """pam_faillock counts, and the lock looks like a wrong password. The capabilities of the unit suffice for it."""
    if shutil.which("setpriv") is None:
        pytest.skip("not installed: setpriv")
    unit = (ROOT / "debian/ftpsd.ftpsd-pam-helper.service").read_text()
    (capabilities,) = re.findall("^CapabilityBoundingSet=(.+)$", unit, re.MULTILINE)
    kept = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in capabilities.split())
    prefix = ("setpriv", "--inh-caps=-all", f"--bounding-set=-all,{kept}", "--no-new-privs")
    tally = system.directory / "tally"
    tally.mkdir()
    lock = f"pam_faillock.so {{}} dir={tally} deny=2 unlock_time=600"
    system.service(
        "faillock",
        f"auth required {lock.format('preauth')}\nauth [success=1 default=bad] pam_unix.so\n"
        f"auth [default=die] {lock.format('authfail')}\nauth sufficient {lock.format('authsucc')}\naccount required pam_unix.so\n",
    )
    system.start("--service", "faillock", prefix=prefix)
    assert system.process is not None
    bounds = re.search(r"CapEff:\s+(\w+)", Path(f"/proc/{system.process.pid}/status").read_text())
    assert bounds is not None and int(bounds[1], 16).bit_count() == len(capabilities.split())
    assert system.ask("alice")["auth_ok"] == "1"
    for _ in range(2):
        assert system.ask("alice", "wrong")["auth_ok"] == "-1"
    assert system.ask("alice") == {"version": "1", "auth_ok": "-1"}


def test_a_look_up_resets_nothing(system: PamSystem) -> None:
    """A look-up, which a stranger can cause, does not make pam_faillock forget failures; a login does."""
    lock = f"pam_faillock.so {{}} dir={system.directory} deny=3 unlock_time=600"
    system.service(
        "faillock",
        f"auth required {lock.format('preauth')}\nauth [success=1 default=bad] pam_unix.so\n"
        f"auth [default=die] {lock.format('authfail')}\nauth required pam_permit.so\n"
        f"account required {lock.format('')}\naccount required pam_unix.so\n",
    )
    system.service("faillock-lookup", (ROOT / "debian/ftpsd.ftpsd-lookup.pam").read_text())
    system.start("--service", "faillock")
    for _ in range(3):
        assert system.ask("alice", "wrong")["auth_ok"] == "-1"
        assert system.ask("alice", None)["auth_ok"] == "1"
    assert system.ask("alice")["auth_ok"] == "-1"


def test_who_may_connect(system: PamSystem) -> None:
    """The socket belongs to one user; another one is cut even where the mode would let it in."""
    if shutil.which("setpriv") is None:
        pytest.skip("not installed: setpriv")
    system.directory.chmod(0o755)
    for parent in system.directory.parents[:3]:
        parent.chmod(parent.stat().st_mode | stat.S_IXOTH)
    system.start("--user", "daemon")
    status = system.socket.stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (1, 0o600)
    asking = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect(sys.argv[1])\n"
        "s.sendall(b'account:alice\\nend\\n'); print(s.recv(4096))"
    )

    def ask(user: str) -> str:
        command = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "/usr/bin/python3", "-c", asking]
        done = subprocess.run([*command, str(system.socket)], capture_output=True, text=True, timeout=PATIENCE, cwd="/")
        return done.stdout + done.stderr

    assert "auth_ok:1" in ask("daemon")
    assert "Permission denied" in ask("bin")
    system.socket.chmod(0o666)
    answer = ask("bin")
    assert answer == "b''\n" or "reset by peer" in answer or "Broken pipe" in answer, answer
    assert "a connection of the user with the number 2 was refused" in system.log
    assert system.ask("alice")["auth_ok"] == "1"


@pytest.mark.parametrize(
    "request_",
    [
        b"",
        b"end\n",
        b"account:alice\n",
        b"account:alice\npassword:secret\naccount:root\nend\n",
        b"version:2\naccount:alice\npassword:secret\nend\n",
        b"account:ali\0ce\npassword:secret\nend\n",
        b"\0" * 100_000,
        b"account:" + b"a" * 100_000 + b"\nend\n",
        b"x\n" * 50_000 + b"end\n",
        bytes(range(256)) * 10 + b"\nend\n",
    ],
    ids=range(10),
)
def test_garbage_is_refused(system: PamSystem, request_: bytes) -> None:
    """A request that is cut, too long or ambiguous opens nothing, and the helper continues."""
    system.start()
    answer = system.exchange(request_)
    assert b"auth_ok" not in answer
    assert answer == b"" or (b"error:" in answer and answer.endswith(b"\nend\n"))
    assert system.ask("alice")["auth_ok"] == "1"
    assert "Traceback" not in system.log


def test_stop_and_restart(system: PamSystem) -> None:
    """SIGTERM removes the socket; one that was left by SIGKILL is replaced; one that is in use is not."""
    system.start()
    assert system.stop() == 0
    assert not system.socket.exists()
    system.start()
    system.stop(signal.SIGKILL)
    assert system.socket.exists()
    system.start()
    assert system.ask("alice")["auth_ok"] == "1"
    first = system.process
    with pytest.raises(AssertionError, match="another process listens on it"):
        system.start()
    system.process = first
    assert system.ask("alice")["auth_ok"] == "1"


def test_systemd_passes_the_socket(system: PamSystem) -> None:
    """The helper takes the socket of its unit, and leaves it there."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(system.socket))
        listener.listen(5)
        system.start(listener=listener)
    assert system.ask("alice")["auth_ok"] == "1"
    assert system.stop() == 0
    assert system.socket.exists()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ((), "needs the Python module pamela, which cannot be imported (it is hidden). Install it:"),
        (("--service", "../x"), "--service ../x is not the name of a file in /etc/pam.d."),
    ],
    ids=["pamela", "service"],
)
def test_a_helper_that_cannot_check_passwords(tmp_path: Path, options: tuple[str, ...], error: str) -> None:
    """With a socket of systemd, it tells each request why for a while, and ends as if it had nothing to do.

    systemd would start one that fails again and again, until it gives up the socket, too.
    """
    (tmp_path / "pamela.py").write_text("raise ImportError('it is hidden')\n")
    program = pam.HELPER.replace(
        "import main\n", "import main\nfrom ftpsd.helper import main as module\nmodule.REPORTING = 4\n"
    )
    with socket.socket(socket.AF_UNIX) as listener, (tmp_path / "log").open("wb") as log:
        listener.bind(str(tmp_path / "pam.sock"))
        listener.listen(5)
        system = helper.make(HelperSource(type="helper", socket=tmp_path / "pam.sock"), {})
        waiting = ThreadPoolExecutor(1).submit(system.ask, Question("alice", "secret", plain_address("127.0.0.1")))
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(listener.fileno()), "--user", "root", *options],
            stderr=log,
            env={**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(package.__file__).parents[1]}"},
            pass_fds=[listener.fileno()],
        )
        with pytest.raises(SourceFailed, match=re.escape(f"the helper reports: {error}"[:100])):
            waiting.result(PATIENCE)
        with pytest.raises(SourceFailed, match="the helper reports: "):
            system.probe()
        assert process.wait(PATIENCE) == 0
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert line.startswith(f"ftpsd-pam-helper: answers each request with an error: {error}")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ((), "systemd has passed no socket. Start ftpsd-pam-helper.socket, or write --socket PATH."),
        (("--socket", "/nowhere/at/all"), "cannot create /nowhere/at/all (No such file or directory)."),
        (("--socket", "/" + "x" * 200), "AF_UNIX path too long"),
        (("--user", "nobody-has-this"), "there is no user nobody-has-this."),
        (("--service", "not-there"), "PAM has no service not-there. Create /etc/pam.d/not-there"),
        (("--service", "../passwd"), "is not the name of a file in /etc/pam.d"),
        (("--subdirectory", "../other"), "is not a name"),
        (("--processes", "0"), "write 1 or a larger number"),
        (("--timeout", "soon"), "invalid"),
    ],
    ids=range(9),
)
def test_what_cannot_start_says_why(options: tuple[str, ...], error: str) -> None:
    """Each option that cannot be used is named, with a remedy."""
    pam.require_pam()
    program = "import sys; from ftpsd.helper.main import main; sys.exit(main())"
    service = () if "--service" in options else ("--service", "login")
    user = () if "--user" in options else ("--user", "root")
    command = [sys.executable, "-c", program, *service, *user, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode in (1, 2)
    assert error in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_answers_are_lines() -> None:
    """A line end in a name of the name service or in a message of PAM cannot add a line to an answer."""
    answer = messages.accepted("a\nauth_ok:1", "/home\nname:root\r", 1000, 1000)
    assert answer.split(b"\n")[2:4] == [b"name:a auth_ok:1", b"dir:/home name:root "]
    assert answer.count(b"\n") == 7


def test_every_option_is_documented() -> None:
    """The man page and the completion have each option, with its default."""
    options = [action for action in parser()._actions if action.dest not in ("help", "version")]
    page = (ROOT / "docs/man/ftpsd-pam-helper.8").read_text().replace("\\-", "-")
    completion = (ROOT / "packaging/bash-completion/ftpsd-pam-helper").read_text()
    for action in options:
        (name,) = action.option_strings
        assert f" {name} " in completion or f" {name}'" in completion
        (text,) = re.findall(rf'^\.BI {name} " [A-Z]+"\n((?:.|\n)*?)\n\.[TS][PH]', page, re.MULTILINE)
        assert not action.default or text.endswith(f"[{action.default}]"), name
