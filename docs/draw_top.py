"""Draw docs/top.svg: run a daemon and some clients, and show `ftpsd top` in the middle of their transfers.

    python docs/draw_top.py

It needs rich and a free port 2121. The picture in the README is what this script saw.
"""

from __future__ import annotations

import ftplib
import io
import re
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ftpsd.accounts import hashes
from ftpsd.cli.admin_client import AdminClient
from ftpsd.cli.live import answers
from ftpsd.cli.serve.self_signed import make_certificate
from ftpsd.cli.top import frame
from ftpsd.cli.top.view import View

HERE = Path(__file__).parent
WIDTH, ROWS = 110, 8

#: Seconds for each wait.
PATIENCE = 60

CONFIGURATION = """\
listen: [{address: 127.0.0.1, port: 2121, tls: explicit}]
tls: {certificate: certificate.pem, private_key: key.pem, data_session: allow}
passive: {ports: 50000-50099}
admin: {socket: admin.sock}
"""

#: User, address, client program, what it does (None: nothing), the size of the file, bytes per second.
CLIENTS = (
    ("accounting", "127.0.0.7", "WinSCP", "RETR /2026/november/ledger.csv", 40_000_000, 4_000_000),
    ("alice", "127.0.0.9", "FileZilla", "RETR /photos/harbour.tif", 90_000_000, 21_000_000),
    ("bank", "127.0.0.21", "curl", "STOR /in/statement-1125.xml", 5_000_000, 700_000),
    ("camera-3", "127.0.0.33", "", "STOR /2026-11-26/02-17.mp4", 20_000_000, 2_500_000),
    ("scanner", "127.0.0.40", "", None, 0, 0),
    ("shop", "127.0.0.52", "rclone", "RETR /catalogue.zip", 30_000_000, 1_200_000),
)


class Slow(io.RawIOBase):
    """A file of zeros that is read at some rate."""

    def __init__(self, size: int, rate: int) -> None:
        self._left, self._rate = size, rate

    def read(self, count: int = -1) -> bytes:
        """Return some bytes, after the time that they take."""
        count = min(count, self._left)
        self._left -= count
        time.sleep(count / self._rate)
        return bytes(count)


def main() -> None:
    """Run the daemon and its clients, and write the picture."""
    with tempfile.TemporaryDirectory(prefix="ftpsd") as name:
        directory = Path(name)
        prepare(directory)
        with running(directory) as client:
            draw(client)


@contextmanager
def running(directory: Path) -> Iterator[AdminClient]:
    """Run a daemon whose files are prepared. If it does not serve, end with what it has logged."""
    command = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile="]
    client, log = AdminClient(directory / "admin.sock"), directory / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen([*command, "ftpsd", "-c", directory / "ftpsd.yaml"], stdout=output, stderr=output) as daemon,
    ):
        try:
            wait_for(lambda: client.path.exists() or daemon.poll() is not None, "the daemon does not start")
            if daemon.poll() is not None:
                sys.exit(log.read_text())
            yield client
        finally:
            daemon.terminate()
            try:
                daemon.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                daemon.kill()


def wait_for(condition: Callable[[], object], text: str) -> None:
    """Wait until a condition holds. Otherwise end with a text."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"{text} within {PATIENCE} seconds")
        time.sleep(0.1)


def prepare(directory: Path) -> None:
    """Write the files of the daemon and of its users."""
    make_certificate(directory / "certificate.pem", directory / "key.pem")
    (directory / "ftpsd.yaml").write_text(CONFIGURATION)
    users = ["users:"]
    for user, _, _, does, size, rate in CLIENTS:
        home = directory / "homes" / user
        path = home / (does or "x /in/x").partition(" /")[2]
        path.parent.mkdir(parents=True)
        if does and does.startswith("RETR"):
            path.write_bytes(bytes(size))
        limits = f", limits: {{download_rate: {rate}}}" if rate else ""
        users.append(f'  {user}: {{password: "{hashes.make("secret")}", home: {home}{limits}}}')
    (directory / "users.yaml").write_text("\n".join(users))


def draw(client: AdminClient) -> None:
    """Start the clients, wait until their transfers are under way, and write what `ftpsd top` shows then."""
    for each in CLIENTS:
        threading.Thread(target=connect, args=each, daemon=True).start()
    view = View(room=ROWS)

    def under_way() -> bool:
        view.update(answers.sessions(client)[0])
        begun = sum((session["bytes"] or 0) > 200_000 for session in view.sessions)
        return begun == sum(bool(each[3]) for each in CLIENTS)

    wait_for(under_way, "not all transfers begin")
    view.selected = 3
    lines = frame.lines(answers.status(client), view, time.time(), frame.Look(WIDTH))
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for line in lines:
        console.print(Text.assemble(*line), no_wrap=True, crop=True)
    picture = console.export_svg(title="ftpsd top", unique_id="top")
    # A page that shows the picture does not load fonts from other servers.
    picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)
    (HERE / "top.svg").write_text(picture)


def connect(user: str, address: str, program: str, does: str | None, size: int, rate: int) -> None:
    """Be one of the clients, until the daemon ends."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    ftp = ftplib.FTP_TLS(context=context, timeout=PATIENCE)
    with suppress(*ftplib.all_errors):
        ftp.connect("127.0.0.1", 2121, source_address=(address, 0))
        ftp.login(user, "secret")
        ftp.prot_p()
        if program:
            ftp.sendcmd(f"CLNT {program}")
        if does and does.startswith("RETR"):
            ftp.retrbinary(does, lambda _: None)
        elif does:
            if program:  # the others do not announce what they send
                ftp.sendcmd(f"ALLO {size}")
            ftp.storbinary(does, Slow(size, rate))  # type: ignore[arg-type]
        time.sleep(60)


if __name__ == "__main__":
    main()
