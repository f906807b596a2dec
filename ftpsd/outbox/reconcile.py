"""Decide the intents that a process of the daemon has left open when it was killed: Reconciler."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import cast

from twisted.logger import Logger

from ftpsd.outbox.evidence import Lost, Undecidable, file_of, was_made
from ftpsd.outbox.journal import Journal
from ftpsd.outbox.run_locks import RunLocks
from ftpsd.outbox.segment_writer import add_segment
from ftpsd.outbox.segments import Entry, decision, entries, segments

log = Logger(namespace="ftpsd")

#: Seconds for which the start of the daemon waits at most: a home's disk may not answer.
PATIENCE = 15

#: Seconds between two looks at what another process decides.
_INTERVAL = 0.01


class Reconciler:
    """Decides the intents of runs that have ended.

    A run whose process lives has its lock. Decisions are added to the run itself, so that they come after its intents.
    Intents that cannot be decided now, since a file system is not mounted, are tried again by `run`.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._locks: RunLocks | None = None
        self._thread: threading.Thread | None = None
        #: Held while runs are looked for and decided.
        self._busy = threading.Lock()
        self._logged: set[str] = set()

    def start(self, directory: Path) -> None:
        """Decide all intents that can be decided. Waits for that, but not for a disk that does not answer."""
        self._locks = RunLocks(directory)
        self.run()
        if self._thread is not None:
            self._thread.join(PATIENCE)
            if self._thread.is_alive():
                log.error("a disk does not respond: events of the last run of the daemon are delivered later")

    def run(self) -> None:
        """Begin to decide open intents, if there are any and nobody does that now."""
        if self._locks is None or (self._thread is not None and self._thread.is_alive()):
            return
        if any(self._locks.directory.glob("*.lock")):
            self._thread = threading.Thread(target=self._work, args=(True,), name="reconcile", daemon=True)
            self._thread.start()

    def settle(self) -> None:
        """Decide the intents of processes that have ended since the last call, before a change is made. Blocks.

        Otherwise the change could look like that of an intent which was not carried out.
        """
        self._work(False)

    def _work(self, thoroughly: bool) -> None:
        locks, limit = self._locks, time.monotonic() + PATIENCE
        if locks is None:
            return
        while True:
            with self._busy:
                try:
                    self._decide_all(locks, locks.look(self._journal.run, thoroughly))
                except Exception:
                    log.failure("the journal of events cannot be read")
                if not locks.being_decided() or time.monotonic() > limit:
                    return
            time.sleep(_INTERVAL)

    def _decide_all(self, locks: RunLocks, runs: set[str]) -> None:
        counts = {True: 0, False: 0}
        for run in sorted(runs):
            decisions, left = self._decide(open_intents(locks.directory, run))
            if decisions:
                lines = b"".join(decision(identity, made) for identity, made in decisions.items())
                add_segment(locks.directory, run, lines)
            locks.decided(run, not left)
            for made in decisions.values():
                counts[made] += 1
        if any(counts.values()):
            text = "events of a process that has ended: {made} changes were complete, {void} were not"
            log.info(text, made=counts[True], void=counts[False])

    def _decide(self, intents: dict[str, Entry]) -> tuple[dict[str, bool], bool]:
        """Return whether the change of each intent was made, and whether some cannot be decided now."""
        decisions, left = dict[str, bool](), False
        for identity, entry in intents.items():
            evidence = entry["evidence"]
            assert isinstance(evidence, dict)
            try:
                decisions[identity] = was_made(evidence, self._journal.in_store)
            except Undecidable as error:
                left = True
                self._log_once(identity, "it is not known yet whether {file} was published: {error}", entry, error)
            except Lost as error:
                decisions[identity] = False
                self._log_once(identity, "no event for {file}, nobody knows whether it was made: {error}", entry, error)
        return decisions, left

    def _log_once(self, identity: str, text: str, entry: Entry, error: Exception) -> None:
        if identity not in self._logged:
            self._logged.add(identity)
            log.error(text, file=file_of(cast(Entry, entry["evidence"])), error=str(error))


def open_intents(directory: Path, run: str) -> dict[str, Entry]:
    """Return the intents of a run that are not decided."""
    intents: dict[str, Entry] = {}
    for each in segments(directory):
        if each.run != run:
            continue
        try:
            for entry in entries(each):
                identity = entry.get("intent")
                if isinstance(identity, str):
                    intents[identity] = entry
                intents.pop(str(entry.get("done", entry.get("void"))), None)
        except FileNotFoundError:
            continue  # the deliverer has removed it: all of it was decided
    return intents
