"""Calls in the threads of a store, for which a transfer waits in steps: `Task`, and what is opened by one.

A transfer has a worker thread of the daemon, which it gives back while it waits (see `interfaces.Waiting`). So a store
that is slow, or does not answer, takes no thread from users whose files are on a disk.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

from ftpsd.protocol.interfaces import Opening, Reader, Source, Upload
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.s3.calls.progress import Progress

T = TypeVar("T")

#: Runs a job in a thread of the store.
Submit = Callable[[Callable[[], object]], object]

#: Seconds between two looks whether something has come: at first, and at most.
_FIRST, _MOST = 0.002, 0.02

#: Seconds after which a caller that blocks gives up.
DEADLINE = 120.0

#: Seconds for which the next command waits until an upload that was cut is closed.
CLOSING = 10.0


class Backoff:
    """How long to wait before the next look: each time longer, until something has come."""

    def __init__(self) -> None:
        self._next = _FIRST

    def wait(self) -> float:
        """Return the seconds to wait."""
        found, self._next = self._next, min(_MOST, self._next * 1.5)
        return found

    def reset(self) -> None:
        """Something has come."""
        self._next = _FIRST


class Closable(Protocol):
    """Something that has to be closed."""

    def close(self) -> None:
        """Free what is open."""


class Task(Generic[T]):
    """One call in a thread of the store. What it opens is closed if nobody wants it any more."""

    def __init__(self, submit: Submit, function: Callable[[], T]) -> None:
        self._function = function
        self._ended = threading.Event()
        self._results: list[T] = []
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._dropped = False
        self._following: Callable[[], object] | None = None
        self._backoff = Backoff()
        submit(self._run)

    def _run(self) -> None:
        if not self._dropped:
            try:
                self._results.append(self._function())
            except BaseException as error:
                self._error = error
        with self._lock:
            self._ended.set()
            dropped, following = self._dropped, self._following
        if dropped:
            self._close()
        if following is not None:
            following()

    @property
    def is_running(self) -> bool:
        """Whether the call waits for a thread, or runs."""
        return not self._ended.is_set()

    def advance(self) -> None:
        """Note that the call goes on: `pending` shows progress."""
        self._backoff.reset()

    def pending(self) -> float:
        """Return the seconds to wait for the end of the call. Raises what it has raised."""
        if not self._ended.is_set():
            return self._backoff.wait()
        if self._error is not None:
            raise self._error
        return 0.0

    def result(self) -> T:
        """Return what the call has returned, or raise what it has raised. Blocks until it ends."""
        if not self._ended.wait(DEADLINE):
            raise not_answering()
        if self._error is not None:
            raise self._error
        return self._results[0]

    def follow(self, call: Callable[[], object]) -> bool:
        """Make another call in the same thread when this one ends. Return False if it has ended."""
        with self._lock:
            if self._ended.is_set():
                return False
            self._following = call
            return True

    def drop(self) -> None:
        """Close what the call has opened or will open. Does not block for the call."""
        with self._lock:
            self._dropped = True
            ended = self._ended.is_set()
        if ended:
            self._close()

    def _close(self) -> None:
        for each in self._results:
            close = getattr(each, "close", None)
            if close is not None:
                close()


def not_answering() -> Refusal:
    """Return the refusal for a store that takes too long."""
    return Refusal(451, "Storage not responding: try again later.")


class Closing:
    """The keys of uploads that are being closed in threads of the store: their next command waits for that."""

    def __init__(self) -> None:
        self._ended = threading.Condition()
        self._keys: Counter[str] = Counter()

    def begin(self, key: str) -> None:
        """Note that the closing of an upload begins."""
        with self._ended:
            self._keys[key] += 1

    def end(self, key: str) -> None:
        """Note that it has ended."""
        with self._ended:
            self._keys[key] -= 1
            if not self._keys[key]:
                del self._keys[key]
                self._ended.notify_all()

    def wait(self, key: str) -> None:
        """Wait until no upload of this key is being closed, for a few seconds at most."""
        if key in self._keys:
            with self._ended:
                self._ended.wait_for(lambda: key not in self._keys, CLOSING)


class RemoteReader:
    """A file for reading that a thread of the store opens."""

    def __init__(self, submit: Submit, opening: Opening[Reader]) -> None:
        self._opened = Task(submit, opening)
        #: Whether it was reported that the file is open.
        self._reported = False

    @property
    def offset(self) -> int:
        """The position in the file of the byte that is read next."""
        return self._opened.result().offset

    @property
    def size(self) -> int:
        """The size of the file when it was opened."""
        return self._opened.result().size

    @property
    def known_checksum(self) -> str:
        """The checksum of the file, if it was wanted and the store has it."""
        return self._opened.result().known_checksum

    def pending(self, complete: bool = False) -> float:
        """See `interfaces.Waiting`. Once it returns 0 when the file is open: then the client gets its 150."""
        seconds = self._opened.pending()
        if seconds:
            return seconds
        seconds = self._opened.result().pending(complete)
        if self._reported:
            return seconds
        self._reported = True
        return 0.0

    def __iter__(self) -> Iterator[bytes | memoryview]:
        return iter(self._opened.result())

    def close(self) -> None:
        """Free what is open. May be called any number of times."""
        self._opened.drop()


class RemoteListing:
    """A listing that is made in threads of the store, one chunk ahead of the transfer."""

    def __init__(self, submit: Submit, opening: Opening[Source]) -> None:
        self._submit = submit
        self._opening = opening
        self._source: Source | None = None
        self._chunks: Iterator[bytes | memoryview] = iter(())
        self._closed = False
        self._next: Task[bytes | memoryview | None] = Task(submit, self._open)

    def _open(self) -> bytes | memoryview | None:
        self._source = self._opening()
        self._chunks = iter(self._source)
        return self._take()

    def _take(self) -> bytes | memoryview | None:
        found = next(self._chunks, None)
        if self._closed and self._source is not None:
            self._source.close()
        return found

    def pending(self, complete: bool = False) -> float:
        """See `interfaces.Waiting`."""
        return self._next.pending()

    def __iter__(self) -> Iterator[bytes | memoryview]:
        while (chunk := self._next.result()) is not None:
            self._next = Task(self._submit, self._take)
            yield chunk

    def close(self) -> None:
        """End the listing. A page that is on its way is dropped. May be called any number of times."""
        self._closed = True
        if not self._next.is_running and self._source is not None:
            self._source.close()


class RemoteUpload:
    """An upload that threads of the store open, publish and close. The transfer itself writes to it."""

    def __init__(
        self, submit: Submit, opening: Opening[Upload], closing: Closing, key: str, progress: Progress | None = None
    ) -> None:
        self._progress = progress or Progress()
        self._submit = submit
        self._closing = closing
        self._key = key
        self._opened = Task(submit, opening)
        self._published: Task[None] | None = None
        self._closed = False
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The name that the file gets."""
        return self._opened.result().name

    def must_copy(self, complete: bool) -> bool:
        """Return whether `copy` is to be called now."""
        return self._opened.result().must_copy(complete)

    def copy(self, at_most: int) -> int:
        """Copy a step of the old file."""
        return self._opened.result().copy(at_most)

    def pending(self, complete: bool = False) -> float:
        """See `interfaces.Waiting`. When all parts have been sent, a thread of the store publishes the file."""
        seconds = self._opened.pending()
        if seconds:
            return seconds
        upload = self._opened.result()
        seconds = upload.pending(complete)
        if seconds or not complete:
            return seconds
        publication = self._publication()
        if self._progress.has_advanced():
            publication.advance()
        return publication.pending()

    def _publication(self) -> Task[None]:
        """Return the call that publishes the file; it is made once. Raises Refusal if the upload is closed."""
        with self._lock:
            if self._published is None:
                if self._closed:
                    raise Refusal(426, "The upload has ended.")
                self._published = Task(self._submit, self._opened.result().publish)
            return self._published

    def write(self, data: bytes | memoryview) -> None:
        """Write the next bytes."""
        self._opened.result().write(data)

    def discard_written(self) -> None:
        """Keep nothing for resuming, unless nothing was written."""
        self._opened.result().discard_written()

    def publish(self) -> None:
        """Give the complete file its name."""
        self._publication().result()

    def close(self) -> None:
        """End the upload, after its publication if that runs. Does not block. May be called any number of times."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            published = self._published
        self._closing.begin(self._key)
        if published is None or not published.follow(self._close):
            self._submit(self._close)

    def _close(self) -> None:
        try:
            self._opened.drop()
        finally:
            self._closing.end(self._key)
