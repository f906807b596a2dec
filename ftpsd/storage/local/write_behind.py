"""Write an upload to the disk while it is received: WriteBehind.

Left to the end, a large file takes minutes on a slow disk. The client hears nothing meanwhile, and curl gives up after
a minute ("control connection looks dead"). With `uploads.fsync`, the 226 waits for the disk. Without it, ext4 writes a
file when it replaces another one: rename(2) took as long as fsync(2).
"""

from __future__ import annotations

import ctypes
import errno
import os

#: Bytes that are written together. With `wait`, up to twice as many are left for the end.
PIECE = 8 * 1024 * 1024

_WAIT_BEFORE, _WRITE, _WAIT_AFTER = 1, 2, 4

_sync_file_range = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)

#: Errors of a file system, a kernel or a filter of system calls without sync_file_range(2).
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.ESPIPE)


class WriteBehind:
    """Lets the disk follow the client. With `wait`, it blocks while the disk is more than two pieces behind."""

    def __init__(self, fd: int, position: int, wait: bool) -> None:
        """`position` is that of the first byte."""
        self._fd = fd
        self._begun = position
        self._wait = wait
        self._call = _sync_file_range

    def received(self, position: int) -> None:
        """Write what was received up to a position, if that is a piece.

        Raises OSError of the disk: the call that writes the rest does not report it again.
        """
        while position - self._begun >= PIECE and self._call is not None:
            self._sync(self._begun, _WRITE)
            if self._wait and self._begun >= PIECE:
                self._sync(self._begun - PIECE, _WAIT_BEFORE | _WRITE | _WAIT_AFTER)
            self._begun += PIECE

    def _sync(self, start: int, flags: int) -> None:
        if self._call is not None and self._call(self._fd, start, PIECE, flags) < 0:
            error = ctypes.get_errno()
            if error not in _UNSUPPORTED:
                raise OSError(error, os.strerror(error))
            self._call = None
