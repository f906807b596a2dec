"""The figures of this process: LocalFigures, and `serve_figures`, which lets the supervisor have them."""

from __future__ import annotations

import re
import resource
import time
from collections.abc import Callable, Sequence, Sized
from pathlib import Path
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from ftpsd.accounts.chain.sources import RunningSources
from ftpsd.events.hub import Hub
from ftpsd.events.linked.sender import Sender
from ftpsd.events.tally import Tally
from ftpsd.figures.figures import Figures, Process, Transfers, Worker
from ftpsd.figures.wire import encode
from ftpsd.limits import transfer_counts
from ftpsd.limits.descriptors import descriptors_in_use
from ftpsd.limits.transfer_counts import TransferCounts
from ftpsd.system.link import Link
from ftpsd.system.periodic import PeriodicTask
from ftpsd.system.reactor import Clock
from ftpsd.system.worker_threads import WorkerThreads

#: Seconds in which a worker thread must begin a job. Logins wait as long.
PATIENCE = 2


class LocalFigures:
    """The figures of this process. For the reactor thread.

    `ports` returns how many passive ports are in use. `memory` returns the bytes of memory: that takes a millisecond,
    and only the figures of workers have it.
    """

    #: There are no worker processes.
    restarts = 0

    def __init__(
        self,
        clock: Clock,
        hub: Hub,
        sessions: Sized,
        transfers: TransferCounts,
        threads: WorkerThreads,
        sources: RunningSources,
        ports: Callable[[], int],
        memory: Callable[[], int] = lambda: 0,
    ) -> None:
        self._clock = clock
        self._hub = hub
        self._sessions = sessions
        self._transfers = transfers
        self._threads = threads
        self._sources = sources
        self._ports = ports
        self._memory = memory
        self._sampling = PeriodicTask(clock, "the measurement of rates", transfers.sample)

    def start(self) -> None:
        """Measure rates from now on, of running transfers and of all together. May be called any number of times."""
        if not self._sampling.running:
            self._sampling.start(transfer_counts.INTERVAL)

    def stop(self) -> None:
        """Measure no longer."""
        self._sampling.stop()

    async def refresh(self) -> None:
        """Do nothing: the figures are those of the moment."""

    def read(self) -> Figures:
        """Return the figures now."""
        counts, tally = self._transfers, self._hub.tally
        return Figures(
            sessions=len(self._sessions),
            transfers=Transfers(
                uploads=counts.running("upload"),
                downloads=counts.running("download"),
                upload_rate=counts.rate("upload"),
                download_rate=counts.rate("download"),
                uploaded=counts.moved("upload"),
                downloaded=counts.moved("download"),
            ),
            threads=self._threads.usage(),
            ports=self._ports(),
            process=Process(time.process_time(), self._memory(), *descriptors_in_use()),
            sources=self._sources.status(),
            queues={name: state() for name, state in self._hub.queues.items()},
            tally=Tally() if tally is None else tally.copy(),
        )

    def workers(self) -> Sequence[Worker]:
        """Return no worker: there are none."""
        return ()

    async def faults(self) -> Sequence[str]:
        """Return that the worker threads do not respond, if they do not begin a job that does nothing."""
        answer: Deferred[bool] = self._threads.queue("health", "login").call(bool, True)
        try:
            await answer.addTimeout(PATIENCE, cast(IReactorTime, self._clock))
        except Exception:  # the time-out, or the Refusal of a call that was cancelled
            return ["the worker threads do not respond: a disk may not respond"]
        return ()


def serve_figures(link: Link, figures: LocalFigures, sender: Sender) -> None:
    """Let the supervisor have the figures of this worker, after the events that it has published."""

    def read() -> object:
        sender.flush()
        return encode(figures.read())

    async def responds() -> bool:
        return not await figures.faults()

    link.serve("figures.read", read)
    link.serve("figures.responds", responds)
    link.serve("figures.start", figures.start)
    link.serve("figures.stop", figures.stop)


def report_last(link: Link, figures: LocalFigures) -> None:
    """Tell the supervisor what this worker has counted, before it ends."""
    link.tell("figures.last", encode(figures.read()))


def memory_in_use() -> int:
    """Return the bytes of memory that this process uses; what it shares with others counts in parts.

    Without /proc/self/smaps_rollup, return the most that it has had.
    """
    try:
        found = re.search(r"^Pss: +(\d+) kB$", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE)
    except OSError:
        found = None
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if found is None else int(found[1])
    return kilobytes * 1024
