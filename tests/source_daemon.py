"""A daemon whose users come from a source in a file (see `file_source.py`)."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.daemon import EACH_WORKER, PATIENCE, SECRET, Daemon, ftpsd, twistd
from tests.file_source import UserFile
from tests.ftpclient import FtpClient
from tests.hostile import wait_until

ROOT = Path(__file__).parents[1]

#: The source checks this password.
BY_SOURCE = {"plain": "secret", "home": "homes/carol"}


class SourceDaemon(Daemon):
    """A daemon with Alice and Bob in users.yaml, and Carol, Dave and others in a source."""

    timeout = 2

    def with_source(self, **users: dict[str, object]) -> UserFile:
        """Configure the source, and return its file."""
        for name in ("carol", "dave"):
            self.home(name).mkdir(parents=True, exist_ok=True)
        (self.directory / "source").mkdir()
        path = self.directory / "source" / "users.json"
        source = {"type": "file", "path": str(path), "timeout": self.timeout, "concurrency": 2}
        self.settings["users"] = {"sources": [source]}
        self.settings["sandbox"] = {"homes": [str(self.directory / "homes")]}
        self.settings.setdefault("bans", {"attempts": 3, "allow": []})
        self.write()
        hashed = {"password": SECRET, "home": "homes/dave"}
        return UserFile(path, **{"carol": BY_SOURCE, "dave": hashed, **users})

    def command(self) -> list[str]:
        """Return the command that runs a daemon which knows this type of source."""
        python, option, _, *arguments = twistd("-n", "--pidfile=", "ftpsd", "-c", str(self.config))
        return [python, option, "from tests.file_source import run; run()", *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command `ftpsd`, which knows this type of source, too."""
        python, option, _, *rest = ftpsd(*arguments, "-c", str(self.config))
        code = "import sys; from tests.file_source import command_line; sys.exit(command_line())"
        return subprocess.run(
            [python, option, code, *rest], capture_output=True, text=True, timeout=PATIENCE, check=False, cwd=ROOT
        )


def passes(daemon: Daemon, code: int, user: str, password: str = "secret") -> FtpClient:
    """Try to log in with a new connection, and return it."""
    client = FtpClient(daemon)
    client.start_tls()
    client.expect(331, f"USER {user}")
    client.expect(code, f"PASS {password}")
    if code == 230:
        client.expect(200, "PBSZ 0")
        client.expect(200, "PROT P")
    return client


def attempt(daemon: Daemon, code: int, user: str, password: str = "secret") -> None:
    """Try to log in, and disconnect."""
    with passes(daemon, code, user, password):
        pass


def log_in(daemon: Daemon, user: str, password: str = "secret") -> str:
    """Log in; return the reply to PASS."""
    with FtpClient(daemon) as client:
        client.start_tls()
        client.expect(331, f"USER {user}")
        return client.command(f"PASS {password}")


def wait_for_logins(daemon: Daemon, user: str) -> None:
    """Wait until a user can log in to each worker: each finds out for itself that a source answers again."""
    tries = range(EACH_WORKER)
    wait_until(lambda: all(log_in(daemon, user).startswith("230 ") for _ in tries), "each worker asks the source again")


def wait_for_source(daemon: Daemon, user: str, name: str = "source file[0]") -> None:
    """Wait until the daemon says that a source answers again, and each worker asks it again about its user."""
    daemon.wait_for_log(rf"{re.escape(name)} answers again")
    wait_for_logins(daemon, user)
