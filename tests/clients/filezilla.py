"""FileZilla under Xvfb: its queue is written to its database before it starts, and processed with one key."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.daemon import PATIENCE, Daemon

PROGRAMS = {"filezilla": "filezilla", "Xvfb": "xvfb", "xdotool": "xdotool"}

#: What FileZilla does about a file that exists, without a dialog.
RESUME = 5

SETTINGS = {
    "Greeting version": "99.0.0",  # no dialog that welcomes
    "Update Check": 0,
    "Debug Level": 3,
    "File exists action download": RESUME,
    "File exists action upload": RESUME,
    "Number of Transfers": 1,
    "Timeout": 20,
}

SCHEMA = """
CREATE TABLE servers (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, host TEXT NOT NULL, port INTEGER, user TEXT,
    password TEXT, account TEXT, keyfile TEXT, protocol INTEGER, type INTEGER, logontype INTEGER, timezone_offset INTEGER,
    transfer_mode TEXT, max_connections INTEGER, encoding TEXT, bypass_proxy INTEGER, post_login_commands TEXT, name TEXT,
    parameters TEXT, site_path TEXT DEFAULT NULL);
CREATE TABLE files (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, server INTEGER NOT NULL, source_file TEXT,
    target_file TEXT, local_path INTEGER, remote_path INTEGER, size INTEGER, error_count INTEGER, priority INTEGER,
    flags INTEGER, default_exists_action INTEGER, extra_flags TEXT);
CREATE INDEX server_index ON files (server);
CREATE TABLE local_paths (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, path TEXT NOT NULL);
CREATE TABLE remote_paths (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, path TEXT NOT NULL);
PRAGMA user_version = 7;
"""

#: A file's flag in the queue.
DOWNLOAD = 16

#: Protocols of its site manager.
IMPLICIT, EXPLICIT = 3, 4


class Job(NamedTuple):
    """A file to move between the local directory and the root of the server."""

    name: str
    download: bool


def missing() -> str:
    """Return which packages FileZilla's tests lack, or an empty string."""
    return " ".join(package for program, package in PROGRAMS.items() if shutil.which(program) is None)


def prepare(
    home: Path, daemon: Daemon, local: Path, jobs: list[Job], protocol: int = EXPLICIT, parallel: int = 1
) -> None:
    """Write the settings and the queue. FileZilla makes up to `parallel` connections for transfers."""
    directory = home / ".config/filezilla"
    directory.mkdir(parents=True)
    settings = {**SETTINGS, "Number of Transfers": parallel, "Logging file": home / "log"}
    lines = "".join(f'<Setting name="{name}">{value}</Setting>' for name, value in settings.items())
    (directory / "filezilla.xml").write_text(
        f'<?xml version="1.0"?><FileZilla3 version="3.63.0" platform="*nix"><Settings>{lines}</Settings></FileZilla3>'
    )
    port = daemon.implicit_port if protocol == IMPLICIT else daemon.port
    with sqlite3.connect(directory / "queue.sqlite3") as database:
        database.executescript(SCHEMA)
        database.execute(
            "INSERT INTO servers (host, port, user, password, protocol, type, logontype, timezone_offset,"
            " max_connections, bypass_proxy) VALUES (?, ?, 'alice', 'secret', ?, 0, 1, 0, ?, 0)",
            (daemon.host, port, protocol, parallel),
        )
        database.execute("INSERT INTO local_paths (path) VALUES (?)", (f"{local}/",))
        database.execute("INSERT INTO remote_paths (path) VALUES ('1 0')")  # the root, as it stores paths
        database.executemany(
            "INSERT INTO files (server, source_file, target_file, local_path, remote_path, size, error_count, priority,"
            " flags, default_exists_action) VALUES (1, ?, ?, 1, 1, ?, 0, 2, ?, ?)",
            [
                (
                    job.name,
                    job.name,
                    -1 if job.download else (local / job.name).stat().st_size,
                    DOWNLOAD * job.download,
                    RESUME,
                )
                for job in jobs
            ],
        )
    database.close()


@contextmanager
def screen(home: Path) -> Iterator[dict[str, str]]:
    """An X server with a display of its own; yields the environment of its clients."""
    reading, writing = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writing), "-screen", "0", "1024x768x24", "-nolisten", "tcp"],
        pass_fds=[writing],
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    try:
        with os.fdopen(reading) as answer:
            display = answer.readline().strip()
        yield {**os.environ, "HOME": str(home), "DISPLAY": f":{display}", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    finally:
        server.terminate()
        server.wait(PATIENCE)


def press(environment: dict[str, str], title: str, key: str) -> bool:
    """Press a key in the window with that title; False if there is none yet."""
    command = ["xdotool", "search", "--onlyvisible", "--name", title, "windowfocus", "key", key]
    return subprocess.run(command, env=environment, capture_output=True, timeout=PATIENCE).returncode == 0


def process_queue(home: Path, done: int) -> str:
    """Run FileZilla until `done` transfers have ended; return its log. It is not waited for longer than the patience."""
    log = home / "log"
    with screen(home) as environment:
        program = subprocess.Popen(["filezilla"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 2 * PATIENCE
            said = ""
            while said.count("File transfer") < done and time.monotonic() < deadline:
                if not said:
                    press(environment, "^FileZilla$", "ctrl+p")  # process the queue
                press(environment, "certificate", "Return")  # it asks about each certificate that it does not know
                time.sleep(0.5)
                said = log.read_text(errors="replace") if log.exists() else ""
            return said
        finally:
            program.kill()
            program.wait(PATIENCE)
