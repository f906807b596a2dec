"""The steps of a download, an upload and a checksum."""

from __future__ import annotations

from ftpsd.data.endpoints import PIECE, SMALL, FileSource, Steps, Stream, settled
from ftpsd.protocol.ascii import FromNetwork, ToNetwork
from ftpsd.protocol.checksums import Digest
from ftpsd.protocol.interfaces import Reader, Source, Upload
from ftpsd.protocol.replies import Refusal
from ftpsd.system.jobs.job_lock import Busy, again


def download(stream: Stream, source: Source, text: bool) -> Steps[int]:
    """Send a source to its end, and return the bytes sent. Ends when the peer's TCP has all, close_notify included."""
    yield from stream.open()
    if isinstance(source, FileSource) and not text:
        yield from stream.send_file(source)
    else:
        converter = ToNetwork() if text else None
        pieces = iter(source)
        while True:
            if source.pending():
                yield from settled(source)
            piece = next(pieces, None)
            if piece is None:
                break
            if piece:  # a listing yields empty ones, too, where others may have the thread
                yield from stream.send(converter.convert(bytes(piece)) if converter else piece)
            yield None
    yield from stream.finish_sending()
    return stream.moved


def upload(stream: Stream, target: Upload, text: bool) -> Steps[int]:
    """Receive into a target, publish it when the peer has ended the stream properly, and return the bytes received."""
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


def _copy(stream: Stream, target: Upload, complete: bool) -> Steps[None]:
    """Copy the old bytes that an upload starts with. They are charged like received bytes: the disk works as much."""
    while target.must_copy(complete):
        size = yield from stream.allowance()
        stream.charge(target.copy(size))
        yield None


def checksum(source: Reader, digest: Digest) -> Steps[tuple[int, int]]:
    """Read a source into a digest. Return the offsets in the file at which the bytes start and end.

    If there were no bytes, the second number is the size of the file.
    """
    start = source.offset
    pieces = iter(source)
    while True:
        if source.pending():
            yield from settled(source)
        piece = next(pieces, None)
        if piece is None:
            break
        digest.update(piece)
        yield None
    return start, source.offset if source.offset > start else source.size
