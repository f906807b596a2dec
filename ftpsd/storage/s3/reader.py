"""A download from a store: ranges of the object are fetched ahead of the client, in bounded memory.

Each request names the ETag that the object had when it was opened, so an object that is replaced meanwhile ends the
download and is never mixed. A request that breaks is made again for the bytes that are missing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from threading import Condition

from ftpsd.protocol.replies import Refusal
from ftpsd.storage.s3.calls.answers import Body, Found
from ftpsd.storage.s3.calls.client import Objects, read_some
from ftpsd.storage.s3.calls.errors import ObjectChanged, StoreFailed
from ftpsd.storage.s3.calls.tasks import DEADLINE, Backoff, not_answering
from ftpsd.storage.s3.uploads.parts import Sending

#: Bytes that are read from the connection at a time.
_PIECE = 256 * 1024

#: How often a range is requested again without any byte coming, and the seconds before the first time.
_ATTEMPTS, _PAUSE = 4, 0.2


class Range:
    """A range of the object that is being fetched. The lock of the reader guards it."""

    def __init__(self, first: int, last: int, held: int) -> None:
        self.first = first
        self.last = last
        self.held = held
        self.pieces: deque[bytes] = deque()
        self.received = 0

    @property
    def size(self) -> int:
        """The bytes of the range."""
        return self.last - self.first + 1


class S3Reader:
    """A file or a part of one, open for reading. `pending` and the iterator are for one thread at a time."""

    def __init__(
        self,
        objects: Objects,
        sending: Sending,
        key: str,
        found: Found,
        bounds: tuple[int, int],
        size: int,
        body: Body | None = None,
    ) -> None:
        """`bounds` are the first byte and the one after the last, `size` is that of a range.

        `body` has the bytes of the first range, and maybe more.
        """
        self.offset, self._end = bounds
        self._first = self.offset
        self.size = found.size
        self.known_checksum = found.checksum
        self._objects = objects
        self._sending = sending
        self._key = key
        self._found = found
        self._range_size = size
        self._requested = self.offset
        #: How many ranges are fetched at a time: more while the client is faster than the store.
        self._ahead = 1
        self._ranges: deque[Range] = deque()
        self._changed = Condition()
        self._failed: BaseException | None = None
        self._closed = False
        self._body = body
        self._backoff = Backoff()

    # --- for the transfer ----------------------------------------------------------------------------

    def pending(self, complete: bool = False) -> float:
        """See `interfaces.Waiting`."""
        if self.known_checksum:
            return 0.0  # nobody reads it
        self._request()
        if self.offset >= self._end or (self._ranges and self._ranges[0].pieces):
            self._backoff.reset()
            return 0.0
        if self._failed is not None:
            raise self._failed
        self._ahead = min(self._ahead + 1, self._sending.parallel)
        return self._backoff.wait()

    def __iter__(self) -> Iterator[bytes]:
        while self.offset < self._end and not self.known_checksum:
            self._request()
            piece = self._take()
            self.offset += len(piece)
            yield piece

    def _take(self) -> bytes:
        """Return the next piece. Blocks if `pending` was not asked."""
        with self._changed:
            first = self._ranges[0]
            if not self._changed.wait_for(lambda: first.pieces or self._failed, DEADLINE):
                raise not_answering()
            if not first.pieces:
                assert self._failed is not None
                raise self._failed
            piece = first.pieces.popleft()
            if self.offset + len(piece) > first.last:
                self._ranges.popleft()
                self._sending.memory.give(self._sending.owner, first.held)
            return piece

    def _request(self) -> None:
        """Request the next ranges, as far as there is memory. The next one is requested in any case, but smaller."""
        memory, owner = self._sending.memory, self._sending.owner
        while self._requested < self._end and len(self._ranges) < self._ahead and not self._closed:
            size = min(self._range_size, self._end - self._requested)
            if not memory.take(owner, size):
                if self._ranges:
                    return
                size = min(size, _PIECE)
                memory.take(owner, size, force=True)
            found = Range(self._requested, self._requested + size - 1, size)
            self._requested += size
            with self._changed:
                self._ranges.append(found)
            self._sending.submit(lambda found=found: self._fetch(found))  # type: ignore[misc]

    def close(self) -> None:
        """Fetch nothing more. What arrives is dropped. May be called any number of times."""
        with self._changed:
            self._closed = True
            held = sum(each.held for each in self._ranges)
            self._ranges.clear()
            body, self._body = self._body, None
        if body is not None:
            body.close()
        self._sending.memory.give(self._sending.owner, held)

    # --- in threads of the store -----------------------------------------------------------------------

    def _fetch(self, wanted: Range) -> None:
        failures = 0
        while wanted.received < wanted.size and not self._closed and self._failed is None:
            before = wanted.received
            try:
                self._fetch_rest(wanted)
            except StoreFailed as error:
                failures = 1 if wanted.received > before else failures + 1
                if failures > _ATTEMPTS:
                    self._fail(error)
                else:
                    time.sleep(_PAUSE * 2 ** (failures - 1))
            except (ObjectChanged, FileNotFoundError):
                self._fail(Refusal(426, "The file was replaced while it was read: start again."))
            except BaseException as error:
                self._fail(error)

    def _fetch_rest(self, wanted: Range) -> None:
        body = self._take_body(wanted) or self._objects.get(
            self._key, wanted.first + wanted.received, wanted.last, self._found.etag
        )
        try:
            while wanted.received < wanted.size and not self._closed:
                piece = read_some(body, min(_PIECE, wanted.size - wanted.received))
                with self._changed:
                    wanted.received += len(piece)
                    if not self._closed:
                        wanted.pieces.append(piece)
                    self._changed.notify_all()
        finally:
            body.close()

    def _take_body(self, wanted: Range) -> Body | None:
        """Return the body that the file was opened with, if it begins with this range and nobody has taken it."""
        if wanted.first != self._first or self._body is None:
            return None
        with self._changed:
            body, self._body = self._body, None
        return body

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            if self._failed is None:
                self._failed = error
            self._changed.notify_all()
