"""Sessions by the thousand, one after another, every tenth cut at a random byte: nothing may be left of them."""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.soak.client import Client, Place, Unexpected
from benchmarks.soak.crew import Crew, Post
from benchmarks.soak.figures import Figure, Report, slope
from benchmarks.soak.subject import Subject
from benchmarks.soak.wire import ENDLESS, Cut, Way, contexts

#: The files that are fetched, and the sizes of those that are stored.
SIZES = (0, 1_000, 10_000, 300_000)
#: Uploads go to so many names in turn: what is cut leaves at most one part to be gone on with for each.
NAMES = 50
#: About what a whole session sends and receives on its control connection, handshake included; and a data handshake.
CONTROL, HANDSHAKE = 4_000, 1_500
#: From so many sessions on, each may leave so many bytes of the C library's heap, and so many of Python's blocks.
ENOUGH, LEAK, BLOCKS = 20_000, 100.0, 0.1
#: An honest client gives up then.
PATIENCE = 120.0


@dataclass(frozen=True)
class Load:
    """How much."""

    sessions: int = 100_000
    seconds: float = 1e9
    processes: int = 2
    at_once: int = 8
    #: How long a client that has fallen silent stays: longer than the daemon bears it.
    silence: float = 60.0
    timeouts: tuple[tuple[str, int], ...] = (("login", 15), ("idle", 15), ("data_connect", 10), ("stalled", 10))

    def scaled(self, scale: float) -> Load:
        """Part of it."""
        return Load(max(20, round(self.sessions * scale)))


@dataclass
class Plan:
    """What one client does; the same for the same number."""

    verb: str
    name: str
    size: int
    active: bool
    old_tls: bool
    cut: Way | None
    control: int = ENDLESS
    data: int = ENDLESS

    @classmethod
    def of(cls, number: int) -> Plan:
        """Every tenth is cut; one in five transfers to the end, and every one that is cut would transfer."""
        chance = random.Random(number)
        verb = chance.choice(("RETR", "STOR", "MLSD")) if number % 10 in (0, 3, 5) else ""
        size = chance.choice(SIZES)
        name = f"stored-{chance.randrange(NAMES)}" if verb == "STOR" else f"file-{size}" if verb == "RETR" else "/"
        plan = cls(verb, name, size, chance.random() < 0.25, chance.random() < 0.25, None)
        if number % 10 == 0:
            plan.cut = chance.choice(list(Way))
            if chance.random() < 0.5:
                plan.control = chance.randrange(CONTROL)
            else:
                plan.data = chance.randrange(HANDSHAKE + size)
        return plan


@dataclass
class Tally:
    """What a client process has seen."""

    whole: int = 0
    transfers: int = 0
    cuts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """Another process's."""
        self.whole += other.whole
        self.transfers += other.transfers
        self.cuts += other.cuts
        self.faults += other.faults

    @property
    def done(self) -> int:
        """All sessions that are over."""
        return self.whole + self.cuts.total() + self.faults.total()


class Clients:
    """One process's clients."""

    def __init__(self, place: Place, load: Load) -> None:
        self.tally = Tally()
        self._place = place
        self._load = load
        self._contexts = contexts()
        self._data = random.Random(0).randbytes(max(SIZES))
        self._lingering: set[asyncio.Task[None]] = set()

    async def work(self, numbers: Iterator[int]) -> None:
        """One session after another."""
        deadline = time.monotonic() + self._load.seconds
        for number in numbers:
            if time.monotonic() > deadline:
                return
            await self._one(Plan.of(number))

    async def _one(self, plan: Plan) -> None:
        client = Client(self._place, self._contexts[plan.old_tls], plan.control, plan.data)
        try:
            async with asyncio.timeout(PATIENCE):
                await self._session(client, plan)
                self.tally.whole += 1
        except Cut:
            self._break_off(client, plan)
        except (OSError, ssl.SSLError, Unexpected, TimeoutError, ValueError) as error:
            if plan.cut is None:
                self.tally.faults[f"{type(error).__name__}: {error} ({plan.verb or 'no transfer'}, {client.last})"] += 1
            else:
                self._break_off(client, plan)  # the other connection felt it first
            client.close(Way.RST)

    async def _session(self, client: Client, plan: Plan) -> None:
        await client.connect()
        await client.log_in()
        line = f"{plan.verb} {plan.name}"
        if plan.verb == "STOR":
            await client.upload(line, self._data[: plan.size], plan.active)
        elif plan.verb:
            data = await client.download(line, plan.active)
            if plan.verb == "RETR" and data != self._data[: plan.size]:
                raise ValueError(f"{plan.name}: {len(data)} bytes came")
        self.tally.transfers += bool(plan.verb)
        if plan.cut is not None:
            raise Cut  # fewer bytes have passed than it was given: it breaks off in place of its QUIT
        await client.quit()

    def _break_off(self, client: Client, plan: Plan) -> None:
        way = plan.cut or Way.FIN
        self.tally.cuts[f"{way} on {'control' if plan.control < ENDLESS else 'data'}"] += 1
        if way == Way.SILENCE:
            task = asyncio.ensure_future(self._linger(client))
            self._lingering.add(task)
            task.add_done_callback(self._lingering.discard)
        else:
            client.close(way)

    async def _linger(self, client: Client) -> None:
        await asyncio.sleep(self._load.silence)
        client.close()

    async def rest(self) -> None:
        """Until the last silent one has gone."""
        if self._lingering:
            await asyncio.wait(self._lingering)


async def visit(post: Post, place: Place, load: Load, first: int) -> None:
    """Client process: every so many'th session."""
    clients = Clients(place, load)
    numbers = iter(range(first, load.sessions, load.processes))
    work = asyncio.gather(*(clients.work(numbers) for _ in range(load.at_once)))
    while not work.done():
        await asyncio.wait([work], timeout=1)
        post.say(clients.tally.done)
    await work
    await clients.rest()
    post.say(clients.tally)


async def tidy(post: Post, place: Place) -> None:
    """Client process: every name is stored whole once more."""
    client = Client(place, contexts()[0])
    await client.connect()
    await client.log_in()
    for number in range(NAMES):
        await client.upload(f"STOR stored-{number}", b"whole")
    await client.quit()
    post.say("done")


def run(directory: Path, certificate: Path, load: Load, ports: str | None = None) -> Report:
    """The programme."""
    settings: dict[str, Any] = {
        "limits": {"sessions": 5000, "sessions_per_address": 5000},
        "timeouts": dict(load.timeouts),
    }
    daemon = Subject(directory, certificate, settings | ({"passive": {"ports": ports}} if ports else {}), {"alice": {}})
    data = random.Random(0).randbytes(max(SIZES))
    for size in SIZES:
        (daemon.home() / f"file-{size}").write_bytes(data[:size])
    daemon.start()
    try:
        return _measure(daemon, load)
    finally:
        daemon.stop()


def _visits(daemon: Subject, load: Load) -> tuple[Tally, list[tuple[float, float]]]:
    """Runs all clients; what they saw, and the daemon's memory by sessions so far."""
    tally, memory = Tally(), [(0.0, float(daemon.memory()))]
    done: dict[int, int] = {}
    with Crew(visit, [(Place(daemon.port), load, first) for first in range(load.processes)]) as crew:
        ended = 0
        while ended < load.processes:
            for number, word in crew.waiting():
                if isinstance(word, Tally):
                    tally.add(word)
                    ended += 1
                elif word != done.get(number):
                    done[number] = word
                    memory.append((sum(done.values()), daemon.memory()))
            time.sleep(0.1)
    return tally, memory


def _measure(daemon: Subject, load: Load) -> Report:
    _visits(daemon, Load(sessions=40, processes=load.processes, silence=0.5, timeouts=load.timeouts))
    before = daemon.settled()
    start = time.monotonic()
    tally, memory = _visits(daemon, load)
    took = time.monotonic() - start - load.silence
    left = daemon.left_over(before, 3.0 * sum(seconds for _, seconds in load.timeouts))
    parts, after = daemon.parts(), daemon.held()
    with Crew(tidy, [(Place(daemon.port),)]) as crew:
        crew.hear()
    faults = [f"left over: {left}"] if left else []
    faults += [f"{count} × {text}" for text, count in tally.faults.most_common()]
    if len(parts) > NAMES or (parts := daemon.parts()):
        faults.append(f"{len(parts)} parts: {parts}")
    if tally.done >= ENOUGH:
        grown = {"heap": (after.heap - before.heap) / LEAK, "blocks": (after.blocks - before.blocks) / BLOCKS}
        faults += [f"{what} grows with the sessions" for what, sessions in grown.items() if sessions > tally.done]
    if mistakes := daemon.mistakes():
        faults.append(f"{mistakes} tracebacks in the log")
    figures = [
        *_counts(tally),
        Figure("sessions a second", tally.done / took, "/s"),
        *(Figure(f"resident memory after {n}/6", _at(memory, n / 6) / 2**20, "MiB") for n in range(7)),
        Figure("slope of the last two thirds", slope(memory) * 1000, "bytes/1,000 sessions"),
        Figure("Python's blocks, more than before", after.blocks - before.blocks, "blocks"),
        Figure("C library's heap in use, more than before", (after.heap - before.heap) / 1024, "KiB"),
    ]
    return Report("churn", figures, faults)


def _counts(tally: Tally) -> list[Figure]:
    return [
        Figure("sessions", tally.done),
        Figure("ended by QUIT", tally.whole),
        Figure("transfers to the end", tally.transfers),
        *(Figure(f"cut: {way}", count) for way, count in sorted(tally.cuts.items())),
    ]


def _at(points: list[tuple[float, float]], share: float) -> float:
    return next(y for x, y in points if x >= points[-1][0] * share)
