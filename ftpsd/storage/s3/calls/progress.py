"""What the requests of one upload achieve while they run: `Progress`, and `Outgoing`, the body of a request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from time import monotonic

#: Seconds that one request may take although nothing is sent: a store needs minutes to put thousands of parts together.
PATIENT = 300.0

#: Seconds between two looks at which a request of that kind counts as progress.
_SOMETIMES = 1.0

#: Bytes that are sent at a time: the first number, then twice as many as before, up to the second number, while the
#: connection takes them within so many seconds. Each piece that it takes is progress.
_PIECE, _LARGEST, _SOON = 64 * 1024, 1024 * 1024, 0.05


class Progress:
    """Tells whether the requests of an upload make progress: a transfer without progress is ended. For any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._count = self._seen = 0
        #: How many requests may take long, and until when.
        self._slow = 0
        self._until = self._looked = 0.0

    def advance(self) -> None:
        """Note that bytes have gone out."""
        self._count += 1

    @contextmanager
    def patiently(self) -> Iterator[None]:
        """Let a request take long: it counts as progress for up to PATIENT seconds."""
        with self._lock:
            self._slow += 1
            self._until = monotonic() + PATIENT
        try:
            yield
        finally:
            with self._lock:
                self._slow -= 1

    def has_advanced(self) -> bool:
        """Return whether there was progress since the last look."""
        count, now = self._count, monotonic()
        if count != self._seen:
            self._seen = count
            return True
        if self._slow and now < self._until and now - self._looked >= _SOMETIMES:
            self._looked = now
            return True
        return False


class Outgoing:
    """The bytes of a request, which boto3 reads as a file: to sign them, to send them, and to send them again.

    Bytes count as progress when they are sent for the first time, so that a request that is repeated for a store that
    does not answer is none.
    """

    def __init__(self, data: bytes | bytearray, progress: Progress) -> None:
        self._data = memoryview(data)
        self._progress = progress
        self._at = self._sent = 0
        self._sending = False
        #: The size of the last piece that was sent, and when that began.
        self._piece, self._began = 0, 0.0

    def begin_sending(self) -> None:
        """Note that what is read from now on is sent."""
        self._sending, self._piece = True, 0

    def read(self, size: int | None = -1) -> memoryview:
        """Return the next bytes, maybe more than `size`: the connection has sent those before.

        All of them at once if they are only signed.
        """
        end: int | None = None
        if self._sending:
            if self._at > self._sent:
                self._sent = self._at
                self._progress.advance()
            if size is not None and size >= 0:
                end = self._at + max(size, self._next_piece())
        found = self._data[self._at : end]
        self._at += len(found)
        return found

    def _next_piece(self) -> int:
        now = monotonic()
        self._piece = min(2 * self._piece, _LARGEST) if self._piece and now - self._began < _SOON else _PIECE
        self._began = now
        return self._piece

    def seek(self, offset: int, whence: int = 0) -> int:
        """Read again from another place."""
        self._at = (0, self._at, len(self._data))[whence] + offset
        self._sending = False
        return self._at

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._at
