"""The journal as the daemon writes it: Journal. See the package's docstring for its promises."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import secrets
import threading
import time
from collections import deque
from pathlib import Path

from twisted.logger import Logger

from ftpsd.outbox.segments import Entry, decision, lock_file, segment, segments, to_line
from ftpsd.protocol.replies import Refusal

log = Logger(namespace="ftpsd")

#: The size from which on a segment is followed by another one; the part of the journal's size that it may be.
_SEGMENT, _SHARE = 8 << 20, 8

#: Seconds between two looks at how much of the journal was delivered, while it is full.
_LOOK = 1.0

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Journal:
    """The journal of one run of the daemon. The methods block, and may be called from any worker thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sync_lock = threading.Lock()
        self._directory: Path | None = None
        self._size, self._fsync = 0, False
        #: The name of this run, and its number of events so far.
        self.run = ""
        self._numbers = itertools.count(1)
        self._lock_fd = -1
        # The segment: its descriptor, number and size.
        self._fd, self._number, self._length = -1, 0, 0
        #: Bytes of all other segments, when that was last looked at.
        self._others, self._looked = 0, 0.0
        #: Counters of the lines that were written, and of those that are on the disk.
        self._written = self._synced = 0
        #: Decisions that could not be written yet.
        self._late: deque[bytes] = deque()
        self._failing = False
        #: The intents that are not decided.
        self._open: set[str] = set()

    def configure(self, size: int, fsync: bool) -> None:
        """Set the most bytes of the journal, and whether intents are written to the disk."""
        self._size, self._fsync = size, fsync

    def start(self, directory: Path) -> None:
        """Begin a run. Nothing is created before the first event. Raises OSError: then no event can be written."""
        old = segments(directory) if directory.is_dir() else []
        last = max((each.run for each in old), default="")
        self._others = sum(_size(each.path) for each in old)
        # Later than the last run, also if somebody has set the clock back.
        began = max(time.time_ns(), int(last[:16] or "0", 16) + 1)
        self.run = f"{began:016x}{secrets.token_hex(4)}"
        self._directory = directory

    def identity(self) -> str:
        """Return a new identity for an event."""
        return f"{self.run}-{next(self._numbers)}"

    # --- writing -----------------------------------------------------------------------------------

    def add_intent(self, identity: str, entry: Entry) -> None:
        """Write that a change is about to be made. Raises Refusal: then the change must not be made."""
        number = self._add(entry)
        self._open.add(identity)
        if self._fsync:
            try:
                self._sync(number)
            except OSError as error:
                self.decide(identity, False)
                raise self._refusal(error) from None

    def add_event(self, entry: Entry) -> None:
        """Write an event that has happened. Raises Refusal if that is not possible."""
        self._add(entry)

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
        """End the run. Its lock is removed if everything is decided, so that the next run need not look at it."""
        with self._lock:
            decided = self._write_late() and not self._open
            if self._fd >= 0:
                os.close(self._fd)
            if self._lock_fd >= 0:
                if decided and self._directory is not None:
                    lock_file(self._directory, self.run).unlink(missing_ok=True)
                os.close(self._lock_fd)
            self._fd = self._lock_fd = -1
            self._directory = None

    def _add(self, entry: Entry) -> int:
        line = to_line(entry)
        try:
            with self._lock:
                self._require_room(len(line))
                if self._late and not self._write_late():
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._write(line)
                number = self._written
        except OSError as error:
            raise self._refusal(error) from None
        if self._failing:
            self._failing = False
            log.info("events are written to {path} again", path=str(self._directory))
        return number

    def _refusal(self, error: OSError) -> Refusal:
        self._log_failure(error)
        code = 452 if error.errno in _FULL else 451
        return Refusal(code, "Event cannot be stored for delivery: try again later.")

    def _log_failure(self, error: OSError) -> None:
        if not self._failing:
            self._failing = True
            reason = error.strerror or error
            log.error("events cannot be written to {path}: {reason}", path=str(self._directory), reason=reason)

    def _write_late(self) -> bool:
        """Write the decisions that wait; return whether none is left. The caller holds the lock."""
        try:
            while self._late:
                self._write(self._late[0])
                self._late.popleft()
        except OSError as error:
            self._log_failure(error)
            return False
        return True

    def _write(self, line: bytes) -> None:
        if self._fd < 0 or self._length >= min(_SEGMENT, self._size // _SHARE):
            self._begin_segment()
        count = os.write(self._fd, line)
        if count != len(line):
            os.ftruncate(self._fd, self._length)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._length += count
        self._written += 1

    def _begin_segment(self) -> None:
        directory = self._directory
        if directory is None:
            raise OSError(errno.EBADF, "their directory cannot be used, or the daemon stops")
        if self._lock_fd < 0:
            directory.mkdir(mode=0o700, exist_ok=True)
            self._lock_fd = _locked(lock_file(directory, self.run))
        path = segment(directory, self.run, self._number + 1).path
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        if self._fsync:
            _fsync_directory(directory)
        with self._sync_lock:
            if self._fd >= 0:
                if self._fsync:
                    os.fdatasync(self._fd)
                os.close(self._fd)
                self._synced = self._written
            self._others += self._length
            self._fd, self._number, self._length = fd, self._number + 1, 0

    def _sync(self, number: int) -> None:
        """Return when the line of that number is on the disk. One call serves all lines that were written before it."""
        with self._sync_lock:
            if self._synced < number:
                written = self._written
                os.fdatasync(self._fd)
                self._synced = written

    # --- the bound ---------------------------------------------------------------------------------

    def _require_room(self, count: int) -> None:
        """Raise OSError if the journal would become too long. The deliverer removes what it has delivered."""
        if self._others + self._length + count <= self._size:
            return
        now = time.monotonic()
        if now - self._looked >= _LOOK and self._directory is not None and self._directory.is_dir():
            self._looked = now
            self._others = sum(_size(each.path) for each in segments(self._directory) if each[:2] != self._here())
        if self._others + self._length + count > self._size:
            raise OSError(errno.EDQUOT, "events.journal_size is reached: does ftpsd-deliver run?")

    def _here(self) -> tuple[str, int]:
        return self.run, self._number


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _locked(path: Path) -> int:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def _fsync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
