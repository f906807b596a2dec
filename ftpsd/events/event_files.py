"""Write events to files: the audit file (JSON Lines) and xferlog. See docs/events.md."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

from twisted.logger import Logger

from ftpsd.events.append_file import AppendFile
from ftpsd.events.hub import Hub, QueueState
from ftpsd.events.record import Line, Recorder, recorded_kinds
from ftpsd.events.types import (
    Event,
    SessionClosed,
    SessionDismissed,
    SessionOpened,
    SessionRejected,
    TransferEnded,
)
from ftpsd.events.xferlog import xferlog_line
from ftpsd.system.reactor import Clock, Reactor
from ftpsd.system.worker_threads import WorkerThreads

log = Logger(namespace="ftpsd")

#: Seconds for which lines are collected: a hand-over to a thread for each costs more than the line itself.
INTERVAL = 0.2

#: Seconds to the next attempt after the file could not be written.
RETRY = 1.0

#: Lines that wait for the file. Further ones are dropped and counted.
CAPACITY = 20_000

#: Strangers can cause any number of these, and they change nothing: the log has them, within its budget. The second
#: ones are of interest if somebody was logged in.
_NOT_AUDITED = (SessionOpened, SessionRejected)
_AUDITED_OF_USERS = (SessionClosed, SessionDismissed)


class Jobs(Protocol):
    """The part of a JobQueue that writes files."""

    def submit(self, job: Callable[[], object]) -> None:
        """Run a job in a thread."""

    @property
    def call_in_reactor(self) -> Callable[..., None]:
        """Calls a function in the reactor thread."""


class LineWriter:
    """Lines that wait for one file, and the thread that writes them. For the reactor thread.

    idle        no line waits
    collecting  `_next` is a call in a moment: it writes all lines that wait then
    writing     a job writes; lines that come now wait for the next one
    """

    def __init__(self, clock: Clock, jobs: Jobs, path: Path) -> None:
        self._clock = clock
        self._jobs = jobs
        self._file = AppendFile(path)
        self.path = path
        self._lines: deque[Line] = deque()
        self._collecting = self._writing = self._failing = False
        #: Lines that were dropped: those that the log does not count yet, and those that it does.
        self._dropped = self._logged = 0

    def state(self) -> QueueState:
        """Return the state for metrics."""
        return QueueState(len(self._lines), CAPACITY, self._dropped + self._logged)

    def put(self, line: Line) -> None:
        """Let a line be written soon, or drop it if too many wait."""
        if len(self._lines) >= CAPACITY:
            self._drop()
            return
        self._lines.append(line)
        if not (self._collecting or self._writing):
            self._write_in(INTERVAL)

    def write(self) -> None:
        """Write the lines that wait. Without any, create the file, or open it again if it was renamed."""
        self._collecting = False
        if self._writing:
            return
        # After a failure the file keeps what it has: the number of lines that wait stays bounded.
        lines: list[Line] = []
        if not self._failing:
            lines, self._lines = list(self._lines), deque()
        self._writing = True
        self._jobs.submit(partial(self._job, lines))

    def finish(self) -> None:
        """Write all lines that wait, and close the file, because the daemon stops."""
        lines, self._lines = list(self._lines), deque()
        self._jobs.submit(partial(self._job, lines))
        self._jobs.submit(self._file.close)

    def _job(self, lines: list[Line]) -> None:
        error: Exception | None = None
        try:
            texts = [line if isinstance(line, str) else line() for line in lines]
            self._file.write("".join([f"{text}\n" for text in texts]).encode("utf-8", "replace"))
        except Exception as failed:
            error = failed
        self._jobs.call_in_reactor(self._written, error)

    def _written(self, error: Exception | None) -> None:
        self._writing = False
        if error is None:
            self._log_recovery()
        elif not self._failing:
            reason = getattr(error, "strerror", None) or str(error)
            log.error("{path} cannot be written: {reason}. Events wait for it.", path=self.path, reason=reason)
        self._failing = error is not None
        if self._failing or self._lines:
            self._write_in(RETRY if self._failing else INTERVAL)

    def _write_in(self, seconds: float) -> None:
        if not self._collecting:
            self._collecting = True
            self._clock.callLater(seconds, self.write)

    def _drop(self) -> None:
        if not self._dropped:
            log.error("too many events wait for {path}: events are dropped", path=self.path)
        self._dropped += 1

    def _log_recovery(self) -> None:
        if self._failing:
            log.info("{path} is written again", path=self.path)
        if self._dropped and len(self._lines) < CAPACITY:
            log.error("{count} events for {path} were dropped", count=self._dropped, path=self.path)
            self._logged += self._dropped
            self._dropped = 0


class EventFiles:
    """The audit file and xferlog of the configuration that is in effect."""

    def __init__(self, reactor: Reactor, hub: Hub, recorder: Recorder) -> None:
        self._reactor = reactor
        self._hub = hub
        self._recorder = recorder
        self._threads: WorkerThreads | None = None
        self._audit: LineWriter | None = None
        self._xferlog: LineWriter | None = None
        self._subscriptions: list[Callable[[], None]] = []

    def use(self, audit: Path | None, xferlog: Path | None) -> None:
        """Write to these files from now on; None stands for no file. A file that was renamed is opened again."""
        self._unsubscribe()
        self._audit = self._writer(self._audit, audit)
        self._xferlog = self._writer(self._xferlog, xferlog)
        for name, writer in (("audit", self._audit), ("xferlog", self._xferlog)):
            if writer is None:
                self._hub.queues.pop(name, None)
            else:
                self._hub.queues[name] = writer.state
        if self._audit is not None:
            kinds = [kind for kind in recorded_kinds() if kind not in _NOT_AUDITED]
            self._subscriptions += [self._hub.subscribe("audit", kind, self._add_record) for kind in kinds]
        if self._xferlog is not None:
            self._subscriptions.append(self._hub.subscribe("xferlog", TransferEnded, self._add_transfer))

    def stop(self) -> None:
        """Write what waits, and close the files. A disk that does not answer delays the exit by two seconds at most."""
        self._unsubscribe()
        for writer in (self._audit, self._xferlog):
            if writer is not None:
                writer.finish()
        if self._threads is not None:
            self._threads.stop()

    def _unsubscribe(self) -> None:
        for unsubscribe in self._subscriptions:
            unsubscribe()
        self._subscriptions = []

    def _writer(self, old: LineWriter | None, path: Path | None) -> LineWriter | None:
        """Return the writer for a file: the old one if it has this file."""
        writer = old
        if old is not None and old.path != path:
            old.finish()
            writer = None
        if writer is None and path is not None:
            if self._threads is None:
                self._threads = WorkerThreads(self._reactor, size=1)
                self._threads.start()
            writer = LineWriter(self._reactor, self._threads.queue(path), path)
        if writer is not None:
            writer.write()
        return writer

    def _add_record(self, event: Event) -> None:
        if isinstance(event, _AUDITED_OF_USERS) and not event.session.user:
            return
        line = self._recorder.line(event)
        if line is not None and self._audit is not None:
            self._audit.put(line)

    def _add_transfer(self, event: TransferEnded) -> None:
        if self._xferlog is not None and event.kind != "listing":
            self._xferlog.put(partial(xferlog_line, event, self._recorder.now()))
