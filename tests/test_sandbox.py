"""The sandbox: what the kernel denies to the daemon if the jail has a fault."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ftpsd.system import landlock
from tests.daemon import PATIENCE, Daemon, twistd
from tests.ftpclient import secured
from tests.hostile import wait_until

MakeDaemon = Callable[..., Daemon]

#: In a process of its own: what a test does to itself would hold for all that follow.
ASK = "from ftpsd.system import landlock; print(landlock.abi())"


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script with this interpreter."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)


version = run(ASK).stdout.strip()
with_landlock = pytest.mark.skipif(
    not version or int(version) < 2, reason="this kernel has no Landlock: vm-sandbox tests it in a machine that has"
)


@pytest.fixture
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a file, far from all homes."""
    directory = tmp_path_factory.mktemp("elsewhere") / "below"
    directory.mkdir()
    (directory / "secret").write_text("what lies elsewhere")
    return directory


#: Makes a fault in the jail: it follows a link in place of the home.
_FAULT = """
import os
from ftpsd.storage.local.jail import Jail
Jail._open_home = lambda self: os.open(self._home, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
from twisted.scripts.twistd import run
run()
"""


def lead_away(daemon: Daemon, target: Path) -> None:
    """Run a daemon whose jail has a fault, and replace alice's home by a link to another directory."""
    python, option, _, *arguments = daemon.command()
    daemon.command = lambda: [python, option, _FAULT, *arguments]  # type: ignore[method-assign]
    daemon.start()
    daemon.home().rmdir()
    daemon.home().symlink_to(target)


@with_landlock
def test_a_fault_of_the_jail_leads_nowhere(make_daemon: MakeDaemon, elsewhere: Path) -> None:
    """Worker threads can neither read, list, write, rename nor remove outside of the directories of the start."""
    daemon = make_daemon(start=False)
    lead_away(daemon, elsewhere)
    with secured(daemon) as client:
        for line in ("RETR secret", "NLST", "STOR new"):
            client.passive_port()
            client.expect(550, line)
        for line in ("MKD new", "DELE secret", "HASH secret"):
            client.expect(550, line)
        client.expect(350, "RNFR secret")
        client.expect(550, "RNTO renamed")
    assert [each.name for each in elsewhere.iterdir()] == ["secret"]
    assert f"landlock is on (ABI {version})" in daemon.log


def test_off(make_daemon: MakeDaemon, elsewhere: Path) -> None:
    """With `landlock: off` there is no sandbox, and the log says so."""
    daemon = make_daemon({"sandbox": {"landlock": "off"}}, start=False)
    lead_away(daemon, elsewhere)
    with secured(daemon) as client:
        assert client.download("RETR secret") == b"what lies elsewhere"
    assert "landlock is off: the configuration says so" in daemon.log


EVERY_WORKER = """
import os, sys, threading
from ftpsd.system import landlock
from ftpsd.system.worker_threads import WorkerThreads
from twisted.internet.testing import MemoryReactorClock
inside, outside = sys.argv[1:]
landlock.no_new_privileges()
landlock.enter([(inside, landlock.WRITE)])
workers = WorkerThreads(MemoryReactorClock(), 8)
said = []
together = threading.Barrier(9)
def attempt():
    together.wait(10)  # a job for each thread: no thread takes two
    for path in (inside, outside):
        try:
            os.close(os.open(path + "/file", os.O_WRONLY | os.O_CREAT))
            said.append(f"done {path}")
        except OSError as error:
            said.append(f"{error.strerror} {path}")
    together.wait(10)
for number in range(8):
    workers.queue(f"user{number}", "login").submit(attempt)
workers.start()
together.wait(10)
together.wait(10)
print(*sorted(said), sep="\\n")
"""


@with_landlock
def test_all_worker_threads_are_limited(tmp_path: Path) -> None:
    """All worker threads are limited: rules hold for the thread that makes them and those that it starts."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    done = run(EVERY_WORKER, inside, outside)
    assert done.stdout.splitlines() == [f"Permission denied {outside}"] * 8 + [f"done {inside}"] * 8, done


def test_threads_of_others() -> None:
    """Landlock is not used if other threads run, since it would not limit them."""
    done = run(
        "import threading; from ftpsd.system import landlock; threading.Timer(1, print).start(); landlock.enter([])"
    )
    assert "Unavailable: other threads run already" in done.stderr


def test_no_new_privileges(make_daemon: MakeDaemon) -> None:
    """No thread of the daemon can gain privileges, with or without Landlock."""
    daemon = make_daemon({"sandbox": {"landlock": "off"}})
    with secured(daemon):
        for status in Path(f"/proc/{daemon.pid}/task").glob("*/status"):
            assert "NoNewPrivs:\t1" in status.read_text()


@with_landlock
def test_files_can_be_moved_within_a_home(make_daemon: MakeDaemon) -> None:
    """Files, directories and links can be moved within a home, also to another directory."""
    daemon = make_daemon()
    (daemon.home() / "link").symlink_to("file")
    os.mkfifo(daemon.home() / "pipe")
    with secured(daemon) as client:
        assert client.upload("STOR file", b"content").startswith("226")
        assert client.upload("STOR file", b"new content").startswith("226")
        assert client.upload("APPE file", b", and more").startswith("226")
        client.expect(257, "MKD a")
        client.expect(257, "MKD b")
        for name in ("file", "link", "pipe", "b"):
            client.expect(350, f"RNFR {name}")
            client.expect(250, f"RNTO a/{name}")
        assert client.download("RETR a/file") == b"new content, and more"
        client.expect(250, "RMDA a")
    assert list(daemon.home().iterdir()) == []


@with_landlock
def test_reload_with_new_users(make_daemon: MakeDaemon, elsewhere: Path) -> None:
    """New homes beside the present ones, and where {user} stands, need no restart.

    A reload with others is refused, with the line.
    """
    template = elsewhere.parent / "template"
    (template / "carol").mkdir(parents=True)
    daemon = make_daemon({"workers": 1}, {"alice": {}, "carol": {"home": f"{template}/{{user}}"}})  # see test_processes
    (template / "dave").mkdir()
    daemon.users.update(bob={}, dave={"home": f"{template}/{{user}}"})
    daemon.write()
    daemon.reload()
    for user in ("bob", "dave"):
        with secured(daemon, user) as client:
            assert client.upload("STOR file", b"content").startswith("226")
    daemon.users["eve"] = {"home": str(elsewhere)}
    daemon.write()
    daemon.reload()
    line = 1 + next(n for n, text in enumerate(daemon.users_file.read_text().splitlines()) if str(elsewhere) in text)
    fault = f"{daemon.users_file}:{line}: users.eve.home: {elsewhere} is outside of the sandbox. {landlock.RESTART}"
    daemon.wait_for_log(fault)
    daemon.wait_for_log("the old configuration remains in effect")
    with secured(daemon, "bob") as client:
        client.expect(200, "NOOP")


@with_landlock
def test_a_home_that_was_made_again(make_daemon: MakeDaemon) -> None:
    """A home that was removed and made again works immediately."""
    daemon = make_daemon(users={"alice": {}})
    daemon.home().rename(daemon.directory / "old")
    daemon.home().mkdir()
    with secured(daemon) as client:
        assert client.upload("STOR file", b"content").startswith("226")


@with_landlock
def test_certificates_are_renewed(make_daemon: MakeDaemon, certificate: Path, tmp_path: Path) -> None:
    """A certificate can be renewed as certbot does, with links to other files of a neighbouring directory.

    Links to other places need a restart.
    """
    live, archive, other = (tmp_path / name for name in ("live/ftp", "archive/ftp", "other"))
    for directory in (live, archive, other):
        directory.mkdir(parents=True)

    def renew(place: Path, number: int) -> None:
        for name in ("certificate.pem", "key.pem"):
            shutil.copy(certificate / name, place / f"{number}-{name}")
            (live / "new").symlink_to(os.path.relpath(place / f"{number}-{name}", live))
            (live / "new").rename(live / name)

    renew(archive, 1)
    tls = {"certificate": f"{live}/certificate.pem", "private_key": f"{live}/key.pem"}
    daemon = make_daemon({"tls": tls})
    renew(archive, 2)
    daemon.reload()
    daemon.wait_for_log("reloaded: ")
    renew(other, 3)
    daemon.reload()
    daemon.wait_for_log(rf"tls.certificate: {live}/certificate.pem cannot be read: permission denied\. Restart")


@with_landlock
def test_twistd_keeps_its_files(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    """twistd works in the background, with a log file that it rotates and a pid file that it removes at the end."""
    daemon = make_daemon(start=False)
    logs, runs = tmp_path / "logs", tmp_path / "runs"
    logs.mkdir()
    runs.mkdir()
    daemon.log_file = logs / "ftpsd.log"
    daemon.log_file.write_bytes(b"old\n" * 262_100)  # a MiB and the file is full
    command = twistd(f"--logfile={daemon.log_file}", f"--pidfile={runs / 'pid'}", "ftpsd", "-c", str(daemon.config))
    environment = {**os.environ, "PYTHONPATH": str(Path(landlock.__file__).parents[2])}
    subprocess.run(command, check=True, timeout=PATIENCE, cwd=runs, env=environment)
    pid = int((runs / "pid").read_text())
    try:
        daemon.wait_for_log("implicit TLS")
        with secured(daemon) as client:
            for _ in range(100):
                client.expect(550, "DELE nothing")
        assert (logs / "ftpsd.log.1").exists()
    finally:
        os.kill(pid, 15)
    daemon.wait_for_log("Server Shut Down")
    wait_until(lambda: not (runs / "pid").exists(), "the pid file is removed")


#: Runs a command with the calls of Landlock answered by an errno, or by death (seccomp(2)), as filters do.
FILTERED = """
import ctypes, os, struct, sys
answer = int(sys.argv[1], 0)
program = [(0x20, 0, 0, 0), (0x35, 0, 2, 444), (0x25, 1, 0, 446), (0x06, 0, 0, answer), (0x06, 0, 0, 0x7FFF0000)]
code = b"".join(struct.pack("=HBBI", *each) for each in program)
buffer = ctypes.create_string_buffer(code)
filter = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, filter) == 0, os.strerror(ctypes.get_errno())
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (0x50000 + 38, r"the kernel does not offer it \(Function not implemented\)"),
        (0x50000 + 95, r"the kernel does not offer it \(Operation not supported\)"),
        (0x50000 + 1, r"the kernel does not offer it \(Operation not permitted\)"),
        (0x80000000, "this process may not use its system calls"),
        (0x50000, "the version of this kernel forbids every move of a file between directories"),
    ],
    ids=["not built in", "not switched on", "forbidden", "deadly", "too old"],
)
def test_the_daemon_runs_without_it(make_daemon: MakeDaemon, answer: int, reason: str) -> None:
    """If the kernel has no Landlock, or a filter of system calls prevents it, the log says why, and the daemon serves."""
    daemon = make_daemon(start=False)
    daemon.start((sys.executable, "-c", FILTERED, str(answer)))
    daemon.wait_for_log(f"landlock is off: {reason}")
    with secured(daemon) as client:
        assert client.upload("STOR file", b"content").startswith("226")


def test_home_of_the_whole_system(make_daemon: MakeDaemon) -> None:
    """If a home is /, the sandbox is off, and the log says why."""
    daemon = make_daemon(users={"alice": {}, "root": {"home": "/", "permissions": "read-only"}})
    assert (
        "landlock is off: a home or the directory of the log file is /, so that nothing could be denied" in daemon.log
    )
    with secured(daemon) as client:
        client.expect(200, "NOOP")
