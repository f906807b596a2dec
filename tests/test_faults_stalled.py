"""A disk that does not respond: whoever waits for it gets an error, and all others are served."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from ftpsd.storage.local.part_files import part_name
from ftpsd.system.worker_threads import default_size
from tests.daemon import PATIENCE, WORKERS, Daemon, ftpsd
from tests.disks import FaultyDisk
from tests.ftpclient import FtpClient, secured
from tests.hostile import wait_until

CONTENT = b"written before\n"

#: The reply to a command that waits too long for other sessions.
LOCKED = re.compile(r"451 Other sessions have been changing names in this home for \d seconds: try again later\.")


@pytest.fixture
def stalling(make_daemon: Callable[..., Daemon], request: pytest.FixtureRequest) -> Iterator[tuple[Daemon, FaultyDisk]]:
    """A daemon whose user alice has a faulty disk, and bob a good one."""
    daemon = make_daemon({"timeouts": {"stalled": getattr(request, "param", 2)}}, start=False)
    disk = FaultyDisk(daemon.home())
    (disk.backing / "old").write_bytes(CONTENT)
    (daemon.home("bob") / "old").write_bytes(CONTENT)
    yield daemon.start(disk.prefix), disk
    disk.work()


@pytest.fixture
def waiting(make_daemon: Callable[..., Daemon]) -> Iterator[tuple[Daemon, FaultyDisk]]:
    """A daemon whose user alice has a faulty disk, and a quota, so that changes of names wait for each other.

    Linux locks a directory while a file is removed there, so other sessions use another one.
    """
    timeouts = {"stalled": 2, "data_connect": 1}
    daemon = make_daemon({"timeouts": timeouts}, {"alice": {"quota": {"files": 100}}}, start=False)
    disk = FaultyDisk(daemon.home())
    (disk.backing / "dir").mkdir()
    (disk.backing / "dir" / "old").write_bytes(CONTENT)
    yield daemon.start(disk.prefix), disk
    disk.work()


def test_calls_that_do_not_return(stalling: tuple[Daemon, FaultyDisk]) -> None:
    """A command whose disk call does not return gets 451, and the session continues."""
    daemon, disk = stalling
    with secured(daemon) as client:
        disk.fail(LOOKUP="STALL", GETATTR="STALL")
        assert "Disk not responding" in client.expect(451, "SIZE old")
        client.expect(257, "PWD")
        disk.work()
        assert client.expect(213, "SIZE old") == f"213 {len(CONTENT)}"
    daemon.wait_for_log("SIZE old: 451 Disk not responding")
    assert "Traceback" not in daemon.log


def test_a_download_that_stalls(stalling: tuple[Daemon, FaultyDisk]) -> None:
    """A download whose disk stalls gets 426 with the reason. The session continues, and later the disk, too."""
    daemon, disk = stalling
    with secured(daemon) as client:
        disk.fail(READ="STALL")
        data = client._open("RETR old")
        said = client.reply()
        assert (said[:4], "Disk not responding" in said) == ("426 ", True)
        data.close()
        client.expect(257, "PWD")
        disk.work()
        assert client.download("RETR old") == CONTENT
    daemon.wait_for_log("RETR old: 426 .*Disk not responding")
    assert "Traceback" not in daemon.log


def test_an_upload_that_stalls(stalling: tuple[Daemon, FaultyDisk]) -> None:
    """An upload whose disk stalls gets 426. The old file stays, and a new upload replaces it."""
    daemon, disk = stalling
    with secured(daemon) as client:
        disk.fail(WRITE="STALL")
        data = client._open("STOR old")
        data.sendall(b"new")
        assert client.reply().startswith("426 Transfer aborted")
        data.close()
        disk.work()
        assert (disk.backing / "old").read_bytes() == CONTENT
        assert client.upload("STOR old", b"newer").startswith("226")
        assert (disk.backing / "old").read_bytes() == b"newer"
    daemon.wait_for_log("STOR old: 426 ")
    assert "Traceback" not in daemon.log


def test_changes_that_wait_for_a_stalled_one(make_daemon: Callable[..., Daemon]) -> None:
    """In a home with a quota, changes wait for one whose disk call does not return, and get 451 as that one does.

    The replies say why. When the disk works again, the sessions make their changes, which are counted, and nothing is done twice.
    """
    daemon = make_daemon({"timeouts": {"stalled": 2}}, {"alice": {"quota": {"files": 100}}}, start=False)
    disk = FaultyDisk(daemon.home())
    for number in range(4):
        (disk.backing / f"d{number}").mkdir()
    (disk.backing / "d0" / "old").touch()
    daemon.start(disk.prefix)
    sessions = [secured(daemon) for _ in range(4)]
    try:
        disk.fail(UNLINK="STALL")
        sessions[0].send("DELE d0/old")
        time.sleep(0.2)
        sessions[1].send("MKD d1/new")
        sessions[2].send("RMD d2")
        with sessions[3].connect_data():
            sessions[3].send("STOR d3/new")
            replies = [each.reply() for each in sessions]
        assert replies[0] == "451 Disk not responding. The command may still complete."
        assert all(LOCKED.fullmatch(reply) for reply in replies[1:]), replies
        assert sessions[1].expect(257, "PWD")
    finally:
        disk.work()
    wait_until(lambda: not (disk.backing / "d0" / "old").exists(), "the removal returns")
    sessions[1].expect(257, "MKD d1/new")
    sessions[2].expect(250, "RMD d2")
    assert sessions[3].upload("STOR d3/new", CONTENT).startswith("226")
    assert f"Files: {len(list(disk.backing.rglob('*')))} of" in sessions[1].expect(200, "SITE QUOTA")
    assert "Traceback" not in daemon.log


def test_an_upload_that_cannot_be_published(waiting: tuple[Daemon, FaultyDisk]) -> None:
    """An upload whose bytes have all arrived, and whose name cannot be given, gets 451 and can be resumed later."""
    daemon, disk = waiting
    with secured(daemon) as deleting, secured(daemon) as client:
        data = client._open("STOR new")
        disk.fail(UNLINK="STALL")
        deleting.send("DELE dir/old")
        time.sleep(0.2)
        data.sendall(CONTENT)
        with suppress(ssl.SSLEOFError):  # no close_notify from the server for an upload that it does not publish
            data.unwrap()
        data.close()
        assert LOCKED.fullmatch(client.reply())
        assert deleting.reply().startswith("451 ")
        disk.work()
        wait_until(lambda: client.command("SIZE new") == f"213 {len(CONTENT)}", "the part file is free")
        client.expect(350, f"REST {len(CONTENT)}")
        assert client.upload("STOR new", b"more\n").startswith("226")
        assert client.download("RETR new") == CONTENT + b"more\n"
        assert client.expect(200, "SITE QUOTA").count("Files: 2 of") == 1
    assert "Traceback" not in daemon.log


def test_a_handshake_begins_when_the_file_is_open(waiting: tuple[Daemon, FaultyDisk]) -> None:
    """An upload that must wait for others before it can begin is not refused for a handshake that took too long."""
    daemon, disk = waiting
    with secured(daemon) as deleting, secured(daemon) as client:
        disk.fail(UNLINK="STALL")
        deleting.send("DELE dir/old")
        time.sleep(0.2)
        connection = client.connect_data()
        client.send("STOR new")
        time.sleep(1.5)
        disk.work()
        assert deleting.reply().startswith("250 ")
        assert client.reply().startswith("150 ")
        data = client.secure_data(connection)
        data.sendall(CONTENT)
        data.unwrap()
        data.close()
        assert client.reply().startswith("226 ")
    assert "Traceback" not in daemon.log


# Threads are replaced after five seconds; until then nobody's call must have been given up.
@pytest.mark.parametrize("stalling", [12], indirect=True, ids=[""])
def test_other_users_are_served(stalling: tuple[Daemon, FaultyDisk]) -> None:
    """When more calls stall than there are threads, another user can still log in and transfer files. It is logged."""
    daemon, disk = stalling
    waiting: list[FtpClient] = [secured(daemon) for _ in range((default_size() + 4) * WORKERS)]
    disk.fail(LOOKUP="STALL", GETATTR="STALL")
    for client in waiting:
        client.send("SIZE old")
    with secured(daemon, "bob") as bob:
        assert bob.download("RETR old") == CONTENT
        assert bob.upload("STOR new", CONTENT).startswith("226")
    daemon.wait_for_log("a disk does not respond: .* stuck worker threads were replaced")
    for client in waiting:
        assert client.reply().startswith("451 ")
    disk.work()
    for client in waiting:
        client.expect(213, "SIZE old")
        client.socket.close()
    assert "Traceback" not in daemon.log


def test_a_home_that_cannot_be_swept(make_daemon: Callable[..., Daemon]) -> None:
    """A home whose disk does not respond delays the sweep of no other home, and is swept when it responds."""
    daemon = make_daemon({"timeouts": {"stalled": 2}, "uploads": {"keep_parts": 1}}, start=False)
    disk = FaultyDisk(daemon.home())
    parts = [home / part_name("f") for home in (disk.backing, daemon.home("bob"))]
    daemon.start(disk.prefix)
    try:
        disk.fail(GETATTR="STALL", LOOKUP="STALL", OPENDIR="STALL")
        for part in parts:
            part.write_bytes(b"part")
            os.utime(part, (0, 0))
        daemon.wait_for_log(f"the old part files of {daemon.home()} cannot be removed: .*Disk not responding")
        wait_until(lambda: not parts[1].exists(), "bob's home is swept")
        assert parts[0].exists()
    finally:
        disk.work()
    wait_until(lambda: not parts[0].exists(), "alice's home is swept")
    assert daemon.log.count("cannot be removed") == 1
    assert "Traceback" not in daemon.log


def test_a_home_that_does_not_respond_at_start(make_daemon: Callable[..., Daemon]) -> None:
    """The daemon does not start, and names the home for whose disk it waits; so does `ftpsd check`."""
    daemon = make_daemon(start=False)
    disk = FaultyDisk(daemon.home())
    disk.fail(GETATTR="STALL", LOOKUP="STALL")
    checking = subprocess.Popen(
        [*disk.prefix, *ftpsd("check", "-c", str(daemon.config))], stderr=subprocess.PIPE, text=True
    )
    try:
        assert checking.stderr is not None
        told = checking.stderr.readline()
        assert f"users.alice.home: the disk of {daemon.home()} does not respond. Wait for it" in told
    finally:
        disk.work()
    assert checking.wait(PATIENCE) == 1
