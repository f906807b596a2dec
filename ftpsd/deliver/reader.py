"""Take entries over from the journal into the queue, and remove what was taken over: JournalReader."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from twisted.logger import Logger

from ftpsd.deliver.queue import Queue
from ftpsd.outbox.segments import Entry, Segment, from_line, lock_file, segments

log = Logger(namespace="ftpsd")

#: Bytes that are taken over in one transaction.
_PIECE = 256 * 1024


class JournalReader:
    """Reads all files of the journal, the oldest first. `targets` returns the targets of an event."""

    def __init__(self, directory: Path, queue: Queue, targets: Callable[[Entry], Iterable[str]]) -> None:
        self._directory = directory
        self._queue = queue
        self._intake = queue.intake
        self._targets = targets
        #: The files that are read completely, but kept for an intent.
        self._positions: dict[str, int] = {}

    def read(self, most: int, now: float) -> bool:
        """Take over what is new, or a piece of it. Return whether there may be more.

        Nothing is taken over while the queue has `most` bytes: then the journal grows, up to its own limit.
        """
        # What has a successor, or no daemon that writes, is final. That must be known before the end is reached.
        found = segments(self._directory)
        final = {each.path for each in found if self._is_final(each, found)}
        # Each process of the daemon has a run: one that writes all the time must not keep those of others waiting.
        behind = set[str]()
        for each in found:
            if self._queue.size() >= most:
                return False
            if each.run not in behind and self._read(each, each.path in final, now):
                behind.add(each.run)
        return bool(behind)

    def _is_final(self, segment: Segment, found: list[Segment]) -> bool:
        last = max(each.number for each in found if each.run == segment.run)
        return segment.number < last or not lock_file(self._directory, segment.run).exists()

    def _read(self, segment: Segment, final: bool, now: float) -> bool:
        name = segment.path.name
        position = self._positions.get(name)
        if position is None:
            position = self._positions[name] = self._intake.position(name)
        try:
            with segment.path.open("rb") as file:
                file.seek(position)
                data = file.read(_PIECE)
        except FileNotFoundError:
            return False
        complete = data[: data.rfind(b"\n") + 1]
        if complete:
            self._intake.take_over(name, position + len(complete), self._entries(segment, complete), self._targets, now)
            self._positions[name] = position + len(complete)
            return True
        if len(data) == _PIECE:
            log.error("{file}: a line that is too long is skipped", file=name)
            self._positions[name] = position + len(data)
            return True
        if final and not self._intake.has_intents(name):
            self._remove(segment)
        return False

    def _entries(self, segment: Segment, data: bytes) -> list[Entry]:
        result = []
        for line in data.splitlines(keepends=True):
            entry = from_line(line)
            if entry is None:
                log.error("{file}: a damaged line is skipped", file=segment.path.name)
            else:
                result.append(entry)
        return result

    def _remove(self, segment: Segment) -> None:
        try:
            segment.path.unlink(missing_ok=True)
        except OSError as error:
            log.error("{path} cannot be removed: {error}", path=str(segment.path), error=str(error))
            return
        self._intake.forget(segment.path.name)
        self._positions.pop(segment.path.name, None)
