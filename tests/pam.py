"""A system with users of its own for `ftpsd-pam-helper`: real PAM modules, and files that nobody else sees."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ftpsd as package
from tests.daemon import PATIENCE, SECRET

ROOT = Path(__file__).parents[1]

#: The fields of shadow(5) behind the name.
USABLE = f"{SECRET}:19000:0:99999:7:::"
EXPIRED_ACCOUNT = f"{SECRET}:19000:0:99999:7::1:"
EXPIRED_PASSWORD = f"{SECRET}:1:0:10:7:::"
MUST_CHANGE = f"{SECRET}:0:0:99999:7:::"
LOCKED = f"!{SECRET}:19000:0:99999:7:::"
NO_PASSWORD = ":19000:0:99999:7:::"

#: In a mount namespace of its own, files of the test are put over those of the system. $1 is their directory.
_MOUNT = """
mount --bind "$1/passwd" /etc/passwd && mount --bind "$1/shadow" /etc/shadow && mount --bind "$1/pam.d" /etc/pam.d || exit 99
shift; exec "$@"
"""

#: The helper. The number of a descriptor as first argument is passed on as systemd does.
HELPER = """
import os, sys
if sys.argv[1].isdigit():
    os.dup2(int(sys.argv.pop(1)), 3)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
from ftpsd.helper.main import main
sys.exit(main())
"""


class PamSystem:
    """The users and the services, and the helper as a process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "pam.sock"
        self.log_file = directory / "helper.log"
        self.log_file.touch()
        self.process: subprocess.Popen[bytes] | None = None
        self._passwd, self._shadow = Path("/etc/passwd").read_text(), Path("/etc/shadow").read_text()
        shutil.copytree("/etc/pam.d", directory / "pam.d")
        self.service("ftpsd", (ROOT / "debian/ftpsd.pam").read_text())
        self.service("ftpsd-lookup", (ROOT / "debian/ftpsd.ftpsd-lookup.pam").read_text())

    def service(self, name: str, text: str) -> None:
        """Write a service of PAM."""
        (self.directory / "pam.d" / name).write_text(text)

    def user(self, name: str, uid: int, shadow: str = USABLE, shell: str = "/bin/sh") -> Path:
        """Add a user; return the home, which does not exist."""
        home = self.directory / "home" / name
        kept = [line for line in self._passwd.splitlines() if not line.startswith(f"{name}:")]
        self._passwd = "\n".join([*kept, f"{name}:x:{uid}:{uid}::{home}:{shell}", ""])
        kept = [line for line in self._shadow.splitlines() if not line.startswith(f"{name}:")]
        self._shadow = "\n".join([*kept, f"{name}:{shadow}", ""])
        return home

    def start(self, *options: str, listener: socket.socket | None = None, prefix: tuple[str, ...] = ()) -> None:
        """Run the helper until `stop`, and wait until it answers. It gets a listening socket as systemd passes one."""
        for name, text in (("passwd", self._passwd), ("shadow", self._shadow)):
            path = self.directory / name
            path.touch(0o600 if name == "shadow" else 0o644)
            path.write_text(text)
        passed = [] if listener is None else [listener.fileno()]
        own = ["--socket", str(self.socket)] if listener is None else []
        command = ["unshare", "--mount", "sh", "-c", _MOUNT, "sh", str(self.directory)]
        command += [*prefix, sys.executable, "-c", HELPER, *map(str, passed), "--user", "root", *own, *options]
        environment = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])}
        before = self.log.count(": answers")
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, pass_fds=passed
            )
        deadline = time.monotonic() + PATIENCE
        while self.log.count(": answers") == before:
            if self.process.poll() is not None:
                raise AssertionError(f"the helper has not started:\n{self.log}")
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    @property
    def log(self) -> str:
        """The output of the helper."""
        return self.log_file.read_text(errors="replace")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the helper; return its exit status."""
        if self.process is None:
            return 0
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def exchange(self, request: bytes) -> bytes:
        """Send bytes, and return all that is answered."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(str(self.socket))
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            try:
                while piece := connection.recv(4096):
                    answer += piece
            except ConnectionResetError:
                pass  # it has closed the connection without reading everything
            return answer

    def ask(self, name: str, password: str | None = "secret", peer: str = "192.0.2.7") -> dict[str, str]:
        """Ask about a user; return the lines of the answer."""
        lines = [f"account:{name}", *([] if password is None else [f"password:{password}"]), f"peer:{peer}", "end", ""]
        answer = self.exchange("\n".join(lines).encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")
        assert answer.endswith("\nend\n"), answer
        return dict(line.split(":", 1) for line in answer.removesuffix("end\n").splitlines())


def require_pam() -> None:
    """Skip a test where PAM cannot be tried."""
    if os.geteuid() != 0:
        pytest.skip("pam_unix verifies the passwords of others for root only")
    pytest.importorskip("pamela", reason="pamela is not installed")
    if shutil.which("unshare") is None:
        pytest.skip("not installed: unshare")
    probe = subprocess.run(
        ["unshare", "--mount", "mount", "--bind", "/etc/passwd", "/etc/passwd"], capture_output=True, text=True
    )
    if probe.returncode:
        pytest.skip(f"mount namespaces cannot be made here: {probe.stderr.strip()}")
