"""The log cannot be written: its lines are lost, and the daemon serves."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.daemon import PATIENCE, Daemon, twistd
from tests.disks import SmallDisk
from tests.ftpclient import secured


def run(daemon: Daemon, stdout: Any, *options: str, prefix: tuple[str, ...] = ()) -> None:
    """Start a daemon whose log is elsewhere, and wait until it listens."""
    command = [*prefix, *twistd("-n", "--pidfile=", *options, "ftpsd", "-c", str(daemon.config))]
    daemon.log_file.touch()
    daemon.process = subprocess.Popen(command, stdout=stdout, stderr=stdout, stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection((daemon.host, daemon.port), PATIENCE).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            assert daemon.process.poll() is None
            time.sleep(0.05)
        else:
            return


def serves(daemon: Daemon) -> None:
    """Check sessions, transfers, refusals and a reload, all of which are logged."""
    for _ in range(3):
        with secured(daemon) as client:
            assert client.upload("STOR f", b"moved").startswith("226")
            assert client.download("RETR f") == b"moved"
            client.expect(550, "SIZE nothing")
    with secured(daemon) as client:
        client.expect(221, "QUIT")


def test_standard_output_is_full(make_daemon: Callable[..., Daemon]) -> None:
    """Standard output cannot be written, because its disk is full: the daemon serves."""
    daemon = make_daemon(start=False)
    with open("/dev/full", "wb") as full:
        run(daemon, full)
    serves(daemon)


def test_nobody_reads_standard_output(make_daemon: Callable[..., Daemon]) -> None:
    """Standard output is a pipe without a reader: the daemon serves."""
    daemon = make_daemon(start=False)
    reading, writing = os.pipe()
    run(daemon, writing)
    os.close(writing)
    os.close(reading)
    serves(daemon)


def test_the_log_file_is_full(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """The disk of twistd's --logfile is full: the daemon serves, and logs again when there is room."""
    daemon = make_daemon(start=False)
    disk = SmallDisk(tmp_path / "logs", 65536)
    run(daemon, subprocess.DEVNULL, f"--logfile={disk.directory}/log", prefix=disk.prefix)
    inside = disk.inside(daemon.pid)
    try:
        (inside / "ballast").write_bytes(bytes(1 << 20))
    except OSError:
        pass  # as much as there was room for
    serves(daemon)
    (inside / "ballast").unlink()
    with secured(daemon) as client:
        client.expect(550, "SIZE there is room")
    deadline = time.monotonic() + PATIENCE
    while "SIZE there is room: 550" not in (inside / "log").read_text():
        assert time.monotonic() < deadline, (inside / "log").read_text()
