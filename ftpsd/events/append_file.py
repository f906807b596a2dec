"""A file of lines that other programs may rename, remove or truncate at any time: AppendFile."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

#: No link is followed: a directory for log files may belong to another user. A FIFO without a reader does not block.
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class AppendFile:
    """The file is created if it is missing, readable for its group. All methods block; any thread may call them.

    Before each write, the file with this name is opened again if it is not the one that is open (logrotate has renamed
    it). O_APPEND lets the next line follow the last one when the file was truncated (logrotate with `copytruncate`).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        #: Whole lines that could not be written.
        self._rest = b""

    def write(self, lines: bytes) -> None:
        """Append whole lines. Raises OSError; the next call then begins with the lines that were not written."""
        with self._lock:
            self._rest += lines
            descriptor = self._current()
            rest, written = memoryview(self._rest), 0
            try:
                while written < len(rest):
                    written += os.write(descriptor, rest[written:])
            finally:
                self._rest = self._rest[self._whole_lines(descriptor, written) :]

    def close(self) -> None:
        """Close the file. The next write opens it again."""
        with self._lock:
            self._close()

    def _whole_lines(self, descriptor: int, written: int) -> int:
        """Return how many of the bytes written are whole lines. Remove the start of a line from the end of the file."""
        whole = self._rest.rfind(b"\n", 0, written) + 1
        if whole < written:
            try:
                size = os.fstat(descriptor).st_size
                os.ftruncate(descriptor, max(0, size - (written - whole)))
            except OSError:
                return written  # better half a line in the file than the same line twice
        return whole

    def _current(self) -> int:
        """Return the descriptor of the file that has the name now."""
        if self._descriptor is not None and not self._has_name(self._descriptor):
            self._close()
        if self._descriptor is None:
            self._descriptor = self._open()
        return self._descriptor

    def _has_name(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._path, follow_symlinks=False))
        except FileNotFoundError:
            return False

    def _open(self) -> int:
        descriptor = os.open(self._path, _FLAGS, 0o640)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError("not a regular file")
        return descriptor

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
