"""The workloads: one row each. What is done, by how many client processes, and which figures come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from benchmarks.job import Job
from benchmarks.sizes import GIB, Sizes
from benchmarks.stage import Stage


@dataclass
class Outcome:
    """What one run of one workload against one server showed."""

    units: int
    seconds: float
    cpu: float
    """The server's CPU seconds."""
    store_cpu: float = field(default=0.0, kw_only=True)
    """Those of the object store behind it, if there is one."""
    memory_before: int
    memory_after: int
    memory_peak: int
    client_busy: float
    """The busiest client process's CPU seconds per second."""
    data_connections: int = 0
    resumed: int = 0
    ended_badly: int = 0
    cipher: str = ""
    meter: str = ""
    samples: list[float] = field(default_factory=list)
    background: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """One number of an outcome."""

    key: str
    unit: str
    better: Literal["more", "less"]
    of: Callable[[Outcome], float]


@dataclass(frozen=True)
class Workload:
    """One row."""

    name: str
    about: str
    figures: tuple[Figure, ...]
    jobs: tuple[Job, ...]
    uploads: int = 0
    """How many files there must be afterwards, each of the size that the jobs say."""


def rate(unit: str, per: float = 1.0) -> Figure:
    """Units per second as the clients saw them."""
    return Figure("rate", unit, "more", lambda outcome: outcome.units / outcome.seconds / per)


def cost(unit: str, of: float, factor: float = 1e3) -> Figure:
    """The server's CPU time for `of` units."""
    return Figure("cpu", unit, "less", lambda outcome: outcome.cpu / outcome.units * of * factor)


def peak() -> Figure:
    """The most memory that was seen while the work went on."""
    return Figure("memory", "MiB, peak", "less", lambda outcome: outcome.memory_peak / (1 << 20))


def per_session() -> Figure:
    """How much memory one session more takes."""

    def grown(outcome: Outcome) -> float:
        return (outcome.memory_after - outcome.memory_before) / outcome.units / 1024

    return Figure("memory", "KiB/session", "less", grown)


def percentile(share: float) -> Figure:
    """A percentile of the samples, in milliseconds."""

    def nearest(outcome: Outcome) -> float:
        samples = sorted(outcome.samples)
        return samples[min(len(samples) - 1, int(len(samples) * share))] * 1e3

    return Figure(f"p{share * 100:.0f}", f"ms, p{share * 100:.0f}", "less", nearest)


def meanwhile(task: str, unit: str, per: float) -> Figure:
    """What the background tasks got done: a short wait for one session may not starve the others."""
    return Figure(task, unit, "more", lambda outcome: outcome.background[task] / per)


BULK = (rate("MB/s", 1e6), cost("CPU-ms/GiB", GIB), peak())
FILES = (rate("files/s"), cost("CPU-ms/file", 1), peak())
LOGINS = (rate("logins/s"), cost("CPU-ms/login", 1), peak())
ENTRIES = (rate("1000 entries/s", 1e3), cost("CPU-ms/1000 entries", 1e3), peak())
COMMANDS = (rate("commands/s"), cost("CPU-µs/command", 1, 1e6), peak())
STALL = (
    percentile(0.5),
    percentile(0.99),
    peak(),
    meanwhile("download", "MB/s down", 1e6),
    meanwhile("upload", "MB/s up", 1e6),
    meanwhile("listing", "1000 entries/s", 1e3),
)


def crew(count: int, job: Job) -> tuple[Job, ...]:
    """`count` client processes with the same work and names of their own for what they upload."""
    return tuple(replace(job, label=f"{job.task}{number}") for number in range(count))


def transfers(stage: Stage, sizes: Sizes) -> list[Workload]:
    """Bytes, and small files."""
    down = Job("download", path="/bulk.bin", size=sizes.bulk, sha256=stage.bulk_sha256)
    up = Job("upload", path="/up", size=sizes.bulk, source=str(stage.piece))
    plain_down, plain_up = replace(down, protect=False), replace(up, protect=False)
    small = Job("small", path="/small", size=sizes.small, count=sizes.files, sha256=stage.small_sha256)
    smallup = Job("smallup", path="/up", size=sizes.small, count=sizes.files, source=str(stage.piece))
    large = f"{sizes.bulk / GIB:.3g} GiB"
    return [
        Workload("dl", f"{large} down over TLS", BULK, crew(1, down)),
        Workload("dl4", f"four times {large} down at once", BULK, crew(4, down)),
        Workload("ul", f"{large} up over TLS", BULK, crew(1, up), 1),
        Workload("ul4", f"four times {large} up at once", BULK, crew(4, up), 4),
        Workload("pdl", f"{large} down, plain", BULK, crew(1, plain_down)),
        Workload("pul", f"{large} up, plain", BULK, crew(1, plain_up), 1),
        Workload("small", f"{sizes.files} files of 10 KiB down", FILES, crew(1, small)),
        Workload("smallup", f"{sizes.files} files of 10 KiB up", FILES, crew(1, smallup), sizes.files),
        Workload("small8", "small from eight sessions at once", FILES, crew(8, small)),
    ]


def stalling(stage: Stage, sizes: Sizes) -> Workload:
    """A session's latency beside heavy ones."""
    down = Job("download", path="/bulk.bin", size=sizes.bulk, background=True)
    up = Job("upload", path="/up", size=sizes.bulk, source=str(stage.piece), background=True)
    lister = Job("listing", path="/many", size=sizes.many_names, background=True)
    probe = Job("probe", seconds=sizes.seconds, urgent=True)
    about = f"NOOP beside a LIST of {sizes.many_names:,} names, two downloads and two uploads"
    jobs = (probe, lister, *crew(2, down), *crew(2, up))
    return Workload("stall", about, STALL, jobs)


def table(stage: Stage, sizes: Sizes) -> dict[str, Workload]:
    """All workloads by name, in the order in which they are run and shown."""
    listing = Job("listing", path="/list", size=sizes.names, count=3)
    names = f"{sizes.names:,} files"
    rows = [
        *transfers(stage, sizes),
        Workload("login", "connect, AUTH TLS, USER, PASS, QUIT", LOGINS, crew(1, Job("login", count=sizes.logins))),
        Workload("list", f"LIST of {names}, three times", ENTRIES, crew(1, listing)),
        Workload("mlsd", f"MLSD of {names}, three times", ENTRIES, crew(1, replace(listing, task="mlsd"))),
        Workload("cmd", f"{sizes.commands:,} PWDs on one session", COMMANDS, crew(1, Job("pwd", count=sizes.commands))),
        Workload("idle", f"{sizes.idle} logged-in sessions", (per_session(),), crew(1, Job("idle", count=sizes.idle))),
        stalling(stage, sizes),
    ]
    return {row.name: row for row in rows}


NAMES = ("dl", "dl4", "ul", "ul4", "pdl", "pul", "small", "smallup", "small8",
         "login", "list", "mlsd", "cmd", "idle", "stall")  # fmt: skip
