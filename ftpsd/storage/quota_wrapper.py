"""Files with a quota: a wrapper of any `Files`, and of the uploads that it begins.

The rules:

* An upload is charged for what it starts with, then for each write before it is made. When it gets its name, or ends
  without one, the storage is asked what there is of it, and the charge becomes that.
* A new name is charged as one file; a name that exists needs none, unless it is removed while the upload runs.
* A directory is charged as one file.
* Every other change is measured before and after, and the difference is added, also if it frees something.
* Free space is that of the storage or of the quota, whichever is less.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from twisted.internet.defer import Deferred, succeed

from ftpsd.limits.home_counts import Amount
from ftpsd.protocol.interfaces import Usage
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.backend import CountableFiles, Measure, PartFile, Upload
from ftpsd.storage.home_usage import Change
from ftpsd.storage.quota import Quota


class QuotaCounter:
    """The `ChangeCounter` of a user's quota: counts each change in the home, and refuses what exceeds the limit."""

    def __init__(self, quota: Quota) -> None:
        self._quota = quota

    @property
    def order(self) -> str:
        """See `ChangeCounter`."""
        return self._quota.usage.home

    def changing(self, measure: Measure) -> AbstractContextManager[object]:
        """See `ChangeCounter`."""
        return self._quota.usage.changing(measure)

    @contextmanager
    def receiving(self, amount: Amount, measure: Measure) -> Iterator[None]:
        """See `ChangeCounter`. The amount is charged first, and returned in the step that counts what has come."""
        with self._quota.usage.changing(measure) as change:
            self._quota.charge(amount)
            change.charge(Amount() - amount)
            yield

    def require_a_file(self) -> None:
        """See `ChangeCounter`."""
        self._quota.require_a_file()

    def upload(self, measure: Measure, begin: Callable[[], Upload]) -> ChargedUpload:
        """See `ChangeCounter`.

        From now on a part file that is resumed counts as part of the upload, so its former count goes in the same step
        in which the upload is charged.
        """
        charged = None
        with self._quota.usage.locked():  # also while an upload is closed that may not begin
            try:
                with self._quota.usage.changing(measure) as change:
                    charged = ChargedUpload(begin(), self._quota)
                    initial = charged.take_over(change)
                    change.charge(initial, self._quota.limits)
                charged.paid = initial
                self._quota.require_room()
            except BaseException:
                if charged is not None:
                    charged.close()
                raise
        return charged


class ChargedUpload:
    """An upload that is charged for what it writes, before it writes it."""

    def __init__(self, upload: Upload, quota: Quota) -> None:
        self._upload = upload
        self._quota = quota
        #: What was charged for it so far.
        self.paid = Amount()
        self._part_file: PartFile | None = None
        self._flushed = False
        self.name = upload.name
        self.must_copy = upload.must_copy
        self.copy = upload.copy
        self.discard_written = upload.discard_written
        self.pending = upload.pending

    def take_over(self, change: Change) -> Amount:
        """Leave the part file out of measurements. Return what the upload starts with. Only within `changing`."""
        part_file = self._upload.open_part_file()
        try:
            self._quota.usage.exclude(part_file.identity)
        except BaseException:
            part_file.close()
            raise
        self._part_file = part_file
        if part_file.identity in change.left_out:  # of a process that is being killed: it no longer has the lock of it
            change.found -= part_file.held
        return self._upload.initial_amount()

    def _pay(self, amount: Amount) -> None:
        try:
            self._quota.charge(amount)
        except Refusal:
            self._upload.discard_written()
            raise
        self.paid += amount

    def write(self, data: bytes | memoryview) -> None:
        """Write the next bytes. Raises Refusal (552) if they exceed the quota: then what was written is discarded."""
        self._pay(Amount(len(data)))
        self._upload.write(data)

    def publish(self) -> None:
        """Give the complete upload its name."""
        upload = self._upload
        if not self._flushed:  # it is called again if another job changes names now
            upload.flush()
            self._flushed = True
        with self._quota.usage.changing(upload.measure) as change:
            if not self.paid.files and not upload.replaces():
                self._pay(Amount(files=1))  # the old file was removed while the upload ran
            if upload.take_name():
                # It is measured as any file from now on: another session may move it before `close`.
                self._include()
                change.charge(Amount() - self.paid)
        upload.settle()

    def _include(self) -> Amount:
        """Measure the part file again, and return what it holds. Only within `changing`."""
        part_file, self._part_file = self._part_file, None
        if part_file is None:
            return Amount()
        self._quota.usage.include(part_file.identity)
        try:
            return part_file.amount()
        finally:
            part_file.close()

    def close(self) -> None:
        """End the upload, and correct the charge to what the storage holds of it. Any number of times."""
        if self._part_file is None:
            self._upload.close()
            return
        with self._quota.usage.changing() as change:
            try:
                self._upload.close()
            finally:
                change.found = self._include()
                change.charge(Amount() - self.paid)


class QuotaFiles:
    """The files of a user in whose home somebody has a quota."""

    def __init__(self, files: CountableFiles, quota: Quota) -> None:
        """Wrap the files of one session, which has entered the home (see `Quotas.enter`)."""
        self._files = files
        self._quota = quota
        files.count_changes(QuotaCounter(quota))
        # These are as they were: `QuotaCounter` counts the changes that they make.
        self.directories = files.directories
        self.listing = files.listing
        self.reader = files.reader
        self.writer = files.writer
        self.entry = files.entry
        self.require_directory = files.require_directory
        self.first_entries = files.first_entries
        self.make_directory = files.make_directory
        self.remove_directory = files.remove_directory
        self.remove_tree = files.remove_tree
        self.remove = files.remove
        self.rename = files.rename
        self.move_to = files.move_to
        self.root = files.root
        self.set_time = files.set_time
        self.size = files.size
        self.stop = files.stop

    @property
    def walking(self) -> bool:
        """Whether a command walks through a directory or a tree now."""
        return self._files.walking

    async def free_space(self, path: VirtualPath) -> int:
        """Return the free bytes of the storage or the quota, whichever are fewer."""
        free, remaining = await self._files.free_space(path), self._quota.bytes().remaining
        return free if remaining is None else min(free, remaining)

    async def available_space(self, path: VirtualPath) -> int:
        """Return the free bytes for a new file: none if the quota permits no more files."""
        free, remaining = await self._files.available_space(path), self._quota.bytes().remaining
        if not self._quota.permits_a_file():
            return 0
        return free if remaining is None else min(free, remaining)

    def usage(self, path: VirtualPath) -> Deferred[Usage | None]:
        """Return what is used of the nearest limits: of the home or folder, or of a group."""
        size, files = self._quota.bytes(), self._quota.files()
        used = max(0, size.used), max(0, files.used)
        return succeed(Usage(*used, size.limit, files.limit, self._quota.at, size.group, files.group))

    def set_mode(self, path: VirtualPath, mode: int) -> Awaitable[int]:
        """Set the permission bits, but keep directories readable for the daemon, which has to count them."""
        return self._files.set_mode(path, mode, mode | 0o700)

    def close(self) -> None:
        """Release the resources of the session, which has ended."""
        self._files.close()
        self._quota.usage.leave()
