"""Locks that several processes share: RangeLock."""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
from contextlib import AbstractContextManager
from types import TracebackType

from ftpsd.limits.shared.patience import Patience, TableBusy

#: Seconds to wait for a lock in most threads. Processes hold one for microseconds, so only a process that was stopped
#: holds it longer.
PATIENCE = 0.5

#: Seconds between two attempts, after a few without a pause.
PAUSE = 0.0001

#: The attempts without a pause: another process holds a lock for as long as a few attempts take.
EAGER = 5


class RangeLock:
    """A lock on one byte of a file, for the threads of all processes. Not reentrant.

    It is an open file description lock (fcntl(2), F_OFD_SETLK): the kernel releases it when its process is killed.
    Each process needs a description of its own. The byte need not exist.
    """

    __slots__ = ("_descriptor", "_patience", "_seconds", "_set", "_threads", "_unset")

    def __init__(self, descriptor: int, byte: int, patience: Patience, seconds: float = PATIENCE) -> None:
        self._descriptor = descriptor
        self._patience = patience
        self._seconds = seconds
        self._threads = threading.Lock()
        self._set = _flock(fcntl.F_WRLCK, byte)
        self._unset = _flock(fcntl.F_UNLCK, byte)

    def __enter__(self) -> None:
        """Take the lock. Raises TableBusy after the seconds that this thread may wait."""
        threads = self._threads
        if not threads.acquire(blocking=False) and not threads.acquire(timeout=self._patience.seconds(self._seconds)):
            raise self._patience.exhausted()
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, self._set)
        except BlockingIOError:
            self._wait()
        except BaseException:
            self._threads.release()
            raise

    def _wait(self) -> None:
        """Try again until another process has released the lock."""
        seconds, attempts = self._patience.seconds(self._seconds), 0
        deadline = time.monotonic() + seconds
        try:
            while True:
                attempts += 1
                if seconds:  # else this thread only tries: a sleep of 0 may take a tenth of a millisecond
                    time.sleep(0 if attempts < EAGER else PAUSE)
                try:
                    fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, self._set)
                except BlockingIOError:
                    if attempts >= EAGER and time.monotonic() > deadline:
                        raise self._patience.exhausted() from None
                else:
                    return
        except BaseException:
            self._threads.release()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the lock back."""
        fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, self._unset)
        self._threads.release()


class TolerantLock(AbstractContextManager[object]):
    """A lock that is entered without being taken if a stopped process holds it. The body must then do no harm."""

    def __init__(self, lock: AbstractContextManager[object]) -> None:
        self._lock = lock
        #: The thread that holds the lock.
        self._holder = 0

    def __enter__(self) -> None:
        try:
            self._lock.__enter__()
        except TableBusy:
            return
        self._holder = threading.get_ident()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._holder == threading.get_ident():
            self._holder = 0
            self._lock.__exit__(kind, error, trace)


class ByteLock:
    """A lock on one byte of a file, as RangeLock, for callers who exclude the other threads of this process."""

    __slots__ = ("_descriptor", "_set", "_unset")

    def __init__(self, descriptor: int, byte: int) -> None:
        self._descriptor = descriptor
        self._set = _flock(fcntl.F_WRLCK, byte)
        self._unset = _flock(fcntl.F_UNLCK, byte)

    def try_acquire(self) -> bool:
        """Take the lock unless another process has it. Return whether this process has it now."""
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, self._set)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Give the lock back."""
        fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, self._unset)

    def is_taken(self) -> bool:
        """Return whether another process has the lock."""
        (kind,) = struct.unpack_from("h", fcntl.fcntl(self._descriptor, fcntl.F_OFD_GETLK, self._set))
        return bool(kind != fcntl.F_UNLCK)


def _flock(kind: int, byte: int) -> bytes:
    """Return a `struct flock` for one byte of the file."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, byte, 1, 0)
