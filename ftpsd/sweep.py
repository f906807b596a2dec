"""Parts of uploads that nobody goes on with are removed from all homes, little by little.

A sweep walks in worker threads and pauses after each handful of entries, so it waits for whoever serves
a client. Directories are opened one below the other without following links. The lock of a part tells
that an upload writes to it, in this process or in one that drains (see `uploads.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from ftpsd.log import log
from ftpsd.paths import DEEPEST
from ftpsd.pump import Pause, Steps, Transfer
from ftpsd.replies import Refusal
from ftpsd.uploads import PRIVATE, discard
from ftpsd.workers import Workers

#: Entries of directories that are looked at in one step, and the seconds between two steps.
_ENTRIES, _PAUSE = 500, 0.05

#: Seconds between two sweeps, or less where parts are kept for less.
_INTERVAL = 3600

#: What is held while a name goes: a directory, the same one open, and the name (see `quota.Quotas.changing`).
Changing = Callable[[str, int, str], AbstractContextManager[None]]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Sweeper:
    """Sweeps when the daemon starts or reloads, and every so often."""

    def __init__(self, reactor: Any, workers: Workers, changing: Changing, now: Callable[[], float]) -> None:
        self._reactor = reactor
        self._workers = workers
        self._changing = changing
        self._now = now
        self._started = now()
        self._loop: LoopingCall | None = None
        self._running: Transfer | None = None

    def start(self, homes: Iterable[str], keep: int | None) -> None:
        """Sweeps those homes from now on. Parts are kept for so many seconds; None: for ever."""
        self.stop()
        self._loop = LoopingCall(self._sweep, outermost(homes), keep)
        self._loop.clock = self._reactor
        self._loop.start(_INTERVAL if keep is None else max(1, min(_INTERVAL, keep)))

    def stop(self) -> None:
        """Any number of times."""
        if self._loop is not None and self._loop.running:
            self._loop.stop()
        if self._running is not None:
            self._running.abort(Refusal(421, "The sweep is over."))

    def _sweep(self, homes: list[str], keep: int | None) -> Deferred[Any]:
        before = self._now() - keep if keep is not None else 0.0
        freed: list[int] = []
        steps = sweep(homes, before, self._started, freed, self._changing)
        self._running = transfer = Transfer(self._reactor, self._workers, steps, None, ())
        transfer.start()
        return transfer.finished.addBoth(self._tell, freed)

    def _tell(self, result: Any, freed: list[int]) -> None:
        if freed:
            text = "removed parts of uploads that nobody goes on with: {count}, {bytes} bytes"
            log.info(text, count=len(freed), bytes=sum(freed))
        if isinstance(result, Failure) and not result.check(Refusal):
            log.failure("a sweep ended early", result)


def outermost(homes: Iterable[str]) -> list[str]:
    """Homes without those that lie in others."""
    found: list[str] = []
    for home in sorted(homes, key=lambda path: path.rstrip("/") + "/"):
        if not found or not (home.rstrip("/") + "/").startswith(found[-1].rstrip("/") + "/"):
            found.append(home)
    return found


def sweep(homes: Iterable[str], before: float, started: float, freed: list[int], changing: Changing) -> Steps:
    """Discards the parts below homes (see `uploads.discard`); their sizes go to `freed`."""
    for number, (path, directory, name) in enumerate(_entries(homes), 1):
        if name.startswith(PRIVATE):
            try:
                with changing(path, directory, name):
                    freed.extend(discard(directory, name, before, started))
            except OSError:
                pass  # it is gone, or not ours
        if number % _ENTRIES == 0:
            yield Pause(_PAUSE)


def _entries(homes: Iterable[str]) -> Iterator[tuple[str, int, str]]:
    """Every entry below homes: a directory, the same one open, and a name in it; each directory as an entry of
    itself, too."""
    for home in homes:
        waiting: list[tuple[str, ...]] = [()]
        while waiting:
            path = waiting.pop()
            try:
                directory = _open(home, path)
            except OSError:
                continue
            try:
                here = "/".join((home, *path))
                yield here, directory, "."
                with os.scandir(directory) as entries:
                    for entry in entries:
                        yield here, directory, entry.name
                        if len(path) < DEEPEST and entry.is_dir(follow_symlinks=False):
                            waiting.append((*path, entry.name))
            except OSError:
                pass  # what of it cannot be read is left alone
            finally:
                os.close(directory)


def _open(home: str, path: tuple[str, ...]) -> int:
    directory = os.open(home, _DIRECTORY)
    for part in path:
        try:
            deeper = os.open(part, _DIRECTORY, dir_fd=directory)
        finally:
            os.close(directory)
        directory = deeper
    return directory
