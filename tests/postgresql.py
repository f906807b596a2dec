"""A PostgreSQL server for the tests, in a directory of its own. It refuses to run as root, so root runs it as another user."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.daemon import PATIENCE, free_range

#: Debian and Red Hat put the programs of the server here; elsewhere they are on the path.
_PLACES = (*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), Path("/usr/pgsql/bin"))

#: Plain users, one of which every system has.
_USERS = ("postgres", "nobody")


def _program(name: str) -> str | None:
    found = (str(place / name) for place in _PLACES if (place / name).exists())
    return next(found, None) or shutil.which(name)


requires_postgresql = pytest.mark.skipif(_program("initdb") is None, reason="PostgreSQL is not installed")


class PostgresqlServer:
    """One server. Without a certificate it trusts all; with one it wants a password, over TLS.

    `certificate` is a directory with `certificate.pem` and `key.pem`.
    """

    PASSWORD = "correct horse"

    def __init__(self, certificate: Path | None = None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="ftpsd-postgresql-"))
        self.port = free_range(1)[0]
        self._certificate = certificate
        self._user = next(name for name in _USERS if _exists(name)) if os.geteuid() == 0 else None
        if self._user is not None:
            shutil.chown(self.directory, self._user)
        secret = self._write("password", self.PASSWORD)
        method = "trust" if certificate is None else "scram-sha-256"
        self._run(
            "initdb", "-D", self._data, "-A", method, "-U", "ftpsd", "--pwfile", secret, "-E", "UTF8", "--no-sync"
        )
        if certificate is not None:
            for name in ("certificate.pem", "key.pem"):
                self._write(name, (certificate / name).read_text())
            rules = "local all all trust\nhostssl all all all scram-sha-256\n"
            (self.directory / "data/pg_hba.conf").write_text(rules)

    @property
    def _data(self) -> str:
        return str(self.directory / "data")

    @property
    def url(self) -> str:
        """The database over TCP."""
        return f"postgresql://ftpsd@127.0.0.1:{self.port}/postgres"

    @property
    def socket_url(self) -> str:
        """The database over the Unix socket."""
        return f"postgresql://ftpsd@/postgres?host={self.directory}&port={self.port}"

    def start(self) -> PostgresqlServer:
        """Start the server, and wait until it serves."""
        options = f"-c listen_addresses=127.0.0.1 -p {self.port} -k {self.directory} -c fsync=off"
        if self._certificate is not None:
            options += (
                f" -c ssl=on -c ssl_cert_file={self.directory}/certificate.pem -c ssl_key_file={self.directory}/key.pem"
            )
        self._run("pg_ctl", "start", "-w", "-D", self._data, "-o", options, "-l", str(self.directory / "log"))
        return self

    def stop(self, mode: str = "immediate") -> None:
        """Stop the server, and end all its sessions."""
        self._run("pg_ctl", "stop", "-w", "-D", self._data, "-m", mode)

    def restart(self) -> None:
        """Stop and start the server."""
        self.stop("fast")
        self.start()

    def sql(self, *statements: str) -> str:
        """Run statements with psql, in one transaction; return what it prints."""
        command = ["psql", "-X", "-q", "-A", "-t", "-1", "-v", "ON_ERROR_STOP=1", self.socket_url]
        return subprocess.run(
            command, input=";\n".join(statements), capture_output=True, text=True, check=True, timeout=PATIENCE
        ).stdout.strip()

    def signal(self, number: signal.Signals) -> list[int]:
        """Send a signal to all processes of the server; return their numbers."""
        postmaster = (self.directory / "data/postmaster.pid").read_text().split()[0]
        children = subprocess.run(["pgrep", "-P", postmaster], capture_output=True, text=True).stdout.split()
        found = [int(each) for each in (postmaster, *children)]
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        return found

    def kill(self) -> None:
        """Kill the server, as the kernel does when memory is short."""
        found = self.signal(signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        while any(map(_runs, found)):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        # Where nobody takes note of the end of processes, as in containers, their numbers still seem to be in use.
        for lock in (self.directory / "data/postmaster.pid", self.directory / f".s.PGSQL.{self.port}.lock"):
            lock.unlink()

    def remove(self) -> None:
        """Stop the server if it runs, and remove its files."""
        if (self.directory / "data/postmaster.pid").exists():
            command = self._command("pg_ctl", "stop", "-D", self._data, "-m", "immediate")
            subprocess.run(command, capture_output=True, cwd="/", timeout=PATIENCE)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _write(self, name: str, text: str) -> str:
        path = self.directory / name
        path.touch(0o600)
        path.write_text(text)
        if self._user is not None:
            shutil.chown(path, self._user)
        return str(path)

    def _command(self, name: str, *arguments: str) -> list[str]:
        program = _program(name)
        assert program is not None
        return [*(("runuser", "-u", self._user, "--") if self._user else ()), program, *arguments]

    def _run(self, name: str, *arguments: str) -> None:
        # The server keeps the output of pg_ctl open, so that must not be a pipe.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(
                self._command(name, *arguments),
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                cwd="/",
                timeout=PATIENCE,
            )
            output.seek(0)
            assert done.returncode == 0, output.read().decode()


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _runs(pid: int) -> bool:
    """Return whether a process runs; one that has ended stays in the table until its parent looks at it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
