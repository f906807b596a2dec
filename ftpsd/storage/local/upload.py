"""An upload: all or nothing. Until it is complete, the old file has the name and can be read.

The bytes are written to a part file in the same directory, which is renamed in the end (see `part_files.py`).
Read `../upload_start.py` and `../upload_end.py` first.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable, Container, Hashable
from contextlib import suppress
from functools import partial
from typing import Literal, NamedTuple

from ftpsd.data.endpoints import never_pending
from ftpsd.limits.home_counts import Amount
from ftpsd.outbox.claims import Evidence, UploadClaim
from ftpsd.outbox.evidence import appended, moved
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.local import part_files
from ftpsd.storage.local.measure import OpenPartFile, measure
from ftpsd.storage.local.pinned import Continued, Pinned, stat_name
from ftpsd.storage.local.rename import rename_new
from ftpsd.storage.local.write_behind import WriteBehind
from ftpsd.storage.upload_end import Outcome, PartState, choose_end
from ftpsd.storage.upload_start import choose_start

#: What a complete upload may replace.
Replaces = Literal["anything", "the old file", "nothing"]

#: Errors of a disk or file that is full.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

#: The most bytes in a name.
_LONGEST_NAME = 255


class Target(NamedTuple):
    """What an upload is to become."""

    #: A descriptor of the directory, which the upload takes over and closes.
    directory: int
    name: str
    #: Whether it continues the old file (APPE).
    append: bool
    replaces: Replaces
    umask: int
    #: Whether it is on the disk, name and all, before it is published.
    fsync: bool


class Upload:
    """One file that is being received. The methods block; they are called by one thread at a time.

    Its states, and what holds the bytes received so far:

        part file    `_part`, `_fd`: continued, or new and empty
        copy         the same, but a file of its own that starts with bytes of the old file (`_old`); the usual part
                     file is kept empty, as a lock (`_lock`)
        in place     a copy that is not needed: `_old` appends the few bytes received to the old file
        published    `_part` is ""
        closed       `_fd` is -1
    """

    pending = never_pending

    def __init__(
        self,
        target: Target,
        part: tuple[str, int],
        pinned: Pinned,
        held: int = 0,
        old: Continued | None = None,
        lock: tuple[str, int] | None = None,
    ) -> None:
        """Take over the open part file, what has the name, and the lock. `begin_upload` makes uploads.

        `held` is how many bytes the part file had when it was opened.
        """
        self.name = target.name
        self._target = target
        self._directory = target.directory
        self._replaces: Replaces = target.replaces if old is None else "the old file"
        self._part, self._fd = part
        self._pinned = pinned
        self._held = held
        self._old = old
        self._lock = lock
        #: Where the next byte is written; where the first one was.
        self._position = self._start = os.lseek(self._fd, 0, os.SEEK_END) if old is None else old.size
        writes = target.fsync or pinned.info is not None
        self._behind = WriteBehind(self._fd, self._position, target.fsync) if writes else None
        #: The mode of the published file.
        self._mode = 0
        self._outcome = Outcome.CUT

    # --- receiving ---------------------------------------------------------------------------------

    def must_copy(self, complete: bool) -> bool:
        """Return whether `copy` is to be called now: before anything is received, or when all is (`complete`).

        APPE copies in the end: clients repeat one that was cut from its start, and a few bytes need no copy at all.
        """
        if self._old is None:
            return False
        if self._target.append:
            if not complete:
                return False
            self._old.try_in_place(self._position - self._start)
        return not self._old.copied_all

    def copy(self, at_most: int) -> int:
        """Copy a step of the old file. Return the number of bytes written, without those of holes."""
        assert self._old is not None
        try:
            return self._old.copy(self._fd, at_most)
        except FileExistsError:
            self._outcome = Outcome.WORTHLESS
            raise Refusal(450, f"{self.name} was changed during the upload: try again.") from None

    def write(self, data: bytes | memoryview) -> None:
        """Write the next bytes."""
        rest = memoryview(data)
        while rest:
            try:
                count = os.pwrite(self._fd, rest, self._position)
            except OSError as error:
                if error.errno in _FULL:  # a part file that nobody sees must not keep a full disk full
                    self._outcome = Outcome.WORTHLESS
                raise
            self._position += count
            rest = rest[count:]
        try:
            if self._behind is not None:
                self._behind.received(self._position)
        except OSError:
            self._outcome = Outcome.WORTHLESS  # nobody knows which of its bytes are on the disk
            raise

    # --- ending ------------------------------------------------------------------------------------

    def publish(self) -> None:
        """Give the complete file its name, in place of an older one."""
        self.flush()
        self.take_name()
        self.settle()

    def flush(self) -> None:
        """Set the mode, and with `fsync` write all bytes to the disk. Raises OSError for late errors of the disk."""
        if self._old is not None and self._old.in_place:
            return
        self._mode = _published_mode(self._target)
        os.fchmod(self._fd, self._mode)
        try:
            _write_back(self._fd, self._target.fsync)
        except OSError:
            self._outcome = Outcome.WORTHLESS  # nobody knows which of its bytes are on the disk
            raise

    def take_name(self) -> bool:
        """Give the file its name (see `backend.Upload`).

        Raises Refusal if the name belongs to content that must not be replaced.
        """
        try:
            if self._old is not None and self._old.in_place:
                self._old.append(os.pread(self._fd, self._position - self._start, self._start), self._target.fsync)
                self._outcome = Outcome.WORTHLESS  # the bytes are in the old file
                return False
            if not part_files.is_own(self._directory, self._part, self._fd):  # RMDA has removed it
                self._outcome = Outcome.WORTHLESS
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            if self._replaces == "the old file":
                self._pinned.replace(self._part, self._fd)
            elif self._replaces == "nothing" or self._target.append:
                rename_new(self._directory, self._part, self._directory, self.name)
            else:
                os.rename(self._part, self.name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except FileExistsError:
            self._outcome, refusal = self._conflict()
            raise refusal from None
        except IsADirectoryError:
            self._outcome = Outcome.WORTHLESS
            raise
        if self._part != part_files.part_name(self.name):
            with suppress(OSError):  # an older part file would be resumed as if it were of this file
                part_files.remove_unused(self._directory, self.name)
        self._part = ""
        return True

    def settle(self) -> None:
        """Correct the mode, and write the name to the disk."""
        if self._part:
            return  # it was appended in place
        if stat.S_IMODE(os.fstat(self._fd).st_mode) != self._mode:
            os.fchmod(self._fd, self._mode)  # another thread has looked whether the part file is in use: `_open_part`
        if self._target.fsync:
            os.fsync(self._directory)

    def _conflict(self) -> tuple[Outcome, Refusal | OSError]:
        """Return outcome and error for a name that belongs to other content than the upload replaces or continues."""
        if not self._target.append and self._old is None:
            return Outcome.WORTHLESS, Refusal(553, f"{self.name} already exists.")
        if not os.fstat(self._fd).st_nlink:  # RMDA has removed the directory
            return Outcome.WORTHLESS, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        changed = f"{self.name} was changed during the upload: try again"
        if self._old is not None and self._old.in_place:
            return Outcome.WORTHLESS, Refusal(450, f"{changed}.")
        return Outcome.OVERTAKEN, Refusal(450, f"{changed}, or replace it with REST {self._position} and STOR.")

    # --- for a durable event (see `claimed_upload`) -----------------------------------------------------

    def evidence(self, claim: UploadClaim) -> Evidence:
        """Return what tells after a crash whether the upload got its name. Called between `flush` and `take_name`."""
        received, home, file = self._position - self._start, claim.home, claim.file
        if self._old is not None and self._old.in_place and self._pinned.info is not None:
            data = os.pread(self._fd, received, self._start)
            proof = appended(home, self._pinned.info.st_ino, file, self._start, data)
        else:
            proof = moved(home, os.fstat(self._fd).st_ino, self._part, file)
        return Evidence(proof, received, self._position)

    def leave(self) -> None:
        """Keep the part file when the upload ends, since it is not known yet whether the upload has failed."""
        self._part = ""

    # --- for a quota (see `backend.Upload`) ----------------------------------------------------------

    def initial_amount(self) -> Amount:
        """Return the bytes that the upload starts with, and one file if its name is new."""
        return Amount(self._position, 0 if self.replaces() else 1)

    def open_part_file(self) -> OpenPartFile:
        """Return a second descriptor of the part file."""
        return OpenPartFile(self._fd, self._held)

    def discard_written(self) -> None:
        """Keep nothing for resuming, unless nothing was written: then what the upload started with is kept."""
        if self._position > self._start:
            self._outcome = Outcome.WORTHLESS

    def replaces(self) -> bool:
        """Return whether something has the name now."""
        return exists(self._directory, self.name)

    def measure(self, charged: Container[Hashable]) -> Amount:
        """Return what the name and its part file hold now."""
        return measure(((self._directory, self.name),), charged)

    # --- the end -----------------------------------------------------------------------------------

    def close(self) -> None:
        """End the upload. Unless it was published, keep the part file for resuming, if it is worth that."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        steps: list[Callable[[], object]] = []
        if self._lock is not None:
            steps.append(partial(part_files.unlink_own, self._directory, *self._lock))
        if self._part:
            steps.append(partial(self._keep, fd))
        steps.append(partial(os.close, fd))
        if self._lock is not None:
            steps.append(partial(os.close, self._lock[1]))
        if self._old is not None:
            steps.append(self._old.close)
        _call_each(*steps, partial(os.close, self._directory), self._pinned.close)

    def _keep(self, fd: int) -> None:
        """Keep the part file or remove it, as `choose_end` says."""
        old, append, found = self._old, self._target.append, os.fstat(fd)
        state = PartState(
            size=found.st_size if found.st_nlink else 0,
            append=append,
            continued=bool(self._start) and old is None,
            repeatable=old is not None and (append or self._position <= old.size),
            outdated=self._pinned.is_another(),
        )
        mode = choose_end(self._outcome, state)
        if mode is None:
            part_files.unlink_own(self._directory, self._part, fd)
        else:
            part_files.keep(self._directory, self._part, fd, self.name, mode)


def begin_upload(target: Target, offset: int) -> Upload:
    """Open the part file, cut it to where the upload starts, and return the upload. `offset` is the restart offset.

    Takes over the directory's descriptor, also if it raises Refusal or OSError.
    """
    directory, name = target.directory, target.name
    part, fd, pinned = "", -1, None
    try:
        part, fd = part_files.open_locked(directory, name)
        if (target.append or offset) and part != part_files.part_name(name):
            # The other upload has the part file that this one is to continue.
            raise Refusal(450, "Another upload to this name is running: try again later.")
        pinned = Pinned(directory, name)
        found = os.fstat(fd)
        start = choose_start(found.st_size, found.st_mode, pinned.old_file, offset, target.append)
        _shorten(fd, found.st_size, start.part_size)
        if start.copied is None:
            return Upload(target, (part, fd), pinned, found.st_size)
        return _begin_copy(target, (part, fd), pinned, start.copied)
    except BaseException:
        if pinned is not None:
            pinned.close()
        if fd >= 0:
            if os.fstat(fd).st_size == 0:
                part_files.unlink_own(directory, part, fd)
            os.close(fd)
        os.close(directory)
        raise


def _begin_copy(target: Target, lock: tuple[str, int], pinned: Pinned, size: int) -> Upload:
    """Return an upload that starts with `size` bytes of the old file. The usual part file, empty, is its lock.

    The copy has a name of its own: after a crash of the daemon, a part of it must not look like the start of a new
    file.
    """
    if target.replaces == "nothing":
        # The old file came after the permissions were checked.
        raise Refusal(450, "File busy: try again later.")
    pinned.open()
    name = part_files.spare_name(target.name)
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target.directory)
    try:
        if not part_files.lock(target.directory, name, fd):
            raise Refusal(450, "File busy: try again later.")
        return Upload(target, (name, fd), pinned, old=Continued(pinned, size, fd), lock=lock)
    except BaseException:
        part_files.unlink_own(target.directory, name, fd)
        os.close(fd)
        raise


def _call_each(first: Callable[[], object], *others: Callable[[], object]) -> None:
    """Call functions in turn, each also if one before it raises. ExitStack does the same at a multiple of the cost."""
    try:
        first()
    finally:
        if others:
            _call_each(*others)


def _write_back(fd: int, fsync: bool) -> None:
    """Let late errors come now: NFS, CIFS and FUSE may report a full disk only when a descriptor is closed.

    The file's own descriptor stays open, since it holds the lock.
    """
    twin = os.dup(fd)
    try:
        if fsync:
            os.fsync(fd)
    finally:
        os.close(twin)


def _published_mode(target: Target) -> int:
    old = stat_name(target.directory, target.name)
    if old is None or not stat.S_ISREG(old.st_mode):
        return 0o666 & ~target.umask
    return old.st_mode & 0o777  # set-user-ID was meant for the old content


def _shorten(fd: int, size: int, wanted: int) -> None:
    """Cut a part file. No call is made if its size is right: after a truncation to nothing, even of an empty file, ext4
    writes the whole file to the disk when it is closed, since it takes that for a replacement."""
    if wanted < size:
        os.ftruncate(fd, wanted)


def exists(directory: int, name: str) -> bool:
    """Return whether something has a name in a directory, also a broken link."""
    return stat_name(directory, name) is not None


def free_name(directory: int, wanted: str) -> str:
    """Return a name that is free in a directory. It starts with as much of the wanted name as fits."""
    for _ in range(100):
        token = f".{secrets.token_hex(4)}"
        begin = os.fsdecode(os.fsencode(wanted)[: _LONGEST_NAME - len(token)])
        while not wanted.startswith(begin):
            begin = begin[:-1]  # bytes of a character that was cut in two
        if not exists(directory, begin + token):
            return begin + token
    raise FileExistsError(errno.EEXIST, "no free name")
