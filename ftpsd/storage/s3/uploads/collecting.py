"""The bytes of an upload that are in memory, until they are a part: `Collector`."""

from __future__ import annotations

import time

from ftpsd.protocol.replies import Refusal
from ftpsd.storage.s3.calls.memory import STEP
from ftpsd.storage.s3.calls.tasks import Backoff
from ftpsd.storage.s3.uploads.parts import Parts, Sending, part_size

#: Seconds for which an upload waits for memory.
_PATIENCE = 30.0


class Collector:
    """Collects the bytes of one upload, and sends each part when it is full and more bytes come.

    Used by one thread at a time.
    """

    def __init__(self, parts: Parts, sending: Sending, least: int) -> None:
        self.parts = parts
        self._sending = sending
        self._least = least
        self.buffer = bytearray()
        #: Bytes of the memory, for the buffer and for the next write: the rest of that begins another part.
        self._held = 0
        #: What the memory knows the part by.
        self._part = object()
        #: Where the next byte is in the file.
        self.position = 0
        self._backoff = Backoff()
        #: How many parts had ended at the last look.
        self._ended = 0
        self._waiting_since = 0.0

    @property
    def _room(self) -> int:
        """The bytes that still fit into the part."""
        size = part_size(self.parts.next_number, self._least, self._sending.memory.limit // 2)
        return size - len(self.buffer)

    def pending(self, complete: bool = False) -> float:
        """See `interfaces.Waiting`: the wait is for memory, or for parts that are on their way."""
        busy = self.parts.is_full()
        if complete:
            if self.parts.is_multipart and self.buffer and not busy:
                self._send(last=True)
            waits = self.parts.is_multipart and (self.parts.running > 0 or bool(self.buffer))
        elif busy and self._room < STEP:
            waits = True
        else:
            waits = not self._reserve(STEP)
            self._require_patience(waits)
        if waits:
            if self._ended != self.parts.number_ended or self.parts.progress.has_advanced():
                self._ended = self.parts.number_ended
                self._backoff.reset()
            return self._backoff.wait()
        self._backoff.reset()
        return 0.0

    def _require_patience(self, waits: bool) -> None:
        """Raise Refusal if the upload has waited for memory too long."""
        now = time.monotonic()
        if not waits or not self._waiting_since:
            self._waiting_since = now if waits else 0.0
        elif now - self._waiting_since > _PATIENCE:
            raise _no_memory()

    def _reserve(self, size: int) -> bool:
        """Take the memory for so many more bytes. Return whether there was enough."""
        missing = len(self.buffer) + size - self._held
        if missing > 0:
            if not self._sending.memory.take(self._sending.owner, missing, part=self._part):
                return False
            self._held += missing
        return True

    def write(self, data: bytes | memoryview) -> None:
        """Add bytes. Blocks if `pending` was not asked."""
        rest = memoryview(data)
        while rest:
            if not self._room:
                self.parts.wait(self._sending.parallel)
                self._send()
            piece = rest[: self._room]
            if not self._reserve(len(piece)):
                self._wait_for_memory(len(piece))
            self.buffer += piece
            self.position += len(piece)
            rest = rest[len(piece) :]

    def _wait_for_memory(self, size: int) -> None:
        missing = len(self.buffer) + size - self._held
        if not self._sending.memory.wait(self._sending.owner, missing, _PATIENCE, self._part):
            raise _no_memory()
        self._held += missing

    def start_with(self, data: bytes) -> None:
        """Begin with less than a part, for which memory is taken in any case: nothing may block now."""
        self._sending.memory.take(self._sending.owner, len(data), force=True)
        self._held += len(data)
        self.buffer += data
        self.position += len(data)

    def _send(self, last: bool = False) -> None:
        """Send the part that is collected, and begin the next one."""
        data, part, self.buffer, self._part = self.buffer, self._part, bytearray(), object()
        self._held -= len(data)
        self.parts.send(data, part, last)

    def finish(self) -> None:
        """Send all that is left, and wait until the store has all parts. Nothing is sent if there is no part yet."""
        if self.parts.is_multipart:
            self.parts.wait(self._sending.parallel)
            if self.buffer:
                self._send(last=True)
            self.parts.wait(1)

    def send_rest(self, least: int) -> None:
        """Send what is left if it is a full part, or has `least` bytes. The upload was cut.

        A smaller part would shift those that follow: the store may still have one of them from an earlier attempt, and
        Cloudflare R2 demands parts of one size.
        """
        if self.buffer and (not self._room or len(self.buffer) >= least) and self.parts.failed is None:
            self._send()

    def release(self) -> None:
        """Give the memory back."""
        held, self._held, self.buffer = self._held, 0, bytearray()
        self._sending.memory.give(self._sending.owner, held, self._part)


def _no_memory() -> Refusal:
    return Refusal(450, "Too many transfers with the object store: try again later.")
