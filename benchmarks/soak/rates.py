"""Rates: what a client gets in some seconds, beside what its user may have."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.client import Client
from benchmarks.soak.figures import Figure, Report
from benchmarks.soak.subject import Subject

#: How far a rate may be off, as the documents promise.
ALLOWED = 0.05
#: Bytes that a client hands over at once.
PIECE = 64 << 10


@dataclass(frozen=True)
class Load:
    """How much: bytes per second, and for how long."""

    rate: int = 4 << 20
    seconds: float = 10.0

    @property
    def size(self) -> int:
        """Bytes of a transfer that takes as long."""
        return int(self.rate * self.seconds)


def _download(client: Client, load: Load) -> Iterator[int]:
    pipe = client.open("RETR file")
    yield from map(len, pipe.pieces())
    client.done(pipe)


def _upload(client: Client, load: Load) -> Iterator[int]:
    pipe = client.open("STOR stored")
    piece = memoryview(bytes(PIECE))
    for start in range(0, load.size, PIECE):
        part = piece[: load.size - start]
        pipe.send(part)
        yield len(part)
    client.sent(pipe)


KINDS = {"download": _download, "upload": _upload}


def _reached(port: int, way: str, protected: bool, load: Load) -> float:
    """Bytes per second, from the transfer's command to its 226."""
    client = Client(port, protect=protected)
    client.log_in(f"{way}-{'tls' if protected else 'plain'}", "secret")
    client.set_up()
    start = time.monotonic()
    moved = sum(KINDS[way](client, load))
    took = time.monotonic() - start
    client.quit()
    return moved / took


def run(directory: Path, certificate: Path, load: Load, ports: str | None = None) -> Report:
    """The programme: all four at once, each with a rate of its own."""
    kinds = list(itertools.product(KINDS, (True, False)))
    users: dict[str, Any] = {
        f"{way}-{'tls' if protected else 'plain'}": {"limits": {f"{way}_rate": load.rate}} for way, protected in kinds
    }
    settings: dict[str, Any] = {"tls": {"require": {"login": True, "data": False}}}
    daemon = Subject(directory, certificate, settings | ({"passive": {"ports": ports}} if ports else {}), users)
    for user in users:
        (daemon.home(user) / "file").write_bytes(bytes(load.size))
    daemon.start()
    try:
        with ProcessPoolExecutor(len(kinds)) as clients:
            asked = [clients.submit(_reached, daemon.port, *kind, load) for kind in kinds]
            reached = [each.result() for each in asked]
    finally:
        daemon.stop()
    figures, faults = [Figure("each has", load.rate, "bytes/s"), Figure("for", load.seconds, "s")], []
    for (way, protected), rate in zip(kinds, reached, strict=True):
        name, off = f"{way}, {'TLS' if protected else 'plain'}", rate / load.rate - 1
        figures.append(Figure(name, f"{off:+.1%}"))
        if abs(off) > ALLOWED:
            faults.append(f"{name}: {off:+.1%}")
    return Report("rates", figures, faults)
