"""One measurement, and the rounds of them: within a round each workload meets every server before the next workload.

So whatever the machine does besides (another job, a processor that grows warm) meets all servers alike. Each round
begins with another server: the first one may find memory that a hypervisor has taken away meanwhile. A server is
started anew for each measurement and is the only one that runs then; its start is not measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from benchmarks.crew import Crew, WorkFailed
from benchmarks.job import Job, Tally
from benchmarks.measure import Meter, memory
from benchmarks.server import Failed, Server
from benchmarks.stage import PASSWORD, USER, Stage
from benchmarks.workloads import Outcome, Workload

SETTLE = 0.15
"""Seconds between the last byte and the reading, so that a server's tidying up is its own expense."""


@dataclass
class Measured:
    """All outcomes, and what could not be measured and why."""

    outcomes: dict[str, dict[str, list[Outcome]]] = field(default_factory=dict)
    """By workload, then by server: one outcome a round."""
    failures: dict[str, dict[str, str]] = field(default_factory=dict)


class Uploads(Protocol):
    """Where a server has the files that clients send."""

    def check_uploads(self, count: int, size: int, *, every_byte: bool) -> None:
        """Raise ValueError unless there are so many files of this size, with the bytes that were sent."""

    def clear_uploads(self) -> None:
        """Take them away."""


def _outcome(front: list[Tally], back: list[Tally], jobs: Iterable[Job], cpu: float, memories: list[int]) -> Outcome:
    """Bring together what the clients said and what the server used."""
    background: dict[str, float] = {}
    for tally, job in zip(back, (job for job in jobs if job.background), strict=True):
        speed = tally.units / max(tally.end - tally.start, 1e-9)
        background[job.task] = background.get(job.task, 0.0) + speed
    return Outcome(
        units=sum(tally.units for tally in front),
        seconds=max(tally.end for tally in front) - min(tally.start for tally in front),
        cpu=cpu,
        memory_before=memories[0],
        memory_after=memories[-1],
        memory_peak=max(memories),
        client_busy=max(tally.cpu / max(tally.end - tally.start, 1e-9) for tally in front),
        data_connections=sum(tally.data_connections for tally in front),
        resumed=sum(tally.resumed for tally in front),
        ended_badly=sum(tally.ended_badly for tally in front),
        cipher=front[0].cipher,
        samples=[sample for tally in front for sample in tally.samples],
        background=background,
    )


def measure(
    workload: Workload,
    server: Server,
    uploads: Uploads,
    *,
    decrypt: bool,
    check: bool,
    store: Meter | None = None,
) -> Outcome:
    """Run one workload against one server. `store` meters the object store behind it."""
    uploads.clear_uploads()
    try:
        meter = server.start()
        told: dict[str, Any] = {"port": server.port, "user": USER, "password": PASSWORD, "implicit": server.implicit}
        jobs = [replace(job, decrypt=decrypt, **told) for job in workload.jobs]
        with Crew(jobs) as crew:
            crew.get_ready()
            time.sleep(SETTLE)
            memories, before = [memory(meter.pids())], meter.cpu()
            store_before = store.cpu() if store else 0.0
            front, back = crew.work(lambda: memories.append(memory(meter.pids())))
            time.sleep(SETTLE)
            cpu = meter.cpu() - before
            store_cpu = store.cpu() - store_before if store else 0.0
            memories.append(memory(meter.pids()))
            if check:
                crew.check()
            crew.quit()
        if workload.uploads:
            uploads.check_uploads(workload.uploads, workload.jobs[0].size, every_byte=check)
        outcome = _outcome(front, back, workload.jobs, cpu, memories)
        outcome.meter, outcome.store_cpu = meter.kind, store_cpu
        return outcome
    finally:
        server.stop()
        uploads.clear_uploads()


def run(
    workloads: list[Workload],
    servers: list[Server],
    stage: Stage,
    rounds: int,
    *,
    decrypt: bool,
    tell: Callable[[str], None],
) -> Measured:
    """All rounds. A server that fails at a workload is left out of it from then on."""
    measured = Measured()
    for number in range(rounds):
        for workload in workloads:
            outcomes = measured.outcomes.setdefault(workload.name, {})
            failures = measured.failures.setdefault(workload.name, {})
            first = number % len(servers)
            for server in servers[first:] + servers[:first]:
                if server.name in failures:
                    continue
                tell(f"round {number + 1} of {rounds}: {workload.name}, {server.name}")
                try:
                    outcome = measure(workload, server, stage, decrypt=decrypt, check=number == 0)
                except (WorkFailed, Failed, ValueError) as error:
                    failures[server.name] = str(error)
                    outcomes.pop(server.name, None)
                    tell(f"  failed: {error}")
                else:
                    outcomes.setdefault(server.name, []).append(outcome)
    return measured
