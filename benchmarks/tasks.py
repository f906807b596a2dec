"""What a client process can be asked to do. A task gets a logged-in client, counts its units, and raises on any fault.

Each function is named as Job.task; those in ALONE make their own sessions.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.client import Client, ReplyError, Seen, tls_context
from benchmarks.job import Job, Tally

TICKETS = 8192
"""More than the session tickets and the close_notify of a data connection ever are: see `_fetch`."""
WARM_UP = "/small/0.bin"


class Stopped(Exception):
    """The benchmark told a background task to stop."""


class Work:
    """A job under way: what tasks read and write."""

    def __init__(self, job: Job, stop: threading.Event) -> None:
        self.job = job
        self.stop = stop
        self.tally = Tally()
        self.seen = Seen()
        self.held: list[Client] = []
        self.source = memoryview(Path(job.source).read_bytes()) if job.source else memoryview(b"")

    def client(self) -> Client:
        """A new session, logged in."""
        client = Client(self.job.port, tls_context(), self.seen, self.job.protect, self.job.implicit)
        client.log_in(self.job.user, self.job.password)
        self.tally.cipher = client.cipher
        return client

    def progress(self, units: int) -> None:
        """A background task counts as it moves, and stops here when it is told to."""
        if self.job.background:
            self.tally.units += units
            if self.stop.is_set():
                raise Stopped

    def complete(self, units: int) -> None:
        """The others count what they have brought to an end."""
        if not self.job.background:
            self.tally.units += units


def _fetch(work: Work, client: Client, path: str, *, decrypt: bool) -> None:
    """Fetch one file and be sure of its size.

    Counted, not decrypted, it seems larger by the tickets and the close_notify, which look like data from outside.
    """
    pipe = client.open(f"RETR {path}")
    total = 0
    for size in map(len, pipe.pieces()) if decrypt else pipe.sizes():
        total += size
        work.progress(size)
    client.done(pipe)
    slack = TICKETS if work.job.protect and not decrypt else 0
    if not work.job.size <= total <= work.job.size + slack:
        raise ReplyError(f"{path}: {total} bytes came instead of {work.job.size}")


def download(work: Work, client: Client) -> None:
    """One large file."""
    _fetch(work, client, work.job.path, decrypt=work.job.decrypt)
    work.complete(work.job.size)


def _send(work: Work, client: Client, path: str) -> None:
    pipe = client.open(f"STOR {path}")
    left = work.job.size
    while left:
        data = work.source[:left]
        for start in range(0, len(data), 1 << 20):
            part = data[start : start + (1 << 20)]
            pipe.send(part)
            work.progress(len(part))
        left -= len(data)
    client.sent(pipe)


def upload(work: Work, client: Client) -> None:
    """One large file. The benchmark looks at the file itself afterwards."""
    _send(work, client, f"{work.job.path}/{work.job.label}.bin")
    work.complete(work.job.size)


def small(work: Work, client: Client) -> None:
    """Many small files, each on a data connection of its own."""
    for number in range(work.job.count):
        _fetch(work, client, f"{work.job.path}/{number}.bin", decrypt=True)
        work.complete(1)


def smallup(work: Work, client: Client) -> None:
    """Many small uploads."""
    for number in range(work.job.count):
        _send(work, client, f"{work.job.path}/{work.job.label}-{number}.bin")
        work.complete(1)


def login(work: Work) -> None:
    """Connect, AUTH TLS, USER, PASS, QUIT; a full TLS handshake each time."""
    for _ in range(work.job.count):
        work.client().quit()
        work.complete(1)


def idle(work: Work) -> None:
    """Log in and stay, until the process ends."""
    for _ in range(work.job.count):
        work.held.append(work.client())
        work.complete(1)


def _list(work: Work, client: Client, verb: str, extra: int) -> None:
    """Read a listing; there must be one line per entry, and for MLSD perhaps those of . and .."""
    pipe = client.open(f"{verb} {work.job.path}")
    lines = 0
    for piece in pipe.pieces():
        found = piece.tobytes().count(b"\n")
        lines += found
        work.progress(found)
    client.done(pipe)
    if not work.job.size <= lines <= work.job.size + extra:
        raise ReplyError(f"{verb}: {lines} lines came instead of {work.job.size}")


def listing(work: Work, client: Client) -> None:
    """LIST, several times."""
    for _ in range(work.job.count):
        _list(work, client, "LIST", 3)
        work.complete(work.job.size)


def mlsd(work: Work, client: Client) -> None:
    """MLSD, several times."""
    for _ in range(work.job.count):
        _list(work, client, "MLSD", 2)
        work.complete(work.job.size)


def pwd(work: Work, client: Client) -> None:
    """PWD over and over, each after the reply to the last."""
    for _ in range(work.job.count):
        client.command("PWD", 257)
        work.complete(1)


def probe(work: Work, client: Client) -> None:
    """NOOPs with a pause between them; how long each took, in seconds."""
    end = time.monotonic() + work.job.seconds
    while (start := time.monotonic()) < end:
        client.command("NOOP", 200)
        work.tally.samples.append(time.monotonic() - start)
        work.complete(1)
        time.sleep(0.005)


IN_SESSION: dict[str, Callable[[Work, Client], None]] = {
    task.__name__: task for task in (download, upload, small, smallup, listing, mlsd, pwd, probe)
}
ALONE: dict[str, Callable[[Work], None]] = {task.__name__: task for task in (login, idle)}


def warm_up(client: Client) -> None:
    """One small transfer, so that nothing which a server does only once is measured."""
    client.set_up()
    pipe = client.open(f"RETR {WARM_UP}")
    for _ in pipe.pieces():
        pass
    client.done(pipe)


def check(work: Work, client: Client) -> None:
    """Fetch the same once more, decrypted, and be sure of every byte."""
    job = work.job
    paths = {"download": [job.path], "small": [f"{job.path}/{number}.bin" for number in range(job.count)]}
    for path in paths.get(job.task, []):
        digest = hashlib.sha256()
        pipe = client.open(f"RETR {path}")
        for piece in pipe.pieces():
            digest.update(piece)
        client.done(pipe)
        if digest.hexdigest() != job.sha256:
            raise ReplyError(f"{path}: the bytes that came are not those of the file")
