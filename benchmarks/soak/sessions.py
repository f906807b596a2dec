"""Thousands of logged-in sessions in one process, some of which transfer: memory, and how long a NOOP takes."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.soak.client import Client, Place
from benchmarks.soak.crew import Crew, Post
from benchmarks.soak.figures import Figure, Report, percentiles
from benchmarks.soak.subject import Held, Subject
from benchmarks.soak.wire import contexts

#: Bytes of the file that is fetched and stored, over and over.
BULK = 8 << 20
#: Logins of one client process that run at once.
AT_ONCE = 16


@dataclass(frozen=True)
class Load:
    """How much."""

    sessions: int = 2000
    moving: int = 50
    seconds: float = 20.0
    processes: int = 2

    def scaled(self, scale: float) -> Load:
        """Part of it."""
        return Load(max(8, round(self.sessions * scale)), max(2, round(self.moving * scale)), self.seconds)


@dataclass
class Tally:
    """What a client process has seen."""

    quiet: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    moved: int = 0
    alive: int = 0


async def _log_in(place: Place, count: int) -> list[Client]:
    context, turn = contexts()[0], asyncio.Semaphore(AT_ONCE)

    async def one() -> Client:
        client = Client(place, context)
        async with turn:
            await client.connect()
            await client.log_in()
        return client

    return list(await asyncio.gather(*(one() for _ in range(count))))


async def _leave(clients: list[Client]) -> int:
    """All QUIT; how many were still served."""
    alive = 0
    for client in clients:
        await client.command("NOOP", 200)
        await client.quit()
        alive += 1
    return alive


async def hold(post: Post, place: Place, count: int) -> None:
    """Client process: sessions that are idle, but for a NOOP on one of them now and then."""
    clients, tally = await _log_in(place, count), Tally()
    post.say("in")
    for latencies in (tally.quiet, tally.busy):
        await post.hear()
        enough = asyncio.ensure_future(post.hear())
        while not enough.done():
            start = time.monotonic()
            await random.choice(clients).command("NOOP", 200)
            latencies.append(time.monotonic() - start)
            await asyncio.sleep(0.01)
    tally.alive = await _leave(clients)
    post.say(tally)


async def move(post: Post, place: Place, count: int) -> None:
    """Client process: sessions that are idle at first, and then fetch and store without a pause."""
    clients, tally, stopped = await _log_in(place, count), Tally(), asyncio.Event()
    data = random.randbytes(BULK)
    post.say("in")
    for _ in range(3):
        await post.hear()

    async def one(client: Client, number: int) -> None:
        while not stopped.is_set():
            if number % 2:
                await client.upload(f"STOR moved-{number}", data)
            else:
                await client.download("RETR bulk")
            tally.moved += BULK

    work = asyncio.gather(*(one(client, number) for number, client in enumerate(clients)))
    await post.hear()
    stopped.set()
    await work
    tally.alive = await _leave(clients)
    post.say(tally)


def run(directory: Path, certificate: Path, load: Load, ports: str | None = None) -> Report:
    """The programme."""
    many = load.sessions + 10
    settings = {"limits": {"sessions": many, "sessions_per_address": many}, "timeouts": {"idle": 1800}}
    daemon = Subject(directory, certificate, settings | ({"passive": {"ports": ports}} if ports else {}), {"alice": {}})
    (daemon.home() / "bulk").write_bytes(random.randbytes(BULK))
    daemon.start()
    try:
        return _measure(daemon, load)
    finally:
        daemon.stop()


@dataclass
class Memory:
    """Of the daemon, in bytes, at one moment."""

    proportional: int
    resident: int

    @classmethod
    def of(cls, daemon: Subject) -> Memory:
        """Now."""
        return cls(daemon.proportional(), daemon.memory())


def _warm_up(daemon: Subject) -> Held:
    """Makes what is made once for the whole life of the process; what is held then."""
    with Crew(move, [(Place(daemon.port), 4)]) as crew:
        crew.hear()
        for _ in range(4):
            crew.tell("go on")
        crew.hear()
    return daemon.settled()


def _measure(daemon: Subject, load: Load) -> Report:
    before, memory = _warm_up(daemon), [Memory.of(daemon)]
    place, idle = Place(daemon.port), load.sessions - load.moving
    shares = [idle // load.processes + (number < idle % load.processes) for number in range(load.processes)]
    start = time.monotonic()
    with Crew(hold, [(place, share) for share in shares]) as holders, Crew(move, [(place, load.moving)]) as movers:
        crews = holders, movers
        for crew in crews:
            crew.hear()
        took = time.monotonic() - start
        memory.append(Memory.of(daemon))
        for word, seconds in (("all idle", load.seconds / 2), ("enough", 0), ("transfers", load.seconds)):
            for crew in crews:
                crew.tell(word)
            time.sleep(seconds)
        memory.append(Memory.of(daemon))
        for crew in crews:
            crew.tell("enough")
        tallies = [tally for crew in crews for tally in crew.hear()]
    left = daemon.left_over(before, 30)
    memory.append(Memory.of(daemon))
    faults = [f"left over: {left}"] if left else []
    if (alive := sum(each.alive for each in tallies)) != load.sessions:
        faults.append(f"only {alive} sessions were served to the end")
    if mistakes := daemon.mistakes():
        faults.append(f"{mistakes} tracebacks in the log")
    return Report("sessions", _figures(load, took, memory, tallies), faults)


def _figures(load: Load, took: float, memory: list[Memory], tallies: list[Tally]) -> list[Figure]:
    empty, full = memory[:2]
    each = (full.proportional - empty.proportional) / load.sessions, (full.resident - empty.resident) / load.sessions
    return [
        Figure("sessions", load.sessions),
        Figure("of them transferring", load.moving),
        Figure("logins", load.sessions / took, "/s"),
        Figure("memory per idle session, PSS", each[0] / 1024, "KiB"),
        Figure("memory per idle session, RSS", each[1] / 1024, "KiB"),
        *(
            Figure(f"memory of the daemon, {when}", held.proportional / 2**20, "MiB PSS")
            for when, held in zip(("nobody there", "all idle", "transfers run", "all gone"), memory, strict=True)
        ),
        Figure("moved", sum(tally.moved for tally in tallies) / load.seconds / 1e6, "MB/s"),
        *percentiles("NOOP, all idle", [seconds for tally in tallies for seconds in tally.quiet]),
        *percentiles("NOOP, transfers run", [seconds for tally in tallies for seconds in tally.busy]),
    ]
