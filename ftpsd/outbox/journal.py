"""The journal as the daemon writes it: Journal. See the package's docstring for its promises."""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from twisted.logger import Logger

from ftpsd.events.durable_ids import DurableIds
from ftpsd.outbox.evidence import DecideInStore, without_stores
from ftpsd.outbox.segment_writer import SegmentWriter
from ftpsd.outbox.segments import Entry, decision, to_line
from ftpsd.protocol.replies import Refusal

log = Logger(namespace="ftpsd")

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Journal:
    """The journal of one run of the daemon. The methods block, and may be called from any worker thread."""

    def __init__(self, ids: DurableIds) -> None:
        #: Where the events of changes that were made find their ids.
        self.ids = ids
        self._lock = threading.Lock()
        self._writer = SegmentWriter()
        #: The number of events of this run so far.
        self._numbers = itertools.count(1)
        #: Decisions that could not be written yet.
        self._late: deque[bytes] = deque()
        self._failing = False
        #: Is called before each intent, if anything is to be done.
        self.before_intent: Callable[[], object] | None = None
        #: Decides changes in object stores.
        self.in_store: DecideInStore = without_stores
        #: The intents that are not decided.
        self._open: set[str] = set()

    def configure(self, size: int, fsync: bool, writers: int = 1) -> None:
        """Set the most bytes of the journal, whether intents are written to the disk, and how many processes write."""
        self._writer.configure(size, fsync, writers)

    def start(self, directory: Path) -> None:
        """Begin a run. Nothing is created before the first event. Raises OSError: then no event can be written."""
        self._writer.start(directory)

    @property
    def run(self) -> str:
        """The name of this run; empty before the start."""
        return self._writer.run

    def identity(self) -> str:
        """Return a new identity for an event."""
        return f"{self._writer.run}-{next(self._numbers)}"

    def add_intent(self, identity: str, line: bytes) -> None:
        """Write that a change is about to be made. Raises Refusal: then the change must not be made."""
        if self.before_intent is not None:
            self.before_intent()
        number = self._add(line)
        self._open.add(identity)
        if self._writer.fsync:
            try:
                self._writer.sync(number)
            except OSError as error:
                self.decide(identity, False)
                raise self._refusal(error) from None

    def add_event(self, entry: Entry) -> None:
        """Write an event that has happened. Raises Refusal if that is not possible."""
        self._add(to_line(entry))

    def decide(self, identity: str, made: bool) -> bool:
        """Write whether the change of an intent was made. Return False if that can only be done later."""
        self._open.discard(identity)
        with self._lock:
            self._late.append(decision(identity, made))
            return self._write_late()

    @property
    def behind(self) -> bool:
        """Whether there are decisions that could not be written yet."""
        return bool(self._late)

    def flush(self) -> None:
        """Write the decisions that could not be written before."""
        with self._lock:
            self._write_late()

    def stop(self) -> None:
        """End the run. If everything is decided, the next run need not look at it."""
        with self._lock:
            self._writer.stop(decided=self._write_late() and not self._open)

    def _add(self, line: bytes) -> int:
        try:
            with self._lock:
                self._writer.require_room(len(line))
                if self._late and not self._write_late():
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._writer.write(line)
                number = self._writer.written
        except OSError as error:
            raise self._refusal(error) from None
        if self._failing:
            self._failing = False
            log.info("events are written to {path} again", path=str(self._writer.directory))
        return number

    def _write_late(self) -> bool:
        """Write the decisions that wait; return whether none is left. The caller holds the lock."""
        try:
            while self._late:
                self._writer.write(self._late[0])
                self._late.popleft()
        except OSError as error:
            self._log_failure(error)
            return False
        return True

    def _refusal(self, error: OSError) -> Refusal:
        self._log_failure(error)
        code = 452 if error.errno in _FULL else 451
        return Refusal(code, "Event cannot be stored for delivery: try again later.")

    def _log_failure(self, error: OSError) -> None:
        if not self._failing:
            self._failing = True
            path, reason = str(self._writer.directory), error.strerror or error
            log.error("events cannot be written to {path}: {reason}", path=path, reason=reason)
