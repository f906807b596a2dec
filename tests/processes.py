"""The processes of a daemon with workers, as /proc shows them, and servers that tests start."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.daemon import PATIENCE, Daemon


def children(pid: int) -> list[int]:
    """Return the processes whose parent is this one."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (each / "stat").read_text().rpartition(") ")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(each.name))
    return sorted(found)


def spawner(daemon: Daemon) -> int:
    """Return the spawner of a daemon."""
    (found,) = children(daemon.pid)
    return found


def workers(daemon: Daemon) -> list[int]:
    """Return the workers of a daemon."""
    return children(spawner(daemon))


def is_alive(pid: int) -> bool:
    """Return whether a process exists, and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], object], text: str = "") -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, text or condition
        time.sleep(0.02)


def family(daemon: Daemon) -> list[int]:
    """Return all processes of a daemon."""
    return [daemon.pid, spawner(daemon), *workers(daemon)]


def pss(pid: int) -> int:
    """Return the memory of a process in bytes; what it shares with others counts in part (proc_pid_smaps(5))."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))


def stop(pid: int, number: int) -> None:
    """Send a signal to a process that may have ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def wait_for_port(
    port: int,
    process: subprocess.Popen[Any],
    log: Path | None = None,
    address: str = "127.0.0.1",
    source: str = "",
) -> None:
    """Wait until a server listens, for a client with the address `source`. If it does not, fail with its log."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection((address, port), PATIENCE, (source, 0)).close()
            return
        except OSError:
            text = "" if log is None else log.read_text()
            assert process.poll() is None, f"the server has ended. {text}"
            assert time.monotonic() < deadline, f"the server does not listen. {text}"
            time.sleep(0.05)
