"""A supervisor with two workers: it sees and shows all that they do, and their events and log lines arrive."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.admin import Admin
from tests.daemon import Daemon, ftpsd, program
from tests.ftpclient import secured
from tests.hostile import wait_until


@pytest.fixture
def daemon(make_daemon: Callable[..., Daemon], tmp_path: Path) -> Daemon:
    """A daemon with two workers, an admin socket and an audit file."""
    settings = {
        "workers": 2,
        "admin": {"socket": str(tmp_path / "admin.sock")},
        "events": {"audit": str(tmp_path / "audit")},
        "bans": {"attempts": 1000},
    }
    return make_daemon(settings)


@pytest.fixture
def admin(daemon: Daemon) -> Admin:
    """Its API."""
    return Admin(Path(daemon.settings["admin"]["socket"]))


@pytest.fixture
def clients(daemon: Daemon) -> Iterator[list[Any]]:
    """Four sessions, of alice and bob in turn: the workers have two each."""
    with ExitStack() as stack:
        yield [stack.enter_context(secured(daemon, ("alice", "bob")[number % 2])) for number in range(4)]


def processes(admin: Admin) -> list[int]:
    """The process numbers of the workers."""
    return [each["process"] for each in admin.get("status")["workers"]]


def audited(daemon: Daemon) -> list[dict[str, Any]]:
    """The records of the audit file."""
    return [json.loads(line) for line in Path(daemon.settings["events"]["audit"]).read_text().splitlines()]


def run(daemon: Daemon, *words: str) -> tuple[str, str]:
    """Run `ftpsd`; return what it prints to both."""
    result = subprocess.run(
        ftpsd(*words, "-c", str(daemon.config)), capture_output=True, text=True, timeout=60, check=False
    )
    return result.stdout, result.stderr


def test_all_sessions_are_shown_and_ended(daemon: Daemon, admin: Admin, clients: list[Any]) -> None:
    """who lists the sessions of both workers in order, status shows how they are divided, kick ends them."""
    found = admin.get("sessions")
    assert [each["user"] for each in found["sessions"]] == ["alice", "bob", "alice", "bob"]
    assert [each["number"] for each in found["sessions"]] == sorted(each["number"] for each in found["sessions"])
    assert "missing_workers" not in found
    status = admin.get("status")
    assert [(each["state"], each["sessions"]) for each in status["workers"]] == [("serving", 2)] * 2
    assert status["sessions"]["used"] == 4
    out, _ = run(daemon, "status")
    assert len(re.findall(r"\d: serving, 2 sessions, [\d.]+ s of processor time, [\d.]+ MiB, process \d+", out)) == 2
    out, _ = run(daemon, "kick", "--user", "alice")
    assert out.startswith("2 sessions dismissed.")
    for client in clients[::2]:
        assert client.reply().startswith("421 ")
    wait_until(lambda: admin.get("sessions")["total"] == 2, "the end of alice's sessions")
    assert clients[1].command("NOOP").startswith("200")


def test_each_command_is_logged_once(daemon: Daemon, admin: Admin, clients: list[Any]) -> None:
    """The log has each command once and in the order of its session, and so has a stream of events."""
    words = ftpsd("events", "-c", str(daemon.config), "--json")
    with program(words, stdout=-1, text=True) as process:
        time.sleep(1)
        for number in range(30):
            for client in clients:
                client.expect(257, f"MKD d{clients.index(client)}.{number}")
        assert process.stdout is not None
        paths: dict[int, list[str]] = {}
        while sum(map(len, paths.values())) < 120:
            event = json.loads(process.stdout.readline())
            if event["event"] == "mkdir":
                paths.setdefault(event["session"], []).append(event["path"])
        process.send_signal(signal.SIGINT)
    assert sorted(paths.values()) == [[f"/d{client}.{number}" for number in range(30)] for client in range(4)]
    wait_until(lambda: len(re.findall(r"> MKD d\S+: 257 ", daemon.log)) == 120, daemon.log)
    for number in range(4):
        logged = re.findall(rf"> MKD (d{number}\S+): 257 ", daemon.log)
        assert logged == [f"d{number}.{index}" for index in range(30)]


def test_lines_of_workers_keep_their_level(daemon: Daemon, admin: Admin, clients: list[Any]) -> None:
    """What a worker logs has the format of the supervisor's lines; what it writes to standard error is logged, too."""
    daemon.wait_for_log(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+\d{4} \[ftpsd\] \(\d+\) bob \(127\.0\.0\.1\)> PASS ")
    pid = processes(admin)[0]
    with open(f"/proc/{pid}/fd/2", "w") as stderr:
        stderr.write("a library of a worker crashes\nin two lines\n")
    daemon.wait_for_log(r"\[ftpsd#error\] output of a worker process: a library of a worker crashes\n\s*in two lines")
    assert daemon.log.count("a library of a worker crashes") == 1
    assert "output of a worker process: landlock" not in daemon.log


def test_json_lines_of_workers(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """With a logger that prints JSON, the lines of sessions have the fields that they have in one process."""
    daemon = make_daemon({"workers": 2}, start=False)
    command = daemon.command()
    command[command.index("ftpsd") : command.index("ftpsd")] = ["--logger=ftpsd.log.json"]
    daemon.command = lambda: command  # type: ignore[method-assign]
    daemon.start()
    with secured(daemon) as client:
        client.expect(257, "MKD made")
    daemon.wait_for_log('"message": "[^"]*> MKD made: 257 ')
    lines = [json.loads(line) for line in daemon.log.splitlines() if "MKD made" in line]
    (line,) = lines
    assert (line["level"], line["event"], line["command"], line["code"], line["user"]) == (
        "info",
        "command",
        "MKD",
        257,
        "alice",
    )


def test_what_happened_before_the_end_is_recorded(daemon: Daemon, clients: list[Any]) -> None:
    """A graceful stop loses no event: the end of each session is in the audit file, and then nothing."""
    for client in clients:
        client.expect(257, f"MKD last{clients.index(client)}")
    daemon.stop()
    names = [each["event"] for each in audited(daemon)]
    assert names.count("mkdir") == names.count("disconnect") == 4
    assert names.count("login") == 4
    assert len(re.findall("> disconnected", daemon.log)) == 4


def test_a_worker_that_is_killed(daemon: Daemon, admin: Admin, clients: list[Any]) -> None:
    """Events and counts of a killed worker are kept; status shows the new worker, and that one was restarted."""
    clients[0].expect(257, "MKD before")
    time.sleep(0.3)
    before = processes(admin)
    os.kill(before[0], signal.SIGKILL)
    wait_until(lambda: admin.get("status")["worker_restarts"] == 1, "the restart")
    wait_until(lambda: len(set(processes(admin)) - set(before)) == 1, "the new worker")
    assert "mkdir" in [each["event"] for each in audited(daemon)]
    assert admin.get("sessions")["total"] == 2
    out, _ = run(daemon, "status")
    assert "1 started again after a failure: see the log" in out


def test_a_worker_that_does_not_answer(daemon: Daemon, admin: Admin, clients: list[Any]) -> None:
    """The list says that sessions of a silent worker are missing, and shows the others; everything else works."""
    stopped = processes(admin)[1]
    os.kill(stopped, signal.SIGSTOP)
    try:
        found = admin.get("sessions")
        assert (found["total"], found["missing_workers"]) == (2, [1])
        assert [each["state"] for each in admin.get("status")["workers"]] == ["serving", "silent"]
        _, errors = run(daemon, "who")
        assert errors in ("Worker 1 does not answer: its sessions are not shown.\n", "")  # "": it was replaced
        assert admin.delete("sessions", user="nobody") == {"dismissed": 0, "missing_workers": [1]}
        assert "Worker 1 does not answer" in admin.delete("sessions/999999", status=503)["detail"]
        _, errors = run(daemon, "kick", "--user", "nobody")
        assert errors == "Worker 1 does not answer: its sessions may continue.\n"
    finally:
        os.kill(stopped, signal.SIGCONT)
