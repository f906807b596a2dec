"""The process `ftpsd deliver`: reads the configuration, and delivers until it is told to stop. Start here."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from ftpsd.config.disk_watch import in_own_thread
from ftpsd.config.load import load_rules
from ftpsd.config.settings import Settings
from ftpsd.deliver.dispatcher import PARALLEL, Dispatcher
from ftpsd.deliver.program import Program, exists
from ftpsd.deliver.queue import FILE, Queue
from ftpsd.deliver.reader import JournalReader
from ftpsd.deliver.target import Target
from ftpsd.deliver.webhook import Webhook
from ftpsd.outbox import status
from ftpsd.outbox.place import journal_directory
from ftpsd.outbox.rules import Rules
from ftpsd.outbox.segments import Entry, paths_of
from ftpsd.system.periodic import PeriodicTask
from ftpsd.system.reactor import Reactor
from ftpsd.system.state import LaterRelease, lock_directory

log = Logger(namespace="ftpsd")

#: Seconds between two looks at the journal, and between two writes of the status.
INTERVAL, STATUS_INTERVAL = 0.2, 5.0

#: Pieces of the journal that are taken over in one turn of the reactor.
PIECES = 4

#: Seconds for which deliveries that run may continue when the process stops.
PATIENCE = 10

#: Threads that wait for programs, at most.
_THREADS = 32


class Unusable(Exception):
    """The process cannot do its work; the text says why."""


class Deliverer:
    """Delivers the events of one journal. For the reactor thread."""

    def __init__(self, reactor: Reactor, path: str, stopped: Callable[[], object]) -> None:
        """Load the configuration. Raises InvalidConfiguration or Unusable."""
        self._reactor = reactor
        self._path = path
        self._stopped = stopped
        settings = load_rules(path)
        directory = journal_directory(settings, path)
        if directory is None:
            raise Unusable("set state.directory or events.directory: there is no journal of events")
        self.directory: Path = directory
        self._threads = ThreadPool(0, _THREADS, "programs")
        self._settings = settings
        self._targets = make_targets(reactor, self._threads, settings)
        self._rules = Rules(settings.events.rules)
        self._queue: Queue | None = None
        self._lock = -1
        self._stopping = self._loading = False
        self._written = 0.0
        self._failed = ""
        self._task = PeriodicTask(reactor, "the delivery of events", self._run)

    def start(self) -> None:
        """Begin, as soon as the daemon has made the directory of the journal."""
        self._threads.start()
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self.reload))
        signal.signal(signal.SIGTERM, lambda *_: self._reactor.callFromThread(self.stop))
        signal.signal(signal.SIGINT, lambda *_: self._reactor.callFromThread(self.stop))
        rules = len(self._rules.rules)
        log.info("delivering the events of {rules} rules from {path}", rules=rules, path=str(self.directory))
        self._task.start(INTERVAL)

    # --- work --------------------------------------------------------------------------------------

    def _run(self) -> None:
        if not self._open():
            return
        try:
            for _ in range(PIECES):
                if not self._reader.read(self._settings.events.journal_size, time.time()):
                    break
            self._dispatcher.run()
            self._write_status()
            if self._failed:
                log.info("events are delivered again")
            self._failed = ""
        except (OSError, sqlite3.Error) as error:
            self._log_failure(str(error))

    def _open(self) -> bool:
        """Open the database beside the journal. Return whether that was possible."""
        if self._queue is not None:
            return True
        try:
            if self._lock < 0:
                self._lock = lock_directory(self.directory)
            self._queue = queue = Queue(self.directory)
        except FileNotFoundError:
            return False  # no event was written yet
        except BlockingIOError:
            self._log_failure(f"another `ftpsd deliver` has {self.directory}")
            return False
        except (OSError, sqlite3.Error, LaterRelease) as error:
            self._log_failure(f"{self.directory / FILE} cannot be used: {error}")
            return False
        self._reader = JournalReader(self.directory, queue, self._targets_of)
        self._dispatcher = Dispatcher(self._reactor, queue, time.time)
        self._dispatcher.use(self._targets, self._settings.events.give_up)
        return True

    def _targets_of(self, entry: Entry) -> list[str]:
        record = entry["record"]
        assert isinstance(record, dict)
        found = self._rules.matching(record["event"], record.get("user", ""), *paths_of(entry))
        return list(dict.fromkeys(rule.settings.target for rule in found))

    def _write_status(self) -> None:
        now = self._reactor.seconds()
        if self._queue is not None and now - self._written >= STATUS_INTERVAL:
            self._written = now
            waiting, failed, oldest = self._queue.counts()
            status.write(self.directory, status.DeliveryStatus(time.time(), waiting, failed, oldest))

    def _log_failure(self, text: str) -> None:
        if text != self._failed:
            self._failed = text
            log.error("events cannot be delivered: {text}", text=text)

    # --- reload and stop ---------------------------------------------------------------------------

    def reload(self) -> None:
        """Load the configuration again. If it has a fault, the old one remains in effect."""
        if self._loading or self._stopping:
            return
        self._loading = True
        loading: Deferred[None] = in_own_thread(self._reactor, lambda: load_rules(self._path)).addCallback(self._use)
        loading.addErrback(self._refused).addBoth(self._loaded)

    def _use(self, settings: Settings) -> None:
        targets = make_targets(self._reactor, self._threads, settings)
        self._settings, self._targets, self._rules = settings, targets, Rules(settings.events.rules)
        if self._queue is not None:
            self._dispatcher.use(targets, settings.events.give_up)
        log.info("reloaded: {rules} rules", rules=len(self._rules.rules))

    def _refused(self, failure: Failure) -> None:
        for line in str(failure.value).splitlines():
            log.error("not reloaded: {fault}", fault=line)

    def _loaded(self, _: object) -> None:
        self._loading = False

    def stop(self) -> None:
        """Begin no further deliveries, let those that run end, and stop. A second call stops at once."""
        if self._queue is None or self._stopping:
            self._end()
            return
        self._stopping = True
        self._dispatcher.stop()
        self._task.stop()
        self._finish(self._reactor.seconds() + PATIENCE)

    def _finish(self, deadline: float) -> None:
        self._dispatcher.run()
        if self._dispatcher.running and self._reactor.seconds() < deadline + 1:
            if self._reactor.seconds() >= deadline:
                self._dispatcher.cut()
            self._reactor.callLater(INTERVAL / 4, self._finish, deadline)
            return
        self._end()

    def _end(self) -> None:
        self._task.stop()
        if self._queue is not None:
            self._dispatcher.cut()
            self._queue.close()
        self._threads.stop()
        self._stopped()


def make_targets(reactor: Reactor, threads: ThreadPool, settings: Settings) -> dict[str, Target]:
    """Return the targets of the rules by their names. Raises Unusable if one of them cannot be used."""
    targets: dict[str, Target] = {}
    for index, rule in enumerate(settings.events.rules):
        if rule.target in targets:
            continue
        try:
            if rule.exec and not exists(rule.exec):
                raise ValueError(f"{rule.exec[0]} is not a program that this process may run")
            if rule.exec:
                targets[rule.target] = Program(reactor, threads, rule.exec, settings.events.timeout)
            else:
                targets[rule.target] = Webhook(reactor, rule.webhook, settings.events.timeout, PARALLEL)
        except (OSError, ValueError) as error:
            raise Unusable(f"events.rules[{index}] cannot be used: {error}") from None
    return targets
