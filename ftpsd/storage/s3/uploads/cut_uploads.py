"""Uploads that were cut: multipart uploads that stay open in the store, so that any node of ftpsd can resume them.

The store knows the key of an open multipart upload, its parts and their sizes. The daemon marks its own uploads with a
part that has the last number, 10,000, while the one before it is missing (`parts.MARKER`). Other uploads belong to
other programs, and are left alone. What the client resumes is the end of the last part before the first gap, which an
empty part is, too. Only parts that are full are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ftpsd.storage.s3.calls.answers import OpenUpload, StoredPart
from ftpsd.storage.s3.calls.errors import UploadGone
from ftpsd.storage.s3.calls.multiparts import Multiparts
from ftpsd.storage.s3.uploads.parts import COPY_MARKER, MARKER, in_order
from ftpsd.storage.s3.uploads.running import Running


@dataclass(frozen=True)
class CutUpload:
    """What the store has of an upload that was cut, or that runs on another node."""

    key: str
    identity: str
    parts: tuple[StoredPart, ...]
    started: float
    marker: StoredPart
    #: The numbers of the parts after the first gap.
    strays: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """The bytes that need not be sent again."""
        return sum(each.size for each in self.parts)

    @property
    def modified(self) -> float:
        """When the last part came."""
        return max([self.started, *(each.stored for each in self.parts)])


@dataclass(frozen=True)
class Leftover:
    """What a process that was killed has left: the copy of an object, or an upload without any part (`is_empty`).

    Nobody can resume it. An empty one may also be that of another program: nothing tells them apart.
    """

    key: str
    identity: str
    modified: float
    is_empty: bool


class CutUploads:
    """Finds the open uploads of ftpsd. `running` are those of this process. Everything blocks."""

    def __init__(self, multiparts: Multiparts, running: Running | None = None) -> None:
        self._multiparts = multiparts
        self.running = running or Running()

    def find(self, key: str) -> CutUpload | None:
        """Return the newest upload of a key that was cut, or None."""
        found = [each for each in self.all_of(key) if each.identity not in self.running]
        return max(found, key=lambda each: (each.size, each.started), default=None)

    def all_of(self, key: str) -> list[CutUpload]:
        """Return all open uploads of a key, also those that run."""
        found = list[CutUpload]()
        for portion in self._multiparts.uploads(key):
            found += [cut for each in portion if each.key == key and (cut := self.look(each)) is not None]
            if portion and portion[-1].key != key:
                break  # the store lists them in the order of their keys
        return found

    def below(self, prefix: str, flat: bool = True) -> Iterator[CutUpload | None]:
        """Yield the open uploads whose keys begin with a prefix; not `flat`: in one directory.

        Each takes a request, so each is a step. None stands for one that is not of ftpsd, or has gone.
        """
        for portion in self._multiparts.uploads(prefix, flat):
            yield from map(self.look, portion)

    def all_below(self, prefix: str) -> Iterator[CutUpload | Leftover | None]:
        """As `below`, with what nobody can resume."""
        for portion in self._multiparts.uploads(prefix):
            yield from map(self._found, portion)

    def open_below(self, prefix: str) -> Iterable[list[OpenUpload]]:
        """Yield the open uploads of all programs whose keys begin with a prefix, in portions."""
        return self._multiparts.uploads(prefix)

    def look(self, upload: OpenUpload) -> CutUpload | None:
        """Return an upload with its parts, or None if it is not one of ftpsd, or has gone."""
        found = self._found(upload)
        return found if isinstance(found, CutUpload) else None

    def _found(self, upload: OpenUpload) -> CutUpload | Leftover | None:
        try:
            parts = {each.number: each for each in self._multiparts.parts(upload.key, upload.identity)}
        except (UploadGone, FileNotFoundError):
            return None
        if not parts or (COPY_MARKER in parts and MARKER not in parts):
            latest = max([upload.started, *(each.stored for each in parts.values())])
            return Leftover(upload.key, upload.identity, latest, not parts)
        marker = parts.pop(MARKER, None)
        if marker is None or COPY_MARKER in parts:
            return None
        first = tuple(in_order(parts))
        strays = tuple(number for number, each in parts.items() if number > len(first) and each.size)
        return CutUpload(upload.key, upload.identity, first, upload.started, marker, strays)

    def is_open(self, key: str, identity: str) -> bool:
        """Return whether the store has an upload: somebody else may have removed it."""
        try:
            return bool(self._multiparts.parts(key, identity))
        except (UploadGone, FileNotFoundError):
            return False

    def may_run(self, upload: CutUpload) -> bool:
        """Return whether an upload runs, maybe in another process."""
        return self.running.may_run(upload.identity, upload.modified)

    def remove(self, key: str, but: str = "", elsewhere: bool = False) -> bool:
        """Remove all uploads of a key that do not run. Return whether there was one with parts.

        `elsewhere`: also those that may run in another process, since the client wants the name to go.
        """
        removed = False
        for each in self.all_of(key):
            runs = each.identity in self.running if elsewhere else self.may_run(each)
            if not runs and each.identity != but:
                self.abort(each.key, each.identity)
                removed |= each.size > 0
        return removed

    def abort(self, key: str, identity: str) -> bool:
        """Remove one upload. Return whether it was still there."""
        try:
            self._multiparts.abort(key, identity)
        except (UploadGone, FileNotFoundError):
            return False
        return True
