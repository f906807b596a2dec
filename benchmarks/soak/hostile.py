"""Clients that mean harm, and beside them one that does not: how long everything takes for that one."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.soak.attacks import REBUFFED, attack
from benchmarks.soak.client import Client, Place
from benchmarks.soak.crew import Crew, Post
from benchmarks.soak.figures import Figure, Report, percentiles
from benchmarks.soak.subject import Subject
from benchmarks.soak.wire import Way, addresses, contexts

BULK = 8 << 20
#: What the well-behaved client fetches and stores.
FILE = 1 << 20
#: It gives up then.
PATIENCE = 60.0


#: What is told of each, and the methods of `Attack` that make it. First, nobody attacks.
ATTACKS: dict[str, list[str]] = {
    "peace": [],
    "one byte a second": ["read_slowly", "write_slowly", "speak_slowly"],
    "connections that say nothing": ["say_nothing"],
    "TLS handshakes": ["shake_hands"],
    "connections": ["connect"],
}


@dataclass(frozen=True)
class Load:
    """How much. The attackers come from so many addresses, in so many processes."""

    seconds: float = 10.0
    clients: int = 200
    addresses: int = 10
    processes: int = 2
    connects: float = 10_000.0
    attacks: Mapping[str, list[str]] = field(default_factory=lambda: ATTACKS)

    def scaled(self, scale: float) -> Load:
        """Part of it."""
        return Load(self.seconds, max(4, round(self.clients * scale)), connects=self.connects * scale)


@dataclass
class Tally:
    """What the well-behaved client has seen."""

    login: list[float] = field(default_factory=list)
    noop: list[float] = field(default_factory=list)
    transfer: list[float] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)


class Timer:
    """Adds how long something took."""

    def __init__(self, to: list[float]) -> None:
        self._to = to

    def __enter__(self) -> None:
        self._start = time.monotonic()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._to.append(time.monotonic() - self._start)


async def behave(post: Post, place: Place, seconds: float) -> None:
    """Client process: logs in, asks, fetches, stores, leaves, and begins again."""
    tally, deadline = Tally(), time.monotonic() + seconds
    while time.monotonic() < deadline or not tally.login:
        client = Client(place, contexts()[0])
        try:
            async with asyncio.timeout(PATIENCE):
                await _session(client, tally)
        except REBUFFED as error:
            tally.faults[f"{type(error).__name__}: {error}"] += 1
            if tally.faults.total() > 100:
                break
        finally:
            client.close(Way.FIN)
    post.say(tally)


async def _session(client: Client, tally: Tally) -> None:
    data = bytes(FILE)
    with Timer(tally.login):
        await client.connect()
        await client.log_in()
    for _ in range(10):
        with Timer(tally.noop):
            await client.command("NOOP", 200)
        await asyncio.sleep(0.01)
    with Timer(tally.transfer):
        if await client.download("RETR file") != data:
            raise ValueError("other bytes came")
    with Timer(tally.transfer):
        await client.upload("STOR stored", data)
    await client.quit()


def run(directory: Path, certificate: Path, load: Load, ports: str | None = None) -> Report:
    """The programme. The daemon has its default limits; the attackers' addresses are not the client's."""
    daemon = Subject(directory, certificate, {"passive": {"ports": ports}} if ports else {}, {"alice": {}})
    (daemon.home() / "bulk").write_bytes(random.randbytes(BULK))
    (daemon.home() / "file").write_bytes(bytes(FILE))
    daemon.start()
    try:
        return _measure(daemon, load)
    finally:
        daemon.stop()


def _measure(daemon: Subject, load: Load) -> Report:
    figures: list[Figure] = []
    faults: list[str] = []
    _one(daemon, replace(load, seconds=0.2), [])  # makes what is made once for the whole life of the process
    before = daemon.settled()
    for name, methods in load.attacks.items():
        print(f"hostile: {name}", file=sys.stderr, flush=True)
        tally, done, seconds, used = _one(daemon, load, methods)
        figures.append(Figure(name, f"{load.seconds:.0f} s"))
        figures += [Figure(f"  {what}", count, f"({count / seconds:,.0f}/s)") for what, count in done.items()]
        figures.append(Figure("  sessions of the well-behaved client", len(tally.login)))
        figures += percentiles("  its login", tally.login)
        figures += percentiles("  its NOOP", tally.noop)
        figures += percentiles("  its transfer of 1 MiB", tally.transfer)
        figures.append(Figure("  the daemon's share of a core", used / load.seconds * 100, "%"))
        figures.append(Figure("  the daemon's resident memory", daemon.memory() / 2**20, "MiB"))
        faults += [f"{name}: {count} × {text}" for text, count in tally.faults.most_common()]
        if left := daemon.left_over(before, 60):
            faults.append(f"{name}: left over: {left}")
    if mistakes := daemon.mistakes():
        faults.append(f"{mistakes} tracebacks in the log")
    return Report("hostile", figures, faults)


def _one(daemon: Subject, load: Load, methods: list[str]) -> tuple[Tally, Counter[str], float, float]:
    sources = addresses(load.addresses)
    share = load.clients // load.processes, load.connects / load.processes
    each = [(methods, daemon.port, sources[n :: load.processes], *share) for n in range(load.processes)]
    with Crew(attack, each if methods else []) as attackers:
        time.sleep(min(2, load.seconds))  # they are at it
        start = _seconds(daemon.pid)
        with Crew(behave, [(Place(daemon.port), load.seconds)]) as client:
            (tally,) = client.hear()
        used = _seconds(daemon.pid) - start
        attackers.tell("stop")
        reports = attackers.hear()  # their seconds begin before the client's, and end after them
    done: Counter[str] = sum((each for each, _ in reports), Counter())
    return tally, done, max((seconds for _, seconds in reports), default=load.seconds), used


def _seconds(pid: int) -> float:
    """CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
