"""The session that each driver has, and what must be true after it."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.clients.table import CACHE, Client
from tests.daemon import PATIENCE, Daemon

CONTENT = random.Random(27).randbytes(1_000_003)

#: What arrived before a download was cut.
PART = 100_000


def prepare(work: Path, home: Path, client: Client) -> Path:
    """Empty the home, and return the client's local directory with what the driver expects."""
    for entry in home.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    local = work / "local"
    local.mkdir()
    (local / "up.bin").write_bytes(CONTENT)
    (local / "part.bin").write_bytes(CONTENT[:PART])
    if "upload" not in client.does:
        (home / "dir").mkdir()
        (home / "dir/b.bin").write_bytes(CONTENT)
    return local


def run(
    client: Client, daemon: Daemon, user: str, work: Path, mode: str = "explicit", version: str = "1.3"
) -> subprocess.CompletedProcess[str]:
    """Run the driver to its end; its output is in `stdout`."""
    local = prepare(work, daemon.home(user), client)
    port = daemon.implicit_port if mode == "implicit" else daemon.port
    options = [option.format(version=version) for option in client.options]
    return execute(
        [*client.command(version, work), mode, daemon.host, str(port), user, str(local), *options], {"TLS": version}
    )


def execute(command: list[str], environment: Mapping[str, str] = {}) -> subprocess.CompletedProcess[str]:
    """Run a program within the suite's patience."""
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=2 * PATIENCE,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "NODE_PATH": str(CACHE / "node_modules"), "LC_ALL": "C.UTF-8", **environment},
        )
    except subprocess.TimeoutExpired as error:
        return subprocess.CompletedProcess(command, -1, (error.stdout or b"").decode(errors="replace"))


def wrong(client: Client, home: Path, local: Path) -> list[str]:
    """Return what is not as the session must leave it."""
    places = {
        "upload": home / "dir/b.bin",
        "download": local / "down.bin",
        "resume": local / "part.bin",
    }
    return [
        f"{task}: {'other content' if places[task].exists() else 'no file'}"
        for task in client.does.split()
        if not places[task].exists() or places[task].read_bytes() != CONTENT
    ]
