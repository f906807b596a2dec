"""Decide, at the start of the daemon, the intents that a run before has left open: Reconciler."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path
from typing import cast

from twisted.logger import Logger

from ftpsd.outbox.evidence import Lost, Undecidable, file_of, was_made
from ftpsd.outbox.journal import Journal
from ftpsd.outbox.segments import Entry, entries, lock_file, segments

log = Logger(namespace="ftpsd")

#: Seconds for which the start of the daemon waits at most: a home's disk may not answer.
PATIENCE = 15


class Reconciler:
    """Decides the intents of runs that have ended, in a thread of its own.

    A run whose daemon lives, since it stops gracefully, has its lock. Intents that cannot be decided now, since a file
    system is not mounted, are tried again by `run`.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._directory: Path | None = None
        self._thread: threading.Thread | None = None
        #: The locks of runs that have ended and are not decided completely.
        self._locks: dict[str, int] = {}
        self._logged: set[str] = set()

    def start(self, directory: Path) -> None:
        """Decide all intents that can be decided. Waits for that, but not for a disk that does not answer."""
        self._directory = directory
        self.run()
        if self._thread is not None:
            self._thread.join(PATIENCE)
            if self._thread.is_alive():
                log.error("a disk does not answer: events of the last run of the daemon are delivered later")

    def run(self) -> None:
        """Begin to decide what is open, if there is anything and nobody is at it."""
        if self._thread is not None and self._thread.is_alive():
            return
        directory = self._directory
        if directory is not None and directory.is_dir() and (runs := self._ended_runs(directory)):
            self._thread = threading.Thread(target=self._work, args=(directory, runs), name="reconcile", daemon=True)
            self._thread.start()

    def _ended_runs(self, directory: Path) -> set[str]:
        """Return the runs that have a lock file which no daemon holds."""
        runs = {path.stem for path in directory.glob("*.lock")} - {self._journal.run}
        for run in runs - set(self._locks):
            try:
                fd = os.open(lock_file(directory, run), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._locks[run] = fd
            except OSError:
                os.close(fd)
        return set(self._locks)

    def _work(self, directory: Path, runs: set[str]) -> None:
        try:
            left = self._decide(open_intents(directory, runs))
            for run in runs - left:
                lock_file(directory, run).unlink(missing_ok=True)
                os.close(self._locks.pop(run))
        except Exception:
            log.failure("the journal of events cannot be read")

    def _decide(self, intents: dict[str, Entry]) -> set[str]:
        """Decide intents. Return the runs of those that remain."""
        left, counts = set(), {True: 0, False: 0}
        for identity, entry in intents.items():
            evidence = entry["evidence"]
            assert isinstance(evidence, dict)
            try:
                made = was_made(evidence)
            except Undecidable as error:
                left.add(identity.partition("-")[0])
                self._log_once(identity, "it is not known yet whether {file} was published: {error}", entry, error)
                continue
            except Lost as error:
                made = False
                self._log_once(identity, "no event for {file}, nobody knows whether it was made: {error}", entry, error)
            counts[made] += 1
            self._journal.decide(identity, made)
        if any(counts.values()):
            log.info(
                "events of the last run: {made} changes were complete, {void} were not",
                made=counts[True],
                void=counts[False],
            )
        return left

    def _log_once(self, identity: str, text: str, entry: Entry, error: Exception) -> None:
        if identity not in self._logged:
            self._logged.add(identity)
            log.error(text, file=file_of(cast(Entry, entry["evidence"])), error=str(error))


def open_intents(directory: Path, runs: set[str]) -> dict[str, Entry]:
    """Return the intents of some runs that no run has decided."""
    intents: dict[str, Entry] = {}
    decided: set[object] = set()
    for each in segments(directory):
        try:
            for entry in entries(each):
                identity = entry.get("intent")
                if isinstance(identity, str) and each.run in runs:
                    intents[identity] = entry
                decided.add(entry.get("done", entry.get("void")))
        except FileNotFoundError:
            continue  # the deliverer has removed it: all of it was decided
    return {identity: entry for identity, entry in intents.items() if identity not in decided}
