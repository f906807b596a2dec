"""The files of the journal as the daemon writes them: SegmentWriter.

One run of the daemon has a lock file and numbered segments. Segments are written one after the other, so that the
deliverer can remove those that it has read.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import threading
import time
from pathlib import Path

from ftpsd.outbox.segments import lock_file, segment, segments

#: The size at which the next segment begins at the latest; the part of the journal's size at which it begins.
_SEGMENT, _SHARE = 8 << 20, 8

#: Seconds between two looks at how much of the journal was delivered, while it is full; or at how much other processes
#: have written.
_LOOK = 1.0


class SegmentWriter:
    """Writes lines into the segments of one run. The methods block and raise OSError.

    The caller holds a lock of its own around all methods but `sync`, which waits for the disk.
    """

    def __init__(self) -> None:
        self.directory: Path | None = None
        #: The name of this run.
        self.run = ""
        self._size = 0
        self._writers = 1
        #: The size from which on a segment is followed by another one.
        self._enough = 0
        #: Whether what was written must be on the disk before it counts.
        self.fsync = False
        self._sync_lock = threading.Lock()
        self._lock_fd = -1
        # The segment: its descriptor, number and size.
        self._fd, self._number, self._length = -1, 0, 0
        #: Bytes of all other segments, when that was last looked at.
        self._others, self._looked = 0, 0.0
        #: Counters of the lines that were written, and of those that are on the disk.
        self.written = self._synced = 0

    def configure(self, size: int, fsync: bool, writers: int) -> None:
        """Set the most bytes of the journal, and whether new segments are stored in their directory at once.

        `writers` is the number of processes that write, each with a run of its own.
        """
        self._size, self.fsync, self._writers = size, fsync, writers
        self._enough = min(_SEGMENT, size // (_SHARE * writers))

    def start(self, directory: Path) -> None:
        """Begin a run. Nothing is created before the first line. If this raises, no line can be written."""
        old = segments(directory) if directory.is_dir() else []
        last = max((each.run for each in old), default="")
        self._others = sum(_size(each.path) for each in old)
        # Later than the last run, also if somebody has set the clock back.
        began = max(time.time_ns(), int(last[:16] or "0", 16) + 1)
        self.run = f"{began:016x}{secrets.token_hex(4)}"
        self.directory = directory

    def write(self, line: bytes) -> None:
        """Write a line: all of it, or nothing."""
        if self._fd < 0 or self._length >= self._enough:
            self._begin_segment()
        count = os.write(self._fd, line)
        if count != len(line):
            os.ftruncate(self._fd, self._length)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._length += count
        self.written += 1

    def _begin_segment(self) -> None:
        directory = self.directory
        if directory is None:
            raise OSError(errno.EBADF, "their directory cannot be used, or the daemon stops")
        if self._lock_fd < 0:
            directory.mkdir(mode=0o700, exist_ok=True)
            self._lock_fd = _locked(lock_file(directory, self.run))
        path = segment(directory, self.run, self._number + 1).path
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        if self.fsync:
            _fsync_directory(directory)
        with self._sync_lock:
            if self._fd >= 0:
                if self.fsync:
                    os.fdatasync(self._fd)
                os.close(self._fd)
                self._synced = self.written
            self._others += self._length
            self._fd, self._number, self._length = fd, self._number + 1, 0

    def sync(self, number: int) -> None:
        """Return when the line of that number is on the disk. One call serves all lines that were written before it."""
        with self._sync_lock:
            if self._synced < number:
                written = self.written
                os.fdatasync(self._fd)
                self._synced = written

    def require_room(self, count: int) -> None:
        """Raise OSError if the journal would become too long. The deliverer removes what it has delivered."""
        is_full = self._others + self._length + count > self._size
        if not is_full and self._writers == 1:
            return
        now = time.monotonic()
        if not is_full and now - self._looked < _LOOK:
            return
        if now - self._looked >= _LOOK and self.directory is not None and self.directory.is_dir():
            self._looked = now
            here = self.run, self._number
            self._others = sum(_size(each.path) for each in segments(self.directory) if each[:2] != here)
        if self._others + self._length + count > self._size:
            raise OSError(errno.EDQUOT, "events.journal_size is reached: does ftpsd-deliver run?")

    def stop(self, decided: bool) -> None:
        """End the run. With `decided` its lock file is removed, so that the next run need not look at it.

        The removal may be on the disk before decisions that were written earlier: with `fsync` it comes after them.
        """
        if self._fd >= 0:
            if self.fsync:
                try:
                    os.fdatasync(self._fd)
                except OSError:
                    decided = False
            os.close(self._fd)
        if self._lock_fd >= 0:
            if decided and self.directory is not None:
                lock_file(self.directory, self.run).unlink(missing_ok=True)
            os.close(self._lock_fd)
        self._fd = self._lock_fd = -1
        self.directory = None


def add_segment(directory: Path, run: str, lines: bytes) -> None:
    """Add a segment to a run that has ended. The caller has its lock. Raises OSError, and then there may be a part."""
    number = max((each.number for each in segments(directory) if each.run == run), default=0) + 1
    path = segment(directory, run, number).path
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640), "wb", buffering=0) as file:
        file.write(lines)
        os.fsync(file.fileno())
    _fsync_directory(directory)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _locked(path: Path) -> int:
    """Make a lock file. It gets its name when it is locked, so that no process takes the run for one that has ended."""
    new = path.with_suffix(".new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        new.rename(path)
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
