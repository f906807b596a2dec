"""The daemon runs out of file descriptors."""

from __future__ import annotations

import os
import re
import resource
import time
from collections.abc import Callable
from pathlib import Path

from tests.daemon import PATIENCE, Daemon, one_process
from tests.ftpclient import FtpClient, secured


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def limited(count: int) -> tuple[str, ...]:
    """Return a command that limits the descriptors of the command after it."""
    return ("sh", "-c", f'ulimit -n {count} && exec "$@"', "sh")


@one_process("each process has descriptors of its own: test_worker_faults uses up those of workers")
def test_too_many_sessions_for_the_descriptors(make_daemon: Callable[..., Daemon]) -> None:
    """A daemon without free descriptors answers 421, and logs each refusal.

    Existing sessions can transfer files, and new ones are served when others have ended.
    """
    daemon = make_daemon(start=False).start(limited(80))
    inside: list[FtpClient] = []
    while True:
        client = FtpClient(daemon, greeting=False)
        greeting = client.reply()
        if not greeting.startswith("220"):
            break
        client.start_tls()
        inside.append(client.login())
    assert greeting == "421 Too many open files: try again later."
    assert len(inside) > 20
    for client in (inside[0], inside[-1]):
        assert client.upload("STOR f", b"moved").startswith("226")
        assert client.download("RETR f") == b"moved"
    for _ in range(10):
        with FtpClient(daemon, greeting=False) as refused:
            assert refused.reply().startswith("421 ")
    assert len(re.findall("Too many open files", daemon.log)) == 11
    for client in inside[:10]:
        client.expect(221, "QUIT")
        client.socket.close()
    deadline = time.monotonic() + PATIENCE
    while daemon.open_files() > 68:
        assert time.monotonic() < deadline
    with secured(daemon) as new:
        assert new.upload("STOR f", b"again").startswith("226")
    assert "Traceback" not in daemon.log


@one_process("each process has descriptors of its own: the passive ports are used up before those of three")
def test_data_connections_take_the_last_descriptor(make_daemon: Callable[..., Daemon]) -> None:
    """Passive ports beyond the last descriptor are refused with 451, and the daemon waits without a busy loop."""
    daemon = make_daemon(start=False).start(limited(64))
    inside = [secured(daemon) for _ in range(30)]
    replies = [client.command("EPSV") for client in inside]
    assert {reply[:3] for reply in replies} == {"229", "451"}
    data = [
        client.connect_data(int(reply.rpartition("|||")[2].rstrip("|)")))
        for client, reply in zip(inside, replies, strict=True)
        if reply.startswith("229")
    ]
    before = cpu_seconds(daemon.pid)
    time.sleep(2)
    assert cpu_seconds(daemon.pid) - before < 1  # one that spins takes two
    refused = FtpClient(daemon, greeting=False)
    assert not refused.reply().startswith("220")
    for client in inside:
        client.expect(257, "PWD")
    for connection in data:
        connection.close()
    for client in inside[5:]:
        client.socket.close()
    deadline = time.monotonic() + PATIENCE
    while daemon.open_files() > 40:
        assert time.monotonic() < deadline
    for client in inside[:5]:
        client.expect(200, "PROT P")
        assert client.upload("STOR f", b"moved").startswith("226")
    daemon.wait_for_log("EPSV: 451 ")
    daemon.wait_for_log("EMFILE")
    assert "Traceback" not in daemon.log


def test_the_soft_limit_is_raised(make_daemon: Callable[..., Daemon]) -> None:
    """A soft limit of 1024 descriptors is too low for 2000 sessions: the daemon raises it to the hard limit."""
    daemon = make_daemon(start=False).start(("sh", "-c", 'ulimit -S -n 256 && exec "$@"', "sh"))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    soft = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)[0]
    assert soft == min(65536, hard if hard != resource.RLIM_INFINITY else 65536)
