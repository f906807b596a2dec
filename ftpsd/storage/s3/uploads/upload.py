"""An upload to a store: all or nothing. Until it is complete, the old object has the key and can be read.

The bytes are collected in memory (`collecting`). A file of one part is stored by one PUT when it is complete; a larger
one is a multipart upload, of which parts are sent while the client sends the next ones. Nothing is written to a local
disk. Read `../../upload_start.py` and `../../upload_end.py` first.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable
from dataclasses import dataclass
from threading import RLock

from ftpsd.limits.home_counts import Amount
from ftpsd.outbox.claims import Evidence, UploadClaim
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.s3.calls.client import Objects, read_some
from ftpsd.storage.s3.calls.progress import Progress
from ftpsd.storage.s3.uploads.collecting import Collector
from ftpsd.storage.s3.uploads.cut_uploads import CutUpload, CutUploads
from ftpsd.storage.s3.uploads.evidence import published
from ftpsd.storage.s3.uploads.parts import MARKER, Parts, Sending, in_order, ranges
from ftpsd.storage.s3.uploads.publishing import Conflict, Target, expected_etag, publish
from ftpsd.storage.upload_end import Outcome, PartState, choose_end
from ftpsd.storage.upload_start import APPENDED, RESUMABLE, OldFile, choose_start

#: Seconds for which an upload that was cut waits for the parts that are on their way.
_CLOSING = 5.0

#: Measures what keys hold (see `backend.Measure`).
MeasureKeys = Callable[[tuple[str, ...], Container[Hashable]], Amount]


@dataclass(frozen=True, slots=True)
class UploadTools:
    """What the uploads of one session use."""

    #: The name of the store.
    store: str
    objects: Objects
    cut: CutUploads
    sending: Sending
    measure: MeasureKeys
    #: The bytes of a part at first, and the fewest that the store takes for one that is not the last.
    part_size: int
    least_part: int
    #: A part that is not full is kept if it has so many bytes.
    least_kept: int


class S3Upload:
    """One file that is being received. Written to by one thread at a time; `publish` and `close` may block."""

    def __init__(self, tools: UploadTools, target: Target, progress: Progress) -> None:
        self.name = target.name
        self._tools = tools
        self._target = target
        #: Whether no other upload of this process to this name ran when it began.
        self.is_first = tools.cut.running.enter(target.key, self)
        #: What all processes know it by (see `Running`).
        self.charge = tools.cut.running.new_charge(target.key)
        self.parts = Parts(tools.sending, target.key, progress=progress)
        self.parts.begun = lambda identity: tools.cut.running.claim(identity, self.charge)
        self.collector = Collector(self.parts, tools.sending, tools.part_size)
        self.write = self.collector.write
        self.pending = self.collector.pending
        #: Where the first byte is in the file.
        self._start = 0
        #: Whether it starts with bytes of the old object, or with parts of an upload that was cut.
        self._copied = self._continued = False
        self._outcome = Outcome.CUT
        self._published = self._closed = self._left = False
        #: The bytes that are kept for resuming, after `close`.
        self._kept = 0
        self._lock = RLock()

    # --- where it starts -----------------------------------------------------------------------------

    def start_with_old(self, size: int) -> None:
        """Start with so many bytes of the old object. Blocks for less than a part."""
        key, old, tools = self._target.key, self._target.old, self._tools
        assert old is not None
        self._copied = True
        if size >= tools.least_part:
            for first, last in ranges(size):
                self.parts.copy(key, old, first, last)
            self.collector.position = size
        elif size:
            body = tools.objects.get(key, 0, size - 1, old.etag)
            try:
                while left := size - self.collector.position:  # the body may have more
                    self.collector.start_with(read_some(body, min(1 << 20, left)))
            finally:
                body.close()
        self._start = size

    def continue_with(self, cut: CutUpload, size: int) -> None:
        """Start with the parts of an upload that was cut, up to `size`. Raises Refusal if that is within a part."""
        parts, end = [], 0
        for each in cut.parts:
            if end < size:
                parts.append(each)
                end += each.size
        if end != size:
            raise Refusal(554, f"Cannot resume there: send REST {cut.size}, where a part ends.")
        self._continued = True
        self._tools.cut.running.claim(cut.identity, self.charge)
        self.parts.identity = cut.identity
        self.parts.continue_after(parts, [*(each.number for each in cut.parts[len(parts) :]), *cut.strays])
        self.parts.stored[MARKER] = cut.marker
        if cut.marker.size:  # the last part of an upload that was complete, but could not be published
            self.parts.mark()
        self.collector.position = self._start = size

    # --- receiving -----------------------------------------------------------------------------------

    def must_copy(self, complete: bool) -> bool:
        """Return False: the store copies."""
        return False

    def copy(self, at_most: int) -> int:
        """Copy nothing."""
        return 0

    # --- ending ------------------------------------------------------------------------------------

    def publish(self) -> None:
        """Give the complete file its name."""
        with self._lock:
            self.flush()
            self.take_name()

    def flush(self) -> None:
        """Send all parts. May take long. Raises Refusal if the upload is closed."""
        with self._lock:
            _require(not self._closed)
            self.collector.finish()

    def take_name(self) -> bool:
        """Let the object have its key (see `backend.Upload`). Ends when the store shows it.

        Raises Refusal if the key belongs to an object that must not be replaced, or if the upload is closed.
        """
        with self._lock:
            _require(not self._closed)
            try:
                publish(self._tools.objects, self._tools.sending.multiparts, self._target, self.collector, self._copied)
            except Conflict as conflict:
                self._outcome = Outcome.WORTHLESS
                raise conflict.refusal from None
            self._published = True
        _remove_others(self._tools.cut, self._target.key)
        return True

    def settle(self) -> None:
        """Nothing is left to do."""

    # --- for a durable event (see `claimed_upload`) ----------------------------------------------------

    def evidence(self, claim: UploadClaim) -> Evidence:
        """Return what tells after a crash whether the upload was published. Called between `flush` and `take_name`."""
        target, collected = self._target, self.collector
        etag = expected_etag(collected)
        proof = published(self._tools.store, target.key, etag, collected.position, target.old, self.parts.identity)
        return Evidence(proof, collected.position - self._start, collected.position)

    def leave(self) -> None:
        """Keep the parts when the upload ends, since it is not known yet whether it has failed."""
        self._left = True

    # --- for a quota (see `backend.Upload`) ----------------------------------------------------------

    def initial_amount(self) -> Amount:
        """Return the bytes that the upload starts with, and one file if its name is new."""
        return Amount(self._start, 0 if self._target.old is not None else 1)

    def open_part_file(self) -> S3PartFile:
        """Return a handle of what is received."""
        return S3PartFile(self)

    def discard_written(self) -> None:
        """Keep nothing for resuming, unless nothing was written."""
        if self.collector.position > self._start:
            self._outcome = Outcome.WORTHLESS

    def replaces(self) -> bool:
        """Return whether something has the name now."""
        return self._tools.objects.head(self._target.key) is not None

    def measure(self, charged: Container[Hashable]) -> Amount:
        """Return what the key and its open uploads hold now."""
        return self._tools.measure((self._target.key,), charged)

    def amount(self) -> Amount:
        """Return what the store holds of it, after the end."""
        size = self.collector.position if self._published else self._kept
        return Amount(size, 1 if self._published or size else 0)

    # --- the end -----------------------------------------------------------------------------------

    def close(self) -> None:
        """End the upload. Unless it was published, keep the parts for resuming, if they are worth that."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                if not (self._published or self._left):
                    self._keep()
            except Refusal:
                pass  # the store does not respond, which is logged: what it has can be resumed, or is swept
            finally:
                self.collector.release()
                # A part that comes late must not meet the next attempt: nobody resumes until then.
                self.parts.when_idle(lambda: self._tools.cut.running.end(self._target.key, self.parts.identity, self))

    def _keep(self) -> None:
        """Keep the multipart upload or remove it, as `choose_end` says."""
        if self.parts.is_too_large:
            self._outcome = Outcome.WORTHLESS
        parts, worth, append = self.parts, self._outcome is Outcome.CUT, self._target.append
        if worth:
            self.collector.send_rest(self._tools.least_kept)
        parts.settle(_CLOSING, drop=not worth)
        size = sum(each.size for each in in_order(parts.stored))
        self._kept = size if worth else 0  # if the store does not tell more
        state = PartState(
            size=size,
            append=append,
            continued=self._continued,
            repeatable=self._copied and (append or self.collector.position <= self._start),
            outdated=bool(size) and worth and self._is_another(),
        )
        wanted = choose_end(self._outcome, state) not in (None, APPENDED)
        if wanted and _is_to_be_resumed(self._tools.cut, self._target.key, parts.identity, self.is_first):
            self._kept = size if self._tools.cut.is_open(self._target.key, parts.identity) else 0
        else:
            if parts.identity:
                self._tools.cut.abort(self._target.key, parts.identity)
            self._kept = 0

    def _is_another(self) -> bool:
        """Return whether another object has got the key since the upload began."""
        now, old = self._tools.objects.head(self._target.key), self._target.old
        return now is not None and (old is None or now.etag != old.etag)


class S3PartFile:
    """A handle of what an upload has received."""

    def __init__(self, upload: S3Upload) -> None:
        self.identity = upload.charge
        #: Nothing: the number is new.
        self.held = Amount()
        #: Return what the store holds of it now.
        self.amount = upload.amount

    def close(self) -> None:
        """Nothing is open."""


def begin_upload(tools: UploadTools, target: Target, offset: int, progress: Progress) -> S3Upload:
    """Find where the upload starts, and return it. `offset` is the restart offset. Blocks. Raises Refusal."""
    upload = S3Upload(tools, target, progress)
    try:
        if (target.append or offset) and not upload.is_first:
            raise Refusal(450, "Another upload to this name is running: try again later.")
        cut = tools.cut.find(target.key) if upload.is_first else None
        _start(upload, tools, target, offset, cut)
    except BaseException:
        upload.close()
        raise
    return upload


def _start(upload: S3Upload, tools: UploadTools, target: Target, offset: int, cut: CutUpload | None) -> None:
    old = None if target.old is None else OldFile(target.old.size, True)
    start = choose_start(0 if cut is None else cut.size, RESUMABLE, old, offset, target.append)
    if start.copied is not None:
        if target.replaces == "nothing":
            raise Refusal(450, "File busy: try again later.")
        upload.start_with_old(start.copied)
    elif cut is not None and start.part_size:
        upload.continue_with(cut, start.part_size)
    if cut is not None and not start.part_size and not tools.cut.may_run(cut):
        tools.cut.abort(cut.key, cut.identity)


def _is_to_be_resumed(cut: CutUploads, key: str, identity: str, is_first: bool) -> bool:
    """Return whether no other upload of a key is resumed in place of this one: a client would mix the two.

    The first one to be cut is kept, as on a disk. If two end at once, one that began while another ran gives way: it
    has ended for all others before it looks for them, and it looks for those that run, too.
    """
    if not is_first:
        cut.running.release(identity)
    others = [each for each in cut.all_of(key) if each.identity != identity]
    if is_first:
        return not any(each.size and each.identity not in cut.running for each in others)
    return not any(each.size or each.identity in cut.running for each in others)


def _remove_others(cut: CutUploads, key: str) -> None:
    """Remove what is left of other uploads of a key that has its object now."""
    try:
        cut.remove(key)
    except (Refusal, OSError):
        pass  # the file has its name: the next upload, or the sweeper, removes them


def _require(is_open: bool) -> None:
    """Raise Refusal if an upload is closed: then its bytes have gone."""
    if not is_open:
        raise Refusal(426, "The upload has ended.")
