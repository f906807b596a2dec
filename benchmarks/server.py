"""What all servers have in common: a directory and a port of their own, a start, an end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.client import HOST, tls_context
from benchmarks.measure import Meter, TreeMeter, born, meter
from benchmarks.stage import Stage

CONTROL_PORTS = range(19_000, 20_000)
PASSIVE_PORTS = range(20_000, 30_000)
"""Both below the ports that Linux gives to clients, so that no client's own port is in a server's way."""
PATIENCE = 20.0


class Failed(Exception):
    """A server that did not start, with the last line of what it said."""


@dataclass(frozen=True)
class Setting:
    """Where a server is to run."""

    stage: Stage
    peers: Path
    """What was unpacked, one directory for each peer."""
    python: Path
    """The interpreter that has ftpsd's dependencies."""


def free_port() -> int:
    """A control port that nothing listens on."""
    for port in CONTROL_PORTS:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((HOST, port))
            except OSError:
                continue
            return port
    raise Failed(f"no free port from {CONTROL_PORTS.start} to {CONTROL_PORTS.stop - 1}")


class Server:
    """One server. A subclass knows how to get it, how to set it up, and the command that runs it in the foreground."""

    name = ""
    #: Whether it expects TLS from the first byte on.
    implicit = False

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.stage = setting.stage
        self.peer = setting.peers / self.name.lower()
        self.directory = self.stage.directory / "servers" / self.name.lower()
        self.port = 0
        self.meter: Meter = TreeMeter()
        self._process: subprocess.Popen[bytes] | None = None

    def obtain(self) -> str:
        """Get the server, or raise peers.Missing; its version."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """Write the configuration for `self.port`; the command that serves until it is told to end."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """What the command's environment has besides this process's."""
        return {}

    def start(self) -> Meter:
        """Start, and wait until it takes connections."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        process = self._launch(self.command(), self.directory / "log")
        limit = time.monotonic() + PATIENCE
        while not self._answers():
            if process.poll() is not None or time.monotonic() > limit:
                said = (self.directory / "log").read_text(errors="replace").strip().splitlines()
                raise Failed(said[-1] if said else "it ended without a word")
            time.sleep(0.05)
        return self.meter

    def _launch(self, command: list[str], log: Path) -> subprocess.Popen[bytes]:
        """Run `command`, metered from its first instruction on."""
        self.meter = meter()
        with log.open("wb") as output:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=self.directory,
                    env={**os.environ, **self.environment()},
                    start_new_session=True,
                    preexec_fn=self.meter.admit,
                )
            except (OSError, subprocess.SubprocessError) as error:
                self.meter.close()
                raise Failed(f"{command[0]} cannot be run: {error}") from None
        self.meter.started(self._process.pid)
        return self._process

    def _answers(self) -> bool:
        """Whether there is a greeting: only then has a server begun to serve."""
        try:
            with socket.create_connection((HOST, self.port), timeout=5) as sock:
                if not self.implicit:
                    return sock.recv(3) == b"220"
                with tls_context().wrap_socket(sock) as secured:
                    return secured.recv(3) == b"220"
        except OSError:
            return False

    def _others(self, first: int) -> dict[int, str]:
        """The server's processes but the first, each with the time of its start."""
        return {pid: when for pid in self.meter.pids() if pid != first and (when := born(pid))}

    def stop(self) -> None:
        """End what `start` began, each process by its id, and wait until all are gone.

        The clients have left. A process of one of their sessions gets a second to notice and be reaped by its parent.
        """
        process, self._process = self._process, None
        if not process:
            return
        limit = time.monotonic() + 1
        while (others := self._others(process.pid)) and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.02)
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pid, when in others.items():
            if born(pid) == when:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.meter.close()
