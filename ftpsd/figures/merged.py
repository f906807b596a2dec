"""The figures of a supervisor and its workers: MergedFigures."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Protocol, cast

from attrs import evolve, frozen
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime

from ftpsd.figures.figures import Figures, Worker, WorkerState, added, counts_of
from ftpsd.figures.local import LocalFigures
from ftpsd.figures.wire import decode
from ftpsd.protocol.replies import Refusal
from ftpsd.system.link import Link, Links
from ftpsd.system.messages.codec import Malformed
from ftpsd.system.reactor import Clock

#: Seconds for an answer. The last figures stand for those of a worker that does not answer.
PATIENCE = 1.0

#: Seconds to find out whether the worker threads of a worker respond.
LONG_PATIENCE = 3.0


@frozen
class RunningWorker:
    """What the supervisor knows of a worker: see `Worker`."""

    index: int
    pid: int
    state: WorkerState
    since: float


class Described(Protocol):
    """A worker of a supervisor."""

    def description(self) -> RunningWorker:
        """Return what administration shows of it."""


class Workers(Links, Protocol):
    """The workers of a supervisor."""

    @property
    def restarts(self) -> int:
        """How many workers were started in place of one that had failed."""

    @property
    def processes(self) -> Mapping[int, Described]:
        """The workers that have not ended, by their indexes."""


class MergedFigures:
    """The figures of all workers together, and of the supervisor, which has no sessions. For the reactor thread."""

    def __init__(self, clock: Clock, own: LocalFigures, workers: Workers) -> None:
        self._clock = clock
        self._own = own
        self._workers = workers
        self._last: dict[int, Figures] = {}
        self._silent: set[int] = set()
        #: What workers that have ended have counted.
        self._ended: Figures | None = None
        self._started = False
        workers.on_start(self._worker_started)
        workers.on_end(self._worker_ended)

    # --- FiguresReader ---------------------------------------------------------------------------

    @property
    def restarts(self) -> int:
        """How many workers were started in place of one that had failed."""
        return self._workers.restarts

    def start(self) -> None:
        """Measure rates from now on. May be called any number of times."""
        if not self._started:
            self._started = True
            for link in self._workers.links.values():
                link.tell("figures.start")

    def stop(self) -> None:
        """Measure no longer."""
        self._started = False
        for link in self._workers.links.values():
            link.tell("figures.stop")

    async def refresh(self) -> None:
        """Ask all workers at the same time. Their events up to now come before the answers."""
        await self._ask_all(self._refresh_one)

    def read(self) -> Figures:
        """Return the figures of all processes together, of workers as of the last `refresh`."""
        ended = [] if self._ended is None else [self._ended]
        own = self._own.read()
        if self._last:  # its own threads and sources serve no sessions; but a thread that a disk holds is told
            own = evolve(own, threads=own.threads._replace(size=0), sources=())
        return added([own, *self._last.values(), *ended])

    def workers(self) -> Sequence[Worker]:
        """Return the workers that have not ended, in the order of their indexes."""
        return [
            Worker(
                index=each.index,
                pid=each.pid,
                state=each.state,
                since=each.since,
                figures=self._last.get(each.index),
                answers=each.index not in self._silent,
            )
            for each in self._described()
        ]

    def _described(self) -> list[RunningWorker]:
        return [each.description() for _, each in sorted(self._workers.processes.items())]

    async def faults(self) -> Sequence[str]:
        """Return why the processes cannot serve clients; nothing if they can."""
        found = list(await self._own.faults())
        if all(each.state == "starting" for each in self._described()):
            found.append("no worker process is ready")

        async def ask(index: int, link: Link) -> None:
            if await self._call(link, "figures.responds", LONG_PATIENCE) is not True:
                found.append(f"the worker threads of worker {index} do not respond: a disk may not respond")

        await self._ask_all(ask)
        serving = [each for each in self.workers() if each.state == "serving"]
        if serving and not any(each.answers for each in serving):
            found.append("no worker process answers")
        return found

    # --- workers ---------------------------------------------------------------------------------

    def _worker_started(self, index: int, link: Link) -> None:
        link.serve("figures.last", partial(self._keep, index))
        if self._started:
            link.tell("figures.start")

    def _worker_ended(self, index: int) -> None:
        self._silent.discard(index)
        last = self._last.pop(index, None)
        if last is not None:
            before = [] if self._ended is None else [self._ended]
            self._ended = added([*before, counts_of(last)])

    def _keep(self, index: int, value: object = None) -> None:
        try:
            self._last[index] = decode(value)
        except Malformed:
            self._silent.add(index)

    async def _refresh_one(self, index: int, link: Link) -> None:
        value = await self._call(link, "figures.read", PATIENCE)
        if self._workers.links.get(index) is link:
            self._silent.discard(index)
            self._keep(index, value)

    async def _ask_all(self, ask: Callable[[int, Link], Coroutine[Deferred[object], object, None]]) -> None:
        async def one(index: int, link: Link) -> None:
            try:
                await ask(index, link)
            except Refusal:  # it has not answered in time, or has ended
                if index in self._workers.links:
                    self._silent.add(index)

        links: Mapping[int, Link] = dict(self._workers.links)
        await gatherResults([Deferred.fromCoroutine(one(*each)) for each in links.items()])

    def _call(self, link: Link, name: str, seconds: float) -> Deferred[object]:
        answer: Deferred[object] = link.call(name)
        return answer.addTimeout(seconds, cast(IReactorTime, self._clock))
