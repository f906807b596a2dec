"""Figures: what one process counts and measures at one moment, or all processes together. `merged` adds them up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Iterable, Sequence
from typing import Literal, Protocol

from attrs import evolve, frozen

from ftpsd.accounts.chain.counts import Result, SourceStatus, State
from ftpsd.events.hub import QueueState
from ftpsd.events.tally import Tally
from ftpsd.system.jobs.thread import ThreadUsage

#: starting: it is not ready yet. serving: it gets connections. draining: it ends with its last session.
WorkerState = Literal["starting", "serving", "draining"]


@frozen
class Transfers:
    """The running transfers, listings included (they are downloads). Rates are in bytes per second."""

    uploads: int
    downloads: int
    upload_rate: float
    download_rate: float
    #: Bytes since the start.
    uploaded: int
    downloaded: int


@frozen
class Process:
    """What one process uses. The limit of descriptors is None if there is none."""

    #: Seconds of processor time since its start.
    cpu: float
    #: Bytes; memory that several processes share counts in parts.
    memory: int
    descriptors: int
    descriptor_limit: int | None


@frozen
class Figures:
    """What one process counts and measures, or several together."""

    sessions: int
    transfers: Transfers
    threads: ThreadUsage
    #: Passive ports that are in use.
    ports: int
    #: Of several processes: the sums, and the descriptors of that which has the fewest left.
    process: Process
    #: The sources of users, without the YAML files.
    sources: tuple[SourceStatus, ...]
    #: The event queues, by name.
    queues: dict[str, QueueState]
    #: All zero while nobody counts.
    tally: Tally


@frozen
class Worker:
    """One worker process."""

    index: int
    #: Its process number.
    pid: int
    state: WorkerState
    #: When it was started, as POSIX time.
    since: float
    #: What it has answered last; None before its first answer.
    figures: Figures | None
    #: Whether it has answered the last question.
    answers: bool


class FiguresReader(Protocol):
    """Collects figures. For the reactor thread."""

    def start(self) -> None:
        """Measure rates from now on. May be called any number of times."""

    def stop(self) -> None:
        """Measure no longer."""

    def refresh(self) -> Awaitable[None]:
        """Bring the figures up to date. Takes a second at most."""

    def read(self) -> Figures:
        """Return the figures of all processes together, as of the last `refresh` where they come from elsewhere."""

    def workers(self) -> Sequence[Worker]:
        """Return the worker processes; none if the daemon is one process."""

    @property
    def restarts(self) -> int:
        """How many workers were started in place of one that had failed."""

    def faults(self) -> Awaitable[Sequence[str]]:
        """Return why the processes cannot serve clients; nothing if they can. Takes some seconds at most."""


# --- addition --------------------------------------------------------------------------------------


def added(figures: Sequence[Figures]) -> Figures:
    """Return the figures of several processes together; at least one."""
    shortest = max((each.process for each in figures), key=_share_of_descriptors)
    return Figures(
        sessions=sum(each.sessions for each in figures),
        transfers=_added_transfers([each.transfers for each in figures]),
        threads=ThreadUsage(*map(sum, zip(*(each.threads for each in figures), strict=True))),
        ports=sum(each.ports for each in figures),
        process=Process(
            cpu=sum(each.process.cpu for each in figures),
            memory=sum(each.process.memory for each in figures),
            descriptors=shortest.descriptors,
            descriptor_limit=shortest.descriptor_limit,
        ),
        sources=_added_sources([each.sources for each in figures]),
        queues=_added_queues([each.queues for each in figures]),
        tally=added_tallies(each.tally for each in figures),
    )


def added_tallies(tallies: Iterable[Tally]) -> Tally:
    """Return the sum of several tallies."""
    total = Tally()
    for each in tallies:
        total.add(each)
    return total


def counts_of(figures: Figures) -> Figures:
    """Return what remains of a process that has ended: what it has counted."""
    transfers = Transfers(0, 0, 0.0, 0.0, figures.transfers.uploaded, figures.transfers.downloaded)
    return Figures(
        sessions=0,
        transfers=transfers,
        threads=ThreadUsage(0, 0, 0),
        ports=0,
        process=Process(0.0, 0, 0, None),
        sources=tuple(
            evolve(each, state="unknown", error="", waiting=0, running=0, hanging=0, remembered=0)
            for each in figures.sources
        ),
        queues={name: QueueState(0, 0, each.dropped) for name, each in figures.queues.items() if each.dropped},
        tally=figures.tally,
    )


def _share_of_descriptors(process: Process) -> float:
    return process.descriptors / (process.descriptor_limit or float("inf"))


def _added_transfers(transfers: Sequence[Transfers]) -> Transfers:
    return Transfers(
        uploads=sum(each.uploads for each in transfers),
        downloads=sum(each.downloads for each in transfers),
        upload_rate=sum(each.upload_rate for each in transfers),
        download_rate=sum(each.download_rate for each in transfers),
        uploaded=sum(each.uploaded for each in transfers),
        downloaded=sum(each.downloaded for each in transfers),
    )


def _added_sources(lists: Iterable[Sequence[SourceStatus]]) -> tuple[SourceStatus, ...]:
    by_name: dict[str, list[SourceStatus]] = {}
    for sources in lists:
        for each in sources:
            by_name.setdefault(each.name, []).append(each)
    return tuple(_added_source(each) for each in by_name.values())


def _added_source(sources: Sequence[SourceStatus]) -> SourceStatus:
    """Return one source as all processes know it. Each probes it itself; it is down if one of them says so."""
    results: Counter[Result] = Counter()
    for each in sources:
        results.update(each.results)
    states = {each.state for each in sources}
    order: tuple[State, ...] = ("down", "up", "unknown")
    return SourceStatus(
        name=sources[0].name,
        kind=sources[0].kind,
        state=next(state for state in order if state in states),
        error=next((each.error for each in sources if each.error), ""),
        results=results,
        seconds=sum(each.seconds for each in sources),
        waiting=sum(each.waiting for each in sources),
        running=sum(each.running for each in sources),
        hanging=sum(each.hanging for each in sources),
        remembered=max(each.remembered for each in sources),
    )


def _added_queues(queues: Iterable[dict[str, QueueState]]) -> dict[str, QueueState]:
    total: dict[str, QueueState] = {}
    for each in queues:
        for name, state in each.items():
            before = total.get(name, QueueState(0, 0, 0))
            total[name] = QueueState(
                before.length + state.length, before.capacity + state.capacity, before.dropped + state.dropped
            )
    return total
