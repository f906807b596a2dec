"""A user's tree in which somebody has a quota (see `quota.py`): every change is charged, or gives back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from ftpsd.protocol.interfaces import Usage
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.local.jail import Place
from ftpsd.storage.local.root import Root
from ftpsd.storage.local.upload import Upload, exists
from ftpsd.storage.quota import Amount, Quota


class Charged(Upload):
    """An upload that charges what it writes, before it writes it; in the end the disk tells what stays."""

    _quota: Quota
    _paid = Amount()
    #: A second descriptor, which tells in the end what has become of the file.
    _witness = -1

    def hold(self, quota: Quota) -> None:
        """Takes the file over from the count. To be called within `changing`."""
        self._quota = quota
        self._witness = os.dup(self._fd)
        quota.count.hold(os.fstat(self._witness))

    def start(self) -> Amount:
        """What it starts with. A name that is there already needs no new file; to append, a copy of the old one is
        made."""
        return Amount(self._position, 0 if exists(self._directory, self.name) else 1)

    def started(self, paid: Amount) -> None:
        """That was charged; 552 if there is no room for more. What was kept stays then."""
        self._paid = paid
        self._quota.require_room()

    def _pay(self, amount: Amount) -> None:
        try:
            self._quota.take(amount)
        except Refusal:
            self._worthless = self._position > self._start  # what was kept before stays
            raise
        self._paid += amount

    def write(self, data: bytes | memoryview) -> None:
        """The next bytes; 552 if they are too many, and then the part is not kept."""
        self._pay(Amount(len(data)))
        super().write(data)

    def _appear(self) -> None:
        with self._quota.count.changing((self._directory, self.name)):
            if not self._paid.files and not exists(self._directory, self.name):
                self._pay(Amount(files=1))  # it was to be replaced, and is gone
            super()._appear()

    def close(self) -> None:
        """Ends it, and settles: what is still on the disk is counted, the rest is given back."""
        witness, self._witness = self._witness, -1
        if witness < 0:
            super().close()
            return
        count = self._quota.count
        with count.changing():
            try:
                super().close()
            finally:
                info = os.fstat(witness)
                os.close(witness)
                count.release(info)
                count.add((Amount(info.st_size, 1) if info.st_nlink else Amount()) - self._paid)


class CountedRoot(Root):
    """A user's tree in which somebody has a quota."""

    # A directory that the daemon may not read would not be counted, nor what is in it.
    _directory_bits = 0o700

    def __init__(self, quota: Quota, *root: Any) -> None:
        super().__init__(*root)
        self._quota = quota
        self._count = quota.count

    def available_space(self, path: VirtualPath) -> int:
        """Return the room for a new file, in bytes: none where the quota allows no more files."""
        room = super().available_space(path)
        return room if self._quota.allows_a_file() else 0

    def free_space(self, path: VirtualPath, permission: str | None = None) -> int:
        """The room on the disk or in the quota, whichever is less, in bytes."""
        left, room = self._quota.left(), super().free_space(path, permission)
        return room if left is None else min(left, room)

    def usage(self) -> Usage:
        """What the tree holds and may hold."""
        amount, limit = self._count.amount, self._quota.limit
        return Usage(max(0, amount.bytes), max(0, amount.files), limit.bytes, limit.files)

    def _begin(self, place: Place, how: tuple[Any, ...]) -> Upload:
        # A part that was kept is no longer counted for itself, as long as the upload has it.
        upload = None
        try:
            with self._count.changing((place.directory, how[1])) as charges:
                upload = Charged.begin(*how)
                upload.hold(self._quota)
                charges.append((start := upload.start(), self._quota.limit))
            upload.started(start)
        except BaseException:
            if upload is not None:
                upload.close()
            raise
        return upload

    def _changing(self, *names: tuple[int, str]) -> AbstractContextManager[Any]:
        return self._count.changing(*names)

    @contextmanager
    def _making(self, directory: int, name: str) -> Iterator[None]:
        with self._count.changing((directory, name)):
            if not exists(directory, name):
                self._quota.require_a_file()
            yield
