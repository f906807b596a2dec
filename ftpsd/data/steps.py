"""The steps of a download, an upload and a checksum."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ftpsd.data.endpoints import PIECE, SMALL, FileSource, Steps, Stream, settled
from ftpsd.protocol.checksums import Checksum
from ftpsd.protocol.encoding.ascii import FromNetwork, ToNetwork
from ftpsd.protocol.interfaces import Reader, Source, Upload
from ftpsd.protocol.replies import MixedUp, Refusal
from ftpsd.system.jobs.job_lock import Busy, again

T = TypeVar("T")


def download(stream: Stream, text: bool, source: Source) -> Steps[int]:
    """Send a source to its end, and return the bytes sent. Ends when the peer's TCP has all, close_notify included."""
    yield from stream.open()
    if isinstance(source, FileSource) and not text:
        yield from stream.send_file(source)
    else:
        yield from _each_piece(source, stream.send, ToNetwork().convert if text else None, _nothing)
    yield from stream.finish_sending()
    return stream.moved


def upload(stream: Stream, text: bool, target: Upload) -> Steps[int]:
    """Receive into a target, publish it when the peer has ended the stream properly, and return the bytes received."""
    try:
        yield from stream.open()
        converter = FromNetwork() if text else None
        buffer = memoryview(bytearray(SMALL))
        yield from _copy(stream, target, complete=False)
        while count := (yield from stream.receive(buffer)):
            piece = buffer[:count]
            if target.pending():
                yield from settled(target)
            target.write(converter.convert(bytes(piece)) if converter else piece)
            if count == len(buffer) < 2 * PIECE:  # not from the start: fresh memory costs more than a small file
                buffer = memoryview(bytearray(2 * PIECE))
            yield None
        if converter:
            target.write(converter.end())
        yield from _copy(stream, target, complete=True)
        yield from settled(target, complete=True)
        try:
            target.publish()
        except Busy as busy:
            yield from again(busy.lock, target.publish)
        try:
            yield from stream.finish_receiving()
        except Refusal:
            pass  # the upload is published: an abort or a deadline comes too late
        return stream.moved
    except BaseException as error:
        # They may be those of another file. A step that the cut interrupts raises an error of its own.
        if stream.is_mixed_up or isinstance(error, MixedUp):
            target.discard_written()
        raise


def _copy(stream: Stream, target: Upload, complete: bool) -> Steps[None]:
    """Copy the old bytes that an upload starts with. They are charged like received bytes: the disk works as much."""
    while target.must_copy(complete):
        size = yield from stream.allowance()
        stream.charge(target.copy(size))
        yield None


def checksum(source: Reader, digest: Checksum) -> Steps[tuple[int, int]]:
    """Read a source into a digest, unless its storage knows the checksum.

    Return the offsets in the file at which the bytes start and end. If there were no bytes, the second number is the
    size of the file.
    """
    start = source.offset
    digest.known = source.known_checksum
    # Returned, not `yield from`, which would be one more call in each step.
    return _each_piece(
        source, digest.update, None, lambda: (start, source.offset if source.offset > start else source.size)
    )


def _each_piece(
    source: Source,
    use: Callable[[bytes | memoryview], Steps[None] | None],
    convert: Callable[[bytes], bytes] | None,
    result: Callable[[], T],
) -> Steps[T]:
    """Pass each piece of a source, converted, to `use`. Take the steps that it returns, if any. Return the result."""
    pieces = iter(source)
    while True:
        if source.pending():
            yield from settled(source)
        piece = next(pieces, None)
        if piece is None:
            return result()
        if piece:  # a listing yields empty ones, too, where others may have the thread
            steps = use(piece if convert is None else convert(bytes(piece)))
            if steps is not None:
                yield from steps
        yield None


def _nothing() -> None:
    """Return no result."""
