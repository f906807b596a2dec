"""The daemon under test: a real `twistd ftpsd` with all its files and its log below one directory."""

from __future__ import annotations

import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

import ftpsd as package
from tests import forkserver

#: Hashes with few rounds, so that logins cost the suite nothing: the password is "secret".
SECRET = "$5$rounds=1000$ftpsdtests$geSfdgweKkmpcWZrZnH5w.qser4CUVtgBW1FBbYAKH."

_TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]

#: The number of worker processes of each daemon that does not set it: the whole suite passes with 1 (the default) and 3.
_WORKERS = os.environ.get("FTPSD_WORKERS", "")

#: The processes that serve the sessions of such a daemon.
WORKERS = int(_WORKERS or 1)

#: So many sessions, one after another, reach each of them.
EACH_WORKER = 1 if WORKERS == 1 else 3 * WORKERS


def one_process(reason: str) -> pytest.MarkDecorator:
    """Mark a test that has no meaning with worker processes; the reason says why, and where they are tested."""
    return pytest.mark.skipif(WORKERS > 1, reason=reason)


#: How long the suite waits for anything that must come.
PATIENCE = 45.0

# Each process of the suite has ports of its own, below those that the system gives to clients: every tenth piece of 40, so
# that 6000 above one of its ports, where a demonstration has its page, is another of its own.
_process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 10
_next_ports = itertools.cycle(range(10_000 + _process * 40, 32_400, 400))


def free_range(count: int = 30) -> tuple[int, int]:
    """Return a range of ports that are all free now."""
    for low in itertools.islice(_next_ports, 200):
        ports = range(low, low + count)
        if all(_is_free(port) for port in ports):
            return low, low + count - 1
    raise RuntimeError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("::", port))
        except OSError:
            return False
    return True


@contextmanager
def program(command: Sequence[str], **keywords: Any) -> Iterator[subprocess.Popen[Any]]:
    """Run a program, and end it with the context: a test that fails must not wait for it."""
    with subprocess.Popen(command, **keywords) as process:
        try:
            yield process
        finally:
            process.kill()


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with `changes` merged in, section by section."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


class LogFile(type(Path())):  # type: ignore[misc]
    """A log. Lines of worker processes reach it up to a twentieth of a second after what they report."""

    def read_text(self, *arguments: Any, **named: Any) -> str:
        """Return all lines, also those that are on their way."""
        if _WORKERS:
            time.sleep(0.3)
        text: str = super().read_text(*arguments, **named)
        return text


def empty(directory: Path) -> None:
    """Remove all that a directory contains."""
    for each in directory.iterdir():
        if each.is_dir() and not each.is_symlink():
            empty(each)
            each.rmdir()
        else:
            each.unlink()


class Daemon:
    """One daemon. `settings` and `users` are merged into a minimal configuration."""

    def __init__(
        self,
        directory: Path,
        certificate: Path,
        settings: dict[str, Any] | None = None,
        users: dict[str, Any] | None = None,
        address: str = "127.0.0.1",
        arguments: tuple[str, ...] = (),
        groups: dict[str, Any] | None = None,
    ) -> None:
        low, high = free_range()
        self.directory = directory
        self.host = address
        self.port = low
        self.implicit_port = low + 1
        self.passive = (low + 2, high)
        self.certificate = certificate / "certificate.pem"
        self.config = directory / "ftpsd.yaml"
        self.users_file = directory / "users.yaml"
        self.log_file: Path = LogFile(directory / "log")
        self.settings = merge(
            {
                "listen": [
                    {"address": address, "port": self.port, "tls": "explicit"},
                    {"address": address, "port": self.implicit_port, "tls": "implicit"},
                ],
                "tls": {
                    "certificate": str(self.certificate),
                    "private_key": str(certificate / "key.pem"),
                },
                "timeouts": {"drain": 1},
                "passive": {"ports": f"{self.passive[0]}-{self.passive[1]}"},
            },
            settings or {},
        )
        self.users = users or {"alice": {}, "bob": {}}
        self.groups = groups or {}
        self.arguments = arguments
        self.process: subprocess.Popen[bytes] | forkserver.Forked | None = None
        self.write()

    def write(self) -> None:
        """Write both files, and make the homes."""
        users = {}
        for name, values in self.users.items():
            self.home(name).mkdir(parents=True, exist_ok=True)
            users[name] = {"password": SECRET, "home": str(self.home(name)), **values}
        workers = {"workers": int(_WORKERS)} if _WORKERS else {}
        self.config.write_text(yaml.safe_dump({**workers, **self.settings}))
        self.users_file.write_text(yaml.safe_dump({"groups": self.groups, "users": users}))

    def home(self, user: str = "alice") -> Path:
        """Return the directory of a user's home."""
        return self.directory / "homes" / user

    def command(self) -> list[str]:
        """Return the command that runs the daemon in the foreground."""
        return twistd("-n", "--pidfile=", "ftpsd", "-c", str(self.config), *self.arguments)

    def start(self, prefix: tuple[str, ...] = ()) -> Daemon:
        """Run the daemon until `stop`, and wait until it serves."""
        environment = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])}
        self.log_file.write_bytes(b"")  # each start has a log of its own
        command = [*prefix, *self.command()]
        self.process = None
        if command[: len(_TWISTD)] == _TWISTD:
            self.process = forkserver.start(command[len(_TWISTD) :], self.directory, self.log_file, environment)
        if self.process is None:
            with self.log_file.open("ab") as log:
                self.process = subprocess.Popen(
                    command,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    cwd=self.directory,
                    env=environment,
                )
        self.wait_for_log(r"ftpsd \S+ has started|Traceback|: .*\. [A-Z]", started=True)
        return self

    def wait_for_log(self, pattern: str, started: bool = False) -> re.Match[str]:
        """Wait until a line of the log matches."""
        deadline = time.monotonic() + PATIENCE
        while True:
            found = re.search(pattern, Path.read_text(self.log_file, errors="replace"))
            if found is not None:
                return found
            ended = self.process is not None and self.process.poll() is not None
            if time.monotonic() > deadline or (started and ended):
                raise AssertionError(f"{pattern!r} is not in the log:\n{self.log}")
            time.sleep(0.02)

    @property
    def log(self) -> str:
        """The output of the daemon."""
        return self.log_file.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """The process."""
        assert self.process is not None
        return self.process.pid

    def workers(self) -> list[int]:
        """Return the processes of the workers, which the spawner has forked."""
        children: dict[int, list[int]] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
        return [worker for spawner in children.get(self.pid, []) for worker in children.get(spawner, [])]

    def serving(self) -> list[int]:
        """Return the workers; no process if the main process serves the sessions itself."""
        return self.workers() if WORKERS > 1 else []

    def reload(self) -> None:
        """Send SIGHUP, and wait for the result."""
        before = len(re.findall("reloaded: ", self.log))
        os.kill(self.pid, signal.SIGHUP)
        deadline = time.monotonic() + PATIENCE
        while len(re.findall("reloaded: ", self.log)) == before:
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    def open_files(self) -> int:
        """Return the number of open descriptors of the process, and of those that serve its sessions."""
        return sum(len(os.listdir(f"/proc/{each}/fd")) for each in (self.pid, *self.serving()))

    def memory(self) -> int:
        """Return the resident memory of the process, and of those that serve its sessions, in bytes."""
        texts = [Path(f"/proc/{each}/status").read_text() for each in (self.pid, *self.serving())]
        return sum(int(size) * 1024 for text in texts for size in re.findall(r"VmRSS:\s+(\d+) kB", text))

    def stop(self) -> None:
        """Stop the daemon."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def twistd(*arguments: str) -> list[str]:
    """Return the command `twistd` of the interpreter that runs the tests."""
    return [*_TWISTD, *arguments]


def ftpsd(*arguments: str) -> list[str]:
    """Return the command `ftpsd` of the interpreter that runs the tests."""
    return [sys.executable, "-c", "import sys; from ftpsd.cli.main import main; sys.exit(main())", *arguments]
