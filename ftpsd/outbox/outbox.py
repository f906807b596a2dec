"""The outbox of the daemon: the journal with all that writes into it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from twisted.logger import Logger

from ftpsd.config.settings import Settings
from ftpsd.events.hub import Hub
from ftpsd.events.record import Recorder
from ftpsd.events.types import SessionInfo
from ftpsd.outbox.claims import CLAIMED, SessionJournal
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


class Outbox:
    """Writes the events that the rules want. Without rules, nothing is written and nothing costs anything."""

    def __init__(self, reactor: Reactor, hub: Hub, recorder: Recorder) -> None:
        self._journal = Journal()
        self._feed = Feed(hub, recorder, self._journal)
        self._reconciler = Reconciler(self._journal)
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
            self._reconciler.start(self._directory)
        except OSError as error:
            log.error("events cannot be stored in {path}: {error}", path=str(self._directory), error=str(error))

    def serve(self) -> None:
        """Write events of the hub. The threads have started."""
        if self._workers is not None:
            self._feed.start(self._workers.queue("events"))

    def close(self) -> None:
        """Take no more events of the hub. The threads stop after this."""
        self._again.stop()
        self._feed.stop()

    def stop(self) -> None:
        """End the journal. The threads have stopped."""
        self._journal.stop()

    def use(self, settings: Settings) -> Callable[[SessionInfo, str], SessionJournal | None]:
        """Follow the rules of a configuration. Return what makes the journal of a session with a home."""
        events = settings.events
        rules = Rules(events.rules)
        self._journal.configure(events.journal_size, settings.uploads.fsync)
        self._feed.use(rules)

        def session_journal(session: SessionInfo, home: str) -> SessionJournal | None:
            own = rules.of_user(session.user)
            return SessionJournal(self._journal, own, session, home) if own.names & CLAIMED else None

        return session_journal

    def _try_again(self) -> None:
        if not self._journal.run:
            self._begin()
        self._reconciler.run()
        if self._workers is not None and self._journal.behind:
            self._workers.queue("events").submit(self._journal.flush)
