"""The parts of an upload: how large they are, and how they are sent. Read `cut_uploads` for what is kept of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from threading import Condition, Lock
from time import monotonic

from ftpsd.config.sections.storage import MOST_PARTS
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.s3.calls.answers import Found, StoredPart
from ftpsd.storage.s3.calls.errors import UploadGone
from ftpsd.storage.s3.calls.memory import Memory
from ftpsd.storage.s3.calls.multiparts import Multiparts
from ftpsd.storage.s3.calls.progress import Progress
from ftpsd.storage.s3.calls.tasks import DEADLINE, Submit, not_answering

#: The part that shows that a multipart upload was begun by the daemon: it has the last number, and is empty at first.
#: The last part of the file is sent with this number, in place of it. So all parts belong to the object in the end,
#: as Ceph demands, and only the last one is small.
MARKER = MOST_PARTS

#: The same for the copy of an object, which nobody may resume: uploads never have a part with this number.
COPY_MARKER = MARKER - 1

#: After so many parts, the next ones are twice as large, up to the second number of bytes. So 10,000 parts suffice for
#: 5 TiB, and files below 4 GiB (of parts of 8 MiB) have parts of one size: Cloudflare R2 demands that of all files.
_PARTS_OF_ONE_SIZE, _LARGEST = 500, 1 << 30

#: The most bytes of an object that one part copies, unless that makes more parts than the second number: a copy must
#: end within the time after which a transfer counts as stalled.
MOST_COPIED, _MOST_COPIES = 512 << 20, 4000


def part_size(number: int, least: int, most: int) -> int:
    """Return the size of a part, by its number (from 1 on). `most` are the bytes that fit into the memory."""
    size = least << min((number - 1) // _PARTS_OF_ONE_SIZE, 40)
    return max(least, min(size, _LARGEST, most))


@dataclass
class Sending:
    """What the uploads of one session need to send parts."""

    multiparts: Multiparts
    memory: Memory
    submit: Submit
    #: The user, for whom memory is counted.
    owner: str
    #: How many parts are sent at a time.
    parallel: int


@dataclass
class Parts:
    """The parts of one upload that the store has, and those that are on their way.

    The multipart upload is begun with the first part. The methods may be called in any thread, and do not block unless
    they say so.
    """

    sending: Sending
    key: str
    #: The multipart upload; empty until it is begun.
    identity: str = ""
    #: The parts that the store has, by number.
    stored: dict[int, StoredPart] = field(default_factory=dict)
    running: int = 0
    #: How many parts have been sent or copied.
    number_ended: int = 0
    failed: BaseException | None = None
    #: Whether no more parts are to be sent.
    ended: bool = False
    #: Whether a part was refused since the object would have too many.
    is_too_large: bool = False
    progress: Progress = field(default_factory=Progress)
    _last: int = 0
    _changed: Condition = field(default_factory=Condition)
    #: Is called once when no part is on its way any more.
    _idle: Callable[[], object] | None = None
    _beginning: Lock = field(default_factory=Lock)
    #: Is called in a thread of the store with the identity of the multipart upload that was begun.
    begun: Callable[[str], object] = lambda _: None

    def continue_after(self, parts: list[StoredPart], strays: list[int]) -> None:
        """Continue an upload after the parts that the store has. Blocks.

        `strays` are the numbers of further parts, after a gap. The store keeps them, and once the gap is filled, they
        would look like the continuation of the file. So each is replaced by an empty part before anything is sent.
        """
        self.stored = {each.number: each for each in parts}
        self._last = len(parts)
        for number in strays:
            self.sending.multiparts.put(self.key, self.identity, number, b"")

    @property
    def next_number(self) -> int:
        """The number of the next part."""
        return self._last + 1

    @property
    def is_multipart(self) -> bool:
        """Whether there is a part, so that the file is not stored by one PUT."""
        return self._last > 0

    def is_full(self) -> bool:
        """Return whether as many parts are on their way as are sent at a time. Raises what one has failed with."""
        if self.failed is not None:
            raise self.failed
        return self.running >= self.sending.parallel

    def send(self, data: bytearray, part: object, last: bool = False) -> None:
        """Send a part, and give its memory back afterwards (see `Memory`). `last`: it is the last one of the file."""
        give = partial(self.sending.memory.give, self.sending.owner, len(data), part)
        self._submit(partial(self._put, data), len(data), give, last)

    def copy(self, source: str, old: Found, first: int, last: int) -> None:
        """Let the next part be a range of an object."""

        def copy(number: int) -> str:
            identity = self._begin()
            with self.progress.patiently():
                return self.sending.multiparts.copy(self.key, identity, number, source, old, first, last)

        self._submit(copy, last - first + 1, lambda: None)

    def _put(self, data: bytearray, number: int) -> str:
        return self.sending.multiparts.put(self.key, self._begin(), number, data, self.progress)

    def _submit(self, send: Callable[[int], str], size: int, give: Callable[[], None], last: bool = False) -> None:
        if not last:
            if self.next_number >= COPY_MARKER:
                self.is_too_large = True
                give()
                raise Refusal(552, "File too large for the object store: it has too many parts.")
            self._last += 1
        with self._changed:
            self.running += 1
        self.sending.submit(partial(self._run, send, MARKER if last else self._last, size, give))

    def _run(self, send: Callable[[int], str], number: int, size: int, give: Callable[[], None]) -> None:
        etag, error = "", None
        try:
            if not self.ended and self.failed is None:
                etag = send(number)
        except BaseException as caught:
            error = caught
        del send  # it has the bytes
        give()
        with self._changed:
            if etag:
                self.stored[number] = StoredPart(number, size, etag, 0.0)
            if error is not None and self.failed is None:
                self.failed = error
            self.running -= 1
            self.number_ended += 1
            self._changed.notify_all()
            idle = None if self.running else self._idle
        if idle is not None:
            idle()

    def _begin(self) -> str:
        """Return the multipart upload; the first call begins it. Blocks."""
        with self._beginning:
            if not self.identity:
                multiparts = self.sending.multiparts
                identity = multiparts.begin(self.key)
                if self.ended:  # the upload was closed meanwhile
                    multiparts.abort(self.key, identity)
                    raise UploadGone
                self.begun(identity)
                self.identity = identity
                self.mark()
            return self.identity

    def mark(self) -> None:
        """Send the marker. Blocks."""
        etag = self.sending.multiparts.put(self.key, self.identity, MARKER, b"")
        self.stored[MARKER] = StoredPart(MARKER, 0, etag, 0.0)

    def wait(self, below: int) -> None:
        """Wait until fewer than so many parts are on their way. Blocks. Raises what one has failed with."""
        limit = monotonic() + DEADLINE
        with self._changed:
            if not self._changed.wait_for(lambda: self.running < below, max(0.0, limit - monotonic())):
                raise not_answering()
        if self.failed is not None:
            raise self.failed

    def settle(self, seconds: float, drop: bool) -> None:
        """Wait for the parts that are on their way; `drop` those that nobody sends yet.

        Blocks for up to so many seconds. After that nothing is sent.
        """
        self.ended = drop
        with self._changed:
            self._changed.wait_for(lambda: not self.running, seconds)
        self.ended = True

    def when_idle(self, call: Callable[[], object]) -> None:
        """Make a call when no part is on its way any more: now, or in the thread of the last one. After `settle`."""
        with self._changed:
            if self.running:
                self._idle = call
                return
        call()

    def list_all(self) -> list[tuple[int, str]]:
        """Return number and ETag of all parts. Raises UploadGone if one is missing."""
        found = [self.stored.get(number) for number in (*range(1, self._last + 1), MARKER)]
        if any(each is None for each in found):
            raise UploadGone
        return [(each.number, each.etag) for each in found if each is not None]


def ranges(size: int, most: int = MOST_COPIED) -> list[tuple[int, int]]:
    """Return the ranges in which an object is copied, about equally large: each is as large as a part must be."""
    count = min(-(-size // most), _MOST_COPIES)
    bounds = [size * number // count for number in range(count + 1)]
    return [(first, last - 1) for first, last in itertools.pairwise(bounds)]


def in_order(stored: dict[int, StoredPart]) -> list[StoredPart]:
    """Return parts from the first one on, up to the first gap or empty one (see `Parts.continue_after`)."""
    found = list[StoredPart]()
    while (each := stored.get(len(found) + 1)) is not None and each.size:
        found.append(each)
    return found
