"""Copy an object within a store: `Copier`. Everything blocks, in steps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

from ftpsd.protocol.replies import Refusal
from ftpsd.storage.s3.calls.answers import Found
from ftpsd.storage.s3.calls.client import Objects
from ftpsd.storage.s3.calls.errors import ObjectChanged, StoreFailed, UploadGone
from ftpsd.storage.s3.calls.multiparts import Multiparts
from ftpsd.storage.s3.uploads.parts import COPY_MARKER, MOST_COPIED, ranges
from ftpsd.storage.s3.uploads.publishing import etag_of_parts
from ftpsd.system.jobs.job_queue import JobSteps


class Exists(Refusal):
    """Something has the new key already."""

    def __init__(self, key: str) -> None:
        super().__init__(553, f"{key.rpartition('/')[2]} already exists.")


#: Counts what the body does to a key.
Changing = Callable[[str], AbstractContextManager[object]]


class Copier:
    """Copies objects for one user: up to `part` bytes by one request, larger ones in parts, each in a step of its own.

    An open copy that a crash leaves has the part `COPY_MARKER`, so that no client resumes it as an upload.
    """

    def __init__(self, objects: Objects, multiparts: Multiparts, changing: Changing, part: int = MOST_COPIED) -> None:
        self._objects = objects
        self._multiparts = multiparts
        self._changing = changing
        self._part = part

    def copy(self, source: str, target: str, found: Found, free: bool) -> JobSteps[str]:
        """Copy an object with its time of modification. Return the ETag of the copy when the store shows it.

        `free`: nothing may have the new key. Raises Exists if something has, ObjectChanged if the object was replaced
        meanwhile, and FileNotFoundError if it was deleted.
        """
        if found.size <= self._part:
            etag = self._at_once(source, target, found, free)
        else:
            etag = yield from self._in_parts(source, target, found, free)
        copy = self._objects.head(target)
        if copy is None or copy.size != found.size or copy.etag != etag:
            raise Refusal(451, "The object store does not confirm the copy: the old name stays.")
        return etag

    def _require_free(self, target: str) -> None:
        if self._objects.head(target) is not None:
            raise Exists(target)

    def _at_once(self, source: str, target: str, found: Found, free: bool) -> str:
        with self._changing(target):
            if free:
                self._require_free(target)
            try:
                return self._objects.copy(source, target, found, free)
            except (ObjectChanged, StoreFailed) as error:
                there = self._objects.head(target)
                # If the answer is lost, the store may have made the copy, so that the next attempt fails.
                is_lost = isinstance(error, StoreFailed) or error.was_repeated
                if free and is_lost and there is not None and is_copy(there, found):
                    return there.etag
                if free and there is not None and isinstance(error, ObjectChanged):
                    raise Exists(target) from None
                raise

    def _in_parts(self, source: str, target: str, found: Found, free: bool) -> JobSteps[str]:
        identity = self._multiparts.begin(target, self._objects.labels(source, found))
        try:
            self._multiparts.put(target, identity, COPY_MARKER, b"")  # the sweeper finds what a crash leaves
            parts, bounds = [], ranges(found.size, self._part)
            for position, (first, last) in enumerate(bounds, start=1):
                number = position if position < len(bounds) else COPY_MARKER
                etag = self._multiparts.copy(target, identity, number, source, found, first, last)
                parts.append((number, etag))
                yield
            with self._changing(target):
                if free:
                    self._require_free(target)
                return self._complete(target, identity, parts, found.size, free)
        except BaseException:
            with suppress(Refusal, OSError):
                self._multiparts.abort(target, identity)
            raise

    def _complete(self, target: str, identity: str, parts: list[tuple[int, str]], size: int, free: bool) -> str:
        """Let the copy have its key. If the answer is lost, the store may have done that."""
        try:
            try:
                return self._multiparts.complete(target, identity, parts, None if free else "")
            except ObjectChanged:
                if self._objects.head(target) is not None:
                    raise
                return self._multiparts.complete(target, identity, parts, "")  # see `publishing.publish`
        except (ObjectChanged, UploadGone, StoreFailed) as error:
            there, expected = self._objects.head(target), etag_of_parts([etag for _, etag in parts])
            if there is not None and there.size == size and expected and there.etag.strip('"') == expected:
                return there.etag
            if isinstance(error, ObjectChanged) or (free and there is not None):  # Swift answers InvalidRequest
                raise Exists(target) from None
            raise


def is_copy(there: Found | None, found: Found) -> bool:
    """Return whether what a store shows can only be the copy of an object: it has its size and time, too."""
    return there is not None and (there.size, there.modified) == (found.size, found.modified)
