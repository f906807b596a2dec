"""Clients resume an upload that was cut, each in its way."""

from __future__ import annotations

import re
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ftpsd.storage.local.part_files import part_name
from tests.clients.session import CONTENT, PART
from tests.clients.table import CLIENTS
from tests.daemon import PATIENCE, Daemon
from tests.ftpclient import secured


def cut_upload(daemon: Daemon, name: str, data: bytes) -> int:
    """Begin an upload over TLS and reset it; return how much the server has kept."""
    with secured(daemon) as client:
        connection = client.connect_data()
        client.expect(150, f"STOR {name}")
        secure = client.secure_data(connection)
        secure.sendall(data)
        deadline = time.monotonic() + PATIENCE
        while (kept := _arrived(daemon, name)) < len(data) and time.monotonic() < deadline:
            time.sleep(0.02)
        secure.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        secure.close()
        assert client.reply().startswith("426")
    return kept


def _arrived(daemon: Daemon, name: str) -> int:
    """Return the size of the part file of an upload; 0 without one. Other tests may have left parts in the home."""
    return sum(path.stat().st_size for path in daemon.home().glob(f"{part_name(name)}*"))


def lftp(daemon: Daemon, local: Path) -> list[str]:
    """lftp's way: `put -c`."""
    return [
        "lftp",
        "--norc",
        "-c",
        "set ssl:verify-certificate no; set ftp:ssl-force true; set net:max-retries 1; set cmd:fail-exit true;"
        f" open -u alice,secret {daemon.host}:{daemon.port}; put -c {local} -o file.bin",
    ]


def curl(daemon: Daemon, local: Path) -> list[str]:
    """curl's way: `-C -` asks for the size, and appends."""
    where = f"ftp://{daemon.host}:{daemon.port}/file.bin"
    return ["curl", "-sSk", "--ssl-reqd", "-u", "alice:secret", "--max-time", "20", "-C", "-", "-T", str(local), where]


def jlaffaye(daemon: Daemon, local: Path) -> list[str]:
    """The way of a program in Go: it asks for the size, and appends."""
    (client,) = (each for each in CLIENTS if each.name == "jlaffaye/ftp (Go) with a session cache")
    if client.missing():
        pytest.skip(client.missing())
    where = [daemon.host, str(daemon.port), "alice", str(local.parent)]
    return [*client.command("1.3", local.parent), "explicit", *where, "cache", "append"]


@pytest.mark.parametrize(
    "program", [curl, lftp, pytest.param(jlaffaye, marks=pytest.mark.client)], ids=lambda program: program.__name__
)
def test_a_cut_upload_is_resumed(shared: Daemon, tmp_path: Path, program: Callable[[Daemon, Path], list[str]]) -> None:
    """The client sends only what is missing, and the file is whole."""
    if program is not jlaffaye and shutil.which(program.__name__) is None:
        pytest.skip(f"{program.__name__} is not installed")
    (shared.home() / "file.bin").unlink(missing_ok=True)
    local = tmp_path / "file.bin"
    local.write_bytes(CONTENT)
    arrived = cut_upload(shared, "file.bin", CONTENT[:PART])
    before = len(shared.log)
    command = program(shared, local)
    subprocess.run(command, check=True, capture_output=True, timeout=2 * PATIENCE)
    assert (shared.home() / "file.bin").read_bytes() == CONTENT
    sent = re.findall(r"(?:STOR|APPE) file\.bin: 226 \D*(\d+)", shared.log[before:])
    assert sent == [str(len(CONTENT) - arrived)]


def test_rclone_sends_a_cut_upload_again(shared: Daemon, tmp_path: Path) -> None:
    """rclone does not resume: it stores the file from its beginning, which takes the place of what was kept."""
    if shutil.which("rclone") is None:
        pytest.skip("rclone is not installed")
    (shared.home() / "file.bin").unlink(missing_ok=True)
    local = tmp_path / "file.bin"
    local.write_bytes(CONTENT)
    cut_upload(shared, "file.bin", CONTENT[:PART])
    password = subprocess.run(
        ["rclone", "obscure", "secret"], capture_output=True, text=True, check=True
    ).stdout.strip()
    options = f"--config /dev/null --retries 1 --low-level-retries 1 --ftp-host {shared.host} --ftp-port {shared.port}"
    options += f" --ftp-user alice --ftp-pass {password} --ftp-explicit-tls --ftp-no-check-certificate"
    command = ["rclone", "copyto", *options.split(), str(local), ":ftp:file.bin"]
    subprocess.run(command, check=True, capture_output=True, timeout=2 * PATIENCE)
    assert (shared.home() / "file.bin").read_bytes() == CONTENT
    assert _arrived(shared, "file.bin") == 0
