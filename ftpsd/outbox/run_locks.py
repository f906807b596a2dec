"""The lock files of the runs of other processes: which have ended, and who decides what they have left open: RunLocks.

locked, size 0      the process of the run lives
unlocked            it has ended. Whoever locks the file decides its intents
locked, size 1      they are being decided: others wait for that before they write an intent
locked, size 2      some could not be decided: they are tried again later, and nobody waits
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from ftpsd.outbox.segments import lock_file

_DECIDING, _LEFT = 1, 2


class RunLocks:
    """The lock files of the other runs of a journal. The caller makes sure that one thread at a time is here."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        #: The lock files of runs that others have, open; and those of runs that have ended, locked.
        self._others: dict[str, int] = {}
        self._ended: dict[str, int] = {}
        self._looked = -1

    def look(self, own: str, thoroughly: bool) -> set[str]:
        """Lock the runs that have ended and were not locked yet. Return them, or with `thoroughly` all that are locked.

        Without `thoroughly`, new runs are found only if the time of the directory has changed.
        """
        try:
            changed = os.stat(self.directory).st_mtime_ns
        except FileNotFoundError:
            return set()
        if thoroughly or changed != self._looked:
            self._looked = changed
            self._open_all(own)
        new = {run for run in list(self._others) if self._take(run)}
        return set(self._ended) if thoroughly else new

    def _open_all(self, own: str) -> None:
        for path in self.directory.glob("*.lock"):
            run = path.stem
            if run != own and run not in self._others and run not in self._ended:
                try:
                    self._others[run] = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                except OSError:
                    continue

    def _take(self, run: str) -> bool:
        """Lock a run if its process has ended. Return whether it is locked now."""
        fd = self._others[run]
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        del self._others[run]
        if not os.fstat(fd).st_nlink:  # all of it was decided
            os.close(fd)
            return False
        os.ftruncate(fd, _DECIDING)
        self._ended[run] = fd
        return True

    def being_decided(self) -> bool:
        """Return whether another process decides the intents of a run now."""
        return any(found.st_size == _DECIDING and found.st_nlink for found in map(os.fstat, self._others.values()))

    def decided(self, run: str, completely: bool) -> None:
        """Record that the intents of a run, which is locked, were decided, or that some are left."""
        if completely:
            lock_file(self.directory, run).unlink(missing_ok=True)
            os.close(self._ended.pop(run))
        else:
            os.ftruncate(self._ended[run], _LEFT)
