"""The outbox of the daemon: the journal, and everything that writes into it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from twisted.logger import Logger

from ftpsd.config.settings import Settings
from ftpsd.events.hub import Hub
from ftpsd.events.record import Recorder
from ftpsd.events.types import SessionInfo
from ftpsd.outbox.claims import CLAIMED, SessionJournal
from ftpsd.outbox.evidence import DecideInStore
from ftpsd.outbox.feed import Feed
from ftpsd.outbox.journal import Journal
from ftpsd.outbox.reconcile import Reconciler
from ftpsd.outbox.rules import Rules
from ftpsd.system.periodic import PeriodicTask
from ftpsd.system.reactor import Reactor
from ftpsd.system.worker_threads import WorkerThreads

log = Logger(namespace="ftpsd")

#: Seconds between two attempts to do what the disk has prevented.
INTERVAL = 10


#: What a process does of it: all; only the events of the hub, as the supervisor; only what sessions claim, as a worker.
Role = Literal["daemon", "supervisor", "worker"]


class Outbox:
    """Writes the events that the rules want. Without rules, nothing is written and nothing costs anything.

    Each process has a run of its own in the journal. A worker decides what the runs of other processes have left open,
    at its start and before it writes an intent, since the supervisor has no users' files.
    """

    def __init__(self, reactor: Reactor, hub: Hub, recorder: Recorder, role: Role = "daemon", writers: int = 1) -> None:
        """`writers` is the number of processes that write the journal."""
        self._journal = Journal(hub.durable_ids)
        self._writers = writers
        self._feed = None if role == "worker" else Feed(hub, recorder, self._journal)
        self._reconciler = None if role == "supervisor" else Reconciler(self._journal)
        if role == "worker" and self._reconciler is not None:
            self._journal.before_intent = self._reconciler.settle
        self._workers: WorkerThreads | None = None
        self._directory = Path()
        self._again = PeriodicTask(reactor, "writing events again", self._try_again)

    def start(self, directory: Path | None, workers: WorkerThreads) -> None:
        """Decide what the last run has left open, before clients are served. The threads may start later."""
        self._workers = workers
        if directory is not None:
            self._directory = directory
            self._begin()
            self._again.start(INTERVAL, now=False)

    def _begin(self) -> None:
        try:
            self._journal.start(self._directory)
            if self._reconciler is not None:
                self._reconciler.start(self._directory)
        except OSError as error:
            log.error("events cannot be stored in {path}: {error}", path=str(self._directory), error=str(error))

    def ask_stores(self, in_store: DecideInStore) -> None:
        """Decide changes in object stores by a function of the storage, from before `start` on."""
        self._journal.in_store = in_store

    def serve(self) -> None:
        """Write events of the hub. The threads have started."""
        if self._workers is not None and self._feed is not None:
            self._feed.start(self._workers.queue("events"))

    def close(self) -> None:
        """Take no more events of the hub. The threads stop after this."""
        self._again.stop()
        if self._feed is not None:
            self._feed.stop()

    def stop(self) -> None:
        """End the journal. The threads have stopped."""
        self._journal.stop()

    def use(self, settings: Settings) -> Callable[[SessionInfo, str], SessionJournal | None]:
        """Follow the rules of a configuration. Return what makes the journal of a session with a home."""
        events = settings.events
        rules = Rules(events.rules)
        self._journal.configure(events.journal_size, settings.uploads.fsync, self._writers)
        if self._feed is not None:
            self._feed.use(rules)

        def session_journal(session: SessionInfo, home: str) -> SessionJournal | None:
            own = rules.of_user(session.user)
            return SessionJournal(self._journal, own, session, home) if own.names & CLAIMED else None

        return session_journal

    def reconcile(self) -> None:
        """Decide what the runs of processes that have ended have left open."""
        if self._reconciler is not None:
            self._reconciler.run()

    def _try_again(self) -> None:
        if not self._journal.run:
            self._begin()
        self.reconcile()
        if self._workers is not None and self._journal.behind:
            self._workers.queue("events").submit(self._journal.flush)
