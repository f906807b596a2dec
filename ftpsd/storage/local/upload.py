"""An upload: all or nothing. Until it is complete, the old file has the name and can be read.

The bytes are written to a part file in the same directory, which is renamed in the end (see `part_files.py`).
Read `../upload_start.py` first.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Container, Hashable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Literal

from ftpsd.protocol.replies import Refusal
from ftpsd.storage.backend import Amount
from ftpsd.storage.local import part_files
from ftpsd.storage.local.measure import OpenPartFile, measure
from ftpsd.storage.local.pinned import Pinned, stat_name
from ftpsd.storage.local.rename import rename_new
from ftpsd.storage.upload_start import APPENDED, OUTRUN, RESUMABLE, choose_start

#: What a complete upload may replace.
Replaces = Literal["anything", "the old file", "nothing"]

#: The most bytes in a name.
_LONGEST_NAME = 255


@dataclass(frozen=True, slots=True)
class Target:
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
        copy         the same, but a file of its own that starts with bytes of the old file, `_old_size` of them;
                     the usual part file is kept empty, as a lock (`_lock`)
        in place     a copy that is not needed: the few bytes received are to be appended to the old file (`_in_place`)
        published    `_part` is ""
        closed       `_fd` is -1
    """

    def __init__(self, target: Target, part: str, fd: int, pinned: Pinned) -> None:
        """Take over the open part file and what has the name. `begin` makes uploads."""
        self.name = target.name
        self._directory = target.directory
        self._append = target.append
        self._replaces = target.replaces
        self._umask = target.umask
        self._fsync = target.fsync
        self._part, self._fd = part, fd
        self._pinned = pinned
        self._position = self._start = os.lseek(fd, 0, os.SEEK_END)
        #: Bytes of the old file that the upload starts with, or None; and how many of them have been copied.
        self._old_size: int | None = None
        self._copied = 0
        #: The old file, open for appending.
        self._in_place = -1
        #: Whether nothing is kept for resuming; whether the upload was complete, but the old file had changed.
        self._worthless = self._conflicted = False
        self._lock: tuple[str, int] | None = None
        #: The mode of the published file.
        self._mode = 0

    # --- beginning ---------------------------------------------------------------------------------

    @classmethod
    def begin(cls, target: Target, offset: int) -> Upload:
        """Open the part file, and cut it to where the upload starts. `offset` is the restart offset.

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
            upload = cls(target, part, fd, pinned)
            if start.copied is not None:
                upload._start_copy(start.copied)
            return upload
        except BaseException:
            if pinned is not None:
                pinned.close()
            if fd >= 0:
                if os.fstat(fd).st_size == 0:
                    part_files.unlink(directory, part)
                os.close(fd)
            os.close(directory)
            raise

    def _start_copy(self, size: int) -> None:
        """Give a copy of the old file a name of its own, and keep the usual part file, empty, as its lock.

        After a crash of the daemon, a part of a copy must not look like the start of a new file.
        """
        if self._replaces == "nothing":
            # The old file came after the permissions were checked.
            raise Refusal(450, "File busy: try again later.")
        self._pinned.open()
        name = part_files.spare_name(self.name)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=self._directory)
        if not part_files.lock(self._directory, name, fd):
            os.close(fd)
            raise Refusal(450, "File busy: try again later.")
        self._lock = self._part, self._fd
        self._part, self._fd, self._replaces = name, fd, "the old file"
        self._position = self._start = self._old_size = size
        self._pinned.settle(fd)
        if self._pinned.clone(fd, size):
            self._copied = size

    # --- receiving ---------------------------------------------------------------------------------

    def must_copy(self, complete: bool) -> bool:
        """Return whether `copy` is to be called now: before anything is received, or when all is (`complete`).

        APPE copies in the end: clients repeat one that was cut from its start, and a few bytes need no copy at all.
        """
        if self._old_size is None or (self._append and not complete):
            return False
        if self._append and self._in_place < 0 and self._pinned.is_unchanged():
            self._in_place = self._pinned.open_to_append(self._position - self._start)
        return self._in_place < 0 and self._copied < self._old_size

    def copy(self, at_most: int) -> int:
        """Copy a step of the old file. Return the number of bytes written, without those of holes."""
        assert self._old_size is not None
        try:
            self._copied, written = self._pinned.copy(self._fd, self._copied, self._old_size, at_most)
        except FileExistsError:
            self._worthless = True
            raise Refusal(450, f"{self.name} was changed during the upload: try again.") from None
        return written

    def write(self, data: bytes | memoryview) -> None:
        """Write the next bytes."""
        rest = memoryview(data)
        while rest:
            try:
                count = os.pwrite(self._fd, rest, self._position)
            except OSError as error:
                # A part file that nobody sees must not keep a full disk full.
                self._worthless = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
                raise
            self._position += count
            rest = rest[count:]

    # --- ending ------------------------------------------------------------------------------------

    def publish(self) -> None:
        """Give the complete file its name, in place of an older one."""
        self.flush()
        self.take_name()
        self.settle()

    def flush(self) -> None:
        """Write all bytes to the disk, as far as `fsync` and the kernel want that, and set the mode."""
        if self._in_place >= 0:
            return
        self._mode = self._published_mode()
        os.fchmod(self._fd, self._mode)
        self._write_back()

    def take_name(self) -> None:
        """Give the file its name. Raises Refusal if the name belongs to content that must not be replaced."""
        try:
            if self._in_place >= 0:
                self._append_in_place()
                return
            if self._replaces == "the old file":
                self._pinned.replace(self._part, self._fd)
            elif self._replaces == "nothing" or self._append:
                rename_new(self._directory, self._part, self._directory, self.name)
            else:
                os.rename(self._part, self.name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except FileExistsError:
            raise self._conflict() from None
        except IsADirectoryError:
            self._worthless = True
            raise
        if self._part != part_files.part_name(self.name):
            with suppress(OSError):  # an older part file would be resumed as if it were of this file
                part_files.remove_unused(self._directory, self.name)
        self._part = ""

    def settle(self) -> None:
        """Correct the mode, and write the name to the disk."""
        if self._in_place >= 0:
            return
        if stat.S_IMODE(os.fstat(self._fd).st_mode) != self._mode:
            os.fchmod(self._fd, self._mode)  # somebody checked whether the part file was in use: see `_open_part`
        if self._fsync:
            os.fsync(self._directory)

    def _append_in_place(self) -> None:
        self._pinned.append(self._in_place, os.pread(self._fd, self._position - self._start, self._start))
        self._worthless = True  # the bytes are in the old file
        if self._fsync:
            os.fsync(self._in_place)

    def _conflict(self) -> Refusal | OSError:
        """Return the error for a name that belongs to other content than the upload replaces or continues."""
        if not self._append and self._old_size is None:
            self._worthless = True
            return Refusal(553, f"{self.name} already exists.")
        size = os.fstat(self._fd)
        if not size.st_nlink:
            self._worthless = True
            return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))  # RMDA has removed the directory
        if self._in_place >= 0:
            self._worthless = True
            return Refusal(450, f"{self.name} was changed during the upload: try again.")
        self._conflicted = True
        return Refusal(
            450,
            f"{self.name} was changed during the upload: try again, or replace it with REST {self._position} and STOR.",
        )

    def _write_back(self) -> None:
        """Let late errors come now: NFS, CIFS and FUSE may report a full disk only when a descriptor is closed.

        The file's own descriptor stays open, since it holds the lock.
        """
        twin = os.dup(self._fd)
        try:
            try:
                if self._fsync:
                    os.fsync(self._fd)
            finally:
                os.close(twin)
        except OSError:
            self._worthless = True  # nobody knows which of its bytes are on the disk
            raise

    def _published_mode(self) -> int:
        old = stat_name(self._directory, self.name)
        if old is None or not stat.S_ISREG(old.st_mode):
            return 0o666 & ~self._umask
        return old.st_mode & 0o777  # set-user-ID was meant for the old content

    # --- for a quota (see `backend.Upload`) ----------------------------------------------------------

    def initial_amount(self) -> Amount:
        """Return the bytes that the upload starts with, and one file if its name is new."""
        return Amount(self._position, 0 if self.replaces() else 1)

    def open_part_file(self) -> OpenPartFile:
        """Return a second descriptor of the part file."""
        return OpenPartFile(self._fd)

    def discard_written(self) -> None:
        """Keep nothing for resuming, unless nothing was written: then what the upload started with is kept."""
        self._worthless = self._position > self._start

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
        lock, held = self._lock or ("", -1)
        with ExitStack() as ending:  # all of it, the last one first, whatever one of them raises
            ending.callback(self._pinned.close)
            for each in (self._directory, self._in_place, held, fd):
                if each >= 0:
                    ending.callback(os.close, each)
            if self._part:
                ending.callback(self._keep, fd)
            if lock:
                ending.callback(part_files.unlink, self._directory, lock)

    def _keep(self, fd: int) -> None:
        usual, found = part_files.part_name(self.name), os.fstat(fd)
        outdated = not self._conflicted and (self._can_begin_again() or self._pinned.is_another())
        if self._worthless or outdated or not found.st_size or not found.st_nlink:
            part_files.unlink(self._directory, self._part)
            return
        mode = RESUMABLE  # it may have the mode of the published file already
        if self._conflicted:
            # APPE that continued a part file is the end of one upload, not an addition to a file.
            continued_part = self._start and self._old_size is None
            mode = APPENDED if self._append and not continued_part else OUTRUN
        os.fchmod(fd, mode)
        part_files.store_name(fd, self.name)
        if self._part != usual:
            # Another upload had the usual name when this one began. The part file of the first one to end is kept.
            try:
                rename_new(self._directory, self._part, self._directory, usual)
            except FileExistsError:
                part_files.unlink(self._directory, self._part)
            except FileNotFoundError:
                pass  # see `part_files.unlink`

    def _can_begin_again(self) -> bool:
        """Return whether nothing is lost without the part file: it holds no more than a copy of the old file."""
        return self._old_size is not None and (self._append or self._position <= self._old_size)


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
