"""An upload: all or nothing. Until it is complete the old file is there, and readable.

What arrives is written to a part with a private name in the same directory, and renamed at the end.
See `part_files.py` for these names, and for what is left of an upload that was cut.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import ExitStack, suppress
from typing import Literal, Self

from ftpsd.protocol.replies import Refusal
from ftpsd.storage.local import part_files
from ftpsd.storage.local.pinned import Pinned
from ftpsd.storage.local.rename import rename_new

#: What an upload may take the place of when it is complete.
Replaces = Literal["anything", "the old file", "nothing"]

#: Bytes in a name.
_LONGEST_NAME = 255


class Upload:
    """One file that is being received. The methods block."""

    def __init__(
        self,
        directory: int,
        name: str,
        part: tuple[str, int],
        pinned: Pinned,
        append: bool,
        replaces: Replaces,
        umask: int,
        fsync: bool,
    ) -> None:
        self.name = name
        self._directory = directory
        self._part, self._fd = part
        self._pinned = pinned
        self._append = append
        self._replaces = replaces
        self._umask = umask
        self._fsync = fsync
        self._position = self._start = os.lseek(self._fd, 0, os.SEEK_END)
        #: Bytes of the pinned file that the upload starts with, or None; and how many of them have been copied.
        self._old_size: int | None = None
        self._copied = 0
        #: The pinned file, open to be appended to, where that is as good as to replace it.
        self._in_place = -1
        self._worthless = self._conflicted = False
        self._lock: tuple[str, int] | None = None

    # --- beginning ---------------------------------------------------------------------------------

    @classmethod
    def begin(
        cls,
        directory: int,
        name: str,
        offset: int,
        append: bool,
        replaces: Replaces,
        umask: int,
        fsync: bool,
    ) -> Self:
        """Open the part file of a file, and take over the directory's descriptor.

        `offset` is the restart offset. `append` continues the file or the part file. With `fsync` an upload is
        published only when it is on the disk, name and all.
        """
        part, fd, pinned = "", -1, None
        try:
            part, fd = part_files.take(directory, name)
            if (append or offset) and part != part_files.part_name(name):
                # What it is to continue belongs to the other one.
                raise Refusal(450, "Another upload of that name is running. Try again later.")
            pinned = Pinned(directory, name)
            size = _set_start(fd, pinned, offset, append)
            upload = cls(directory, name, (part, fd), pinned, append, replaces, umask, fsync)
            if size is not None:
                upload._start_copy(size)
            return upload
        except BaseException:
            if pinned is not None:
                pinned.close()
            if fd >= 0:
                if os.fstat(fd).st_size == 0:
                    part_files.remove(directory, part)
                os.close(fd)
            os.close(directory)
            raise

    def _start_copy(self, size: int) -> None:
        """A copy of the old file gets a name of its own, and the usual part file, empty, is its lock.

        If the daemon were killed, a part of a copy must not look like the beginning of a new file.
        """
        if self._replaces == "nothing":
            # It came after the permissions were looked at.
            raise Refusal(450, "The file is busy. Try again later.")
        self._pinned.open()
        name = part_files.spare_name(self.name)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=self._directory)
        if not part_files.lock(self._directory, name, fd):
            os.close(fd)
            raise Refusal(450, "The file is busy. Try again later.")
        self._lock = self._part, self._fd
        self._part, self._fd, self._replaces = name, fd, "the old file"
        self._position = self._start = self._old_size = size
        self._pinned.settle(fd)
        if self._pinned.clone(fd, size):
            self._copied = size

    # --- receiving ---------------------------------------------------------------------------------

    def must_copy(self, complete: bool) -> bool:
        """Return whether `copy` is to be called now: before anything is received, or when it is complete.

        APPE copies in the end: one that is cut is repeated from the start, and a few bytes need no copy at all.
        """
        if self._old_size is None or (self._append and not complete):
            return False
        if self._append and self._in_place < 0 and self._pinned.is_unchanged():
            self._in_place = self._pinned.open_to_append(self._position - self._start)
        return self._in_place < 0 and self._copied < self._old_size

    def copy(self, at_most: int) -> int:
        """Copy a step of what the upload starts with. Return how many bytes were written: holes are left out."""
        assert self._old_size is not None
        try:
            self._copied, written = self._pinned.copy(self._fd, self._copied, self._old_size, at_most)
        except FileExistsError:
            self._worthless = True
            raise Refusal(450, f"{self.name} was changed meanwhile. Try again.") from None
        return written

    def write(self, data: bytes | memoryview) -> None:
        """The next bytes."""
        rest = memoryview(data)
        while rest:
            try:
                count = os.pwrite(self._fd, rest, self._position)
            except OSError as error:
                # What does not fit must not fill the disk for everybody else, under a name that nobody sees.
                self._worthless = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
                raise
            self._position += count
            rest = rest[count:]

    # --- ending ------------------------------------------------------------------------------------

    def publish(self) -> None:
        """The file is complete: it appears under its name, in place of an older one."""
        if self._in_place >= 0:
            self._appear()
            return
        mode = self._mode()
        os.fchmod(self._fd, mode)
        self._write_back()
        self._appear()
        self._part = ""
        if stat.S_IMODE(os.fstat(self._fd).st_mode) != mode:
            os.fchmod(self._fd, mode)  # somebody has looked whether the part was in use: see `_open_part`
        if self._fsync:
            os.fsync(self._directory)

    def _appear(self) -> None:
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
            with suppress(OSError):  # it would be resumed as if it were of this file
                part_files.forget(self._directory, self.name)

    def _append_in_place(self) -> None:
        self._pinned.append(self._in_place, os.pread(self._fd, self._position - self._start, self._start))
        self._worthless = True  # the part file has done its work
        if self._fsync:
            os.fsync(self._in_place)

    def _conflict(self) -> Refusal | OSError:
        """The name belongs to other content than that which the upload replaces or continues."""
        if not self._append and self._old_size is None:
            self._worthless = True
            return Refusal(553, f"{self.name} exists already.")
        size = os.fstat(self._fd)
        if not size.st_nlink:
            self._worthless = True
            return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))  # RMDA has taken the directory
        if self._in_place >= 0:
            self._worthless = True
            return Refusal(450, f"{self.name} was changed meanwhile. Try again.")
        self._conflicted = True
        return Refusal(
            450, f"{self.name} was changed meanwhile. Try again, or replace it by REST {self._position} and STOR."
        )

    def _write_back(self) -> None:
        """Lets errors that would come late come now: NFS, CIFS and FUSE may tell of a full disk only when
        a descriptor is closed. The file's own stays open, since it holds the lock.
        """
        twin = os.dup(self._fd)
        try:
            try:
                if self._fsync:
                    os.fsync(self._fd)
            finally:
                os.close(twin)
        except OSError:
            self._worthless = True  # which of its bytes have arrived, nobody knows
            raise

    def _mode(self) -> int:
        old = _stat(self._directory, self.name)
        if old is None or not stat.S_ISREG(old.st_mode):
            return 0o666 & ~self._umask
        return old.st_mode & 0o777  # to run as its owner was for the old content

    def close(self) -> None:
        """Ends it; what was not published is kept for going on, if there is anything. Any number of times."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        lock, held = self._lock or ("", -1)
        with ExitStack() as ending:  # all of it, the last one first, whatever one of them says
            ending.callback(self._pinned.close)
            for each in (self._directory, self._in_place, held, fd):
                if each >= 0:
                    ending.callback(os.close, each)
            if self._part:
                ending.callback(self._keep, fd)
            if lock:
                ending.callback(part_files.remove, self._directory, lock)

    def _keep(self, fd: int) -> None:
        usual, found = part_files.part_name(self.name), os.fstat(fd)
        outdated = not self._conflicted and (self._can_begin_again() or self._pinned.is_another())
        if self._worthless or outdated or not found.st_size or not found.st_nlink:
            part_files.remove(self._directory, self._part)
            return
        mode = part_files.RESUMABLE  # it may have been about to appear
        if self._conflicted:
            # A file that was continued from the part of an upload is one upload.
            continued_part = self._start and self._old_size is None
            mode = part_files.APPENDED if self._append and not continued_part else part_files.OUTRUN
        os.fchmod(fd, mode)
        part_files.remember(fd, self.name)
        if self._part != usual:
            # Another upload had the usual name when this one began: the first one's part is kept.
            try:
                rename_new(self._directory, self._part, self._directory, usual)
            except FileExistsError:
                part_files.remove(self._directory, self._part)
            except FileNotFoundError:
                pass  # see parts.remove

    def _can_begin_again(self) -> bool:
        """Whether it began with a copy of the old file, and nothing is lost with that."""
        return self._old_size is not None and (self._append or self._position <= self._old_size)


def _set_start(fd: int, pinned: Pinned, offset: int, append: bool) -> int | None:
    """Cut a part file to where the upload starts; or return how many bytes of the pinned file it starts with."""
    found, old = os.fstat(fd), pinned.info
    kept = size = found.st_size
    if part_files.is_outdated(found.st_mode, append, offset == size, old is not None):
        kept = 0
    if old is not None and kept and (append or offset > kept):
        # SIZE tells the old file's size: a client that continues there (curl -C -, lftp put -c) would
        # put the tail of the new file behind the old one.
        raise Refusal(
            550,
            f"An upload of that name was cut at {kept} bytes: resume it by REST {kept} and STOR, or start anew.",
        )
    if append:
        offset = kept if old is None else old.st_size
    if offset <= kept and (old is None or not append):
        _shorten(fd, size, offset)
        return None
    if old is None or offset > old.st_size:
        raise Refusal(554, f"There are only {max(kept, old.st_size if old else 0)} bytes to continue from.")
    if not pinned.is_file:
        raise Refusal(450, "The file is busy. Try again later.")
    _shorten(fd, size, 0)
    return offset


def _shorten(fd: int, size: int, wanted: int) -> None:
    """Cuts a part off. One that is as it should be is left alone: ext4 takes a file that was truncated to nothing, even
    one that was empty, for one that is being replaced, and writes all of it to the disk when it is closed."""
    if wanted < size:
        os.ftruncate(fd, wanted)


def _stat(directory: int, name: str) -> os.stat_result | None:
    """What has that name, if anything has it; a link is itself."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def exists(directory: int, name: str) -> bool:
    """Whether a directory has that name; a link that leads nowhere counts."""
    return _stat(directory, name) is not None


def free_name(directory: int, wanted: str) -> str:
    """A name that nothing in a directory has, and that begins with the one that was wanted, as far as there is room."""
    for _ in range(100):
        token = f".{secrets.token_hex(4)}"
        begin = os.fsdecode(os.fsencode(wanted)[: _LONGEST_NAME - len(token)])
        while not wanted.startswith(begin):
            begin = begin[:-1]  # bytes of a character that was cut
        if not exists(directory, begin + token):
            return begin + token
    raise FileExistsError(errno.EEXIST, "no free name")
