"""The old file of an upload: it is copied, and replaced only if it is exactly what it was when the upload began.

Other sessions, and other programs of the machine, may change a file while an upload runs that continues it. The content
is identified by inode, size and times. Linux stamps changes with the time of its last tick, so a change shows in the
times only if there was a tick since the change before: see `settle`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from contextlib import suppress

from ftpsd.storage.local.rename import UNSUPPORTED, exchange
from ftpsd.storage.upload_start import OldFile

#: The most pieces of a sparse file that are copied in one step.
_PIECES = 256

#: The request of ioctl() that lets a file share the blocks of another one (linux/fs.h).
_FICLONE = 0x40049409

#: Seconds to wait for the next tick: the kernel's takes 1 to 10 ms, ext3 counts seconds, FAT two of them. The last one
#: is the time between two looks.
_TICK, _COARSE, _WAIT = 0.02, 2.1, 0.002

#: Bytes that the kernel appends in one step: no reader sees a part of them, not even after SIGKILL.
_PAGE = 4096


class Pinned:
    """What had the name when the upload began. While it is open, no other file gets its inode number."""

    def __init__(self, directory: int, name: str) -> None:
        self._directory, self._name = directory, name
        self.fd = self._source = -1
        #: Its status then, or None if nothing had the name.
        self.info: os.stat_result | None = None
        with suppress(FileNotFoundError):
            self.fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            self.info = os.fstat(self.fd)

    @property
    def old_file(self) -> OldFile | None:
        """What `choose_start` must know of it."""
        return None if self.info is None else OldFile(self.info.st_size, stat.S_ISREG(self.info.st_mode))

    def is_another(self) -> bool:
        """Return whether the name now belongs to another file than the pinned one."""
        now = self._now()
        return now is not None and (self.info is None or not os.path.samestat(now, self.info))

    def is_unchanged(self) -> bool:
        """Return whether the name still belongs to the pinned file and its content is unchanged."""
        now = self._now()
        return now is not None and self.info is not None and _state(now) == _state(self.info)

    def _now(self) -> os.stat_result | None:
        return stat_name(self._directory, self._name)

    def settle(self, fd: int) -> None:
        """Wait until a change of it would show in its times. `fd` is a new file, whose times are those of the disk."""
        if self.info is None:
            return
        times = self.info.st_mtime_ns, self.info.st_ctime_ns
        limit = time.monotonic() + (_TICK if any(each % 1_000_000_000 for each in times) else _COARSE)
        while max(times) >= os.fstat(fd).st_mtime_ns and time.monotonic() < limit:
            time.sleep(_WAIT)
            os.utime(fd)

    # --- copying -----------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the pinned file for copying. It does not open the name: a FIFO that has the name now would block."""
        self._source = os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)

    def clone(self, target: int, size: int) -> bool:
        """Let a file share the first bytes of this one. Return whether the file system supports that."""
        try:
            fcntl.ioctl(target, _FICLONE, self._source)
            os.ftruncate(target, size)
        except OSError:
            return False
        return True

    def copy(self, target: int, position: int, end: int, at_most: int) -> tuple[int, int]:
        """Copy one step, without holes. Return the new position and the number of bytes written."""
        written = 0
        for _ in range(_PIECES):
            position, hole = self._next_data(position, end)
            if position >= end:
                if os.fstat(target).st_size < end:
                    os.ftruncate(target, end)
                break
            if written >= at_most:
                break
            count = _copy(self._source, target, position, min(hole - position, at_most - written))
            position, written = position + count, written + count
        return position, written

    def _next_data(self, position: int, end: int) -> tuple[int, int]:
        """Return the start and the end of the next data."""
        try:
            begin = os.lseek(self._source, position, os.SEEK_DATA)
            return min(begin, end), min(os.lseek(self._source, begin, os.SEEK_HOLE), end)
        except OSError as error:
            return (end if error.errno == errno.ENXIO else position), end

    # --- publishing --------------------------------------------------------------------------------

    def open_to_append(self, size: int) -> int:
        """Return a descriptor for `append`, or -1 if `size` bytes cannot be appended in one step that no reader sees
        half done.

        A file with a second name may be a snapshot, and one with set-user-ID must not get new content.
        """
        info = self.info
        if info is None or info.st_nlink != 1 or info.st_mode & 0o7000 or size > _PAGE - info.st_size % _PAGE:
            return -1
        try:
            return os.open(f"/proc/self/fd/{self.fd}", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        except OSError:
            return -1

    def append(self, fd: int, data: bytes) -> None:
        """Append bytes to it. Raises FileExistsError if it is not exactly what it was."""
        if not self.is_unchanged():
            raise FileExistsError(errno.EEXIST, "changed")
        if os.write(fd, data) != len(data):
            raise OSError(errno.EIO, "not all was written")

    def replace(self, part: str, fd: int) -> None:
        """Give its name to a part file, which is open. Raises FileExistsError if it is not exactly what it was.

        The two exchange their names in one step. If the name then turns out to have belonged to something else, which
        got it between the check and the exchange, they are exchanged back.
        """
        if not self.is_unchanged():
            raise FileExistsError(errno.EEXIST, "changed")
        try:
            exchange(self._directory, part, self._name)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            os.rename(part, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            return
        # The ctime is left out: the exchange itself has changed it.
        displaced = stat_name(self._directory, part)
        if displaced is not None and self.info is not None and _state(displaced)[:-1] == _state(self.info)[:-1]:
            with suppress(OSError):
                os.unlink(part, dir_fd=self._directory)
            return
        self._change_back(part, fd)
        raise FileExistsError(errno.EEXIST, "changed")

    def _change_back(self, part: str, fd: int) -> None:
        try:
            exchange(self._directory, part, self._name)
            now = stat_name(self._directory, part)
            if now is None or os.path.samestat(now, os.fstat(fd)):
                return
            # Another program has replaced the new file: its file is the newest.
            exchange(self._directory, part, self._name)
        except FileNotFoundError:
            pass  # another program has removed the new file: the old one goes, too
        with suppress(FileNotFoundError):
            os.unlink(part, dir_fd=self._directory)

    def close(self) -> None:
        """Close what is open. May be called any number of times."""
        fds, self.fd, self._source = (self.fd, self._source), -1, -1
        for each in fds:
            if each >= 0:
                os.close(each)


class Continued:
    """The first bytes of an upload that continues the old file: those of the old file, up to `size`.

    copying     some are in the upload's own file, the others are to be copied
    in place    nothing is copied: the few bytes received are to be appended to the old file, which `_fd` has open
    """

    def __init__(self, pinned: Pinned, size: int, fd: int) -> None:
        """Begin a copy of the pinned file, which is open for copying, to the new file `fd`."""
        self.size = size
        self._pinned = pinned
        self._fd = -1
        pinned.settle(fd)
        self._copied = size if pinned.clone(fd, size) else 0

    @property
    def in_place(self) -> bool:
        """Whether nothing is copied."""
        return self._fd >= 0

    @property
    def copied_all(self) -> bool:
        """Whether nothing is left to copy."""
        return self._fd >= 0 or self._copied >= self.size

    def try_in_place(self, added: int) -> None:
        """Append in place from now on if `added` bytes can be appended so, and the old file is unchanged."""
        if self._fd < 0 and self._pinned.is_unchanged():
            self._fd = self._pinned.open_to_append(added)

    def copy(self, fd: int, at_most: int) -> int:
        """Copy a step to the new file `fd`. Return the number of bytes written, without those of holes.

        Raises FileExistsError if the old file has become shorter.
        """
        self._copied, written = self._pinned.copy(fd, self._copied, self.size, at_most)
        return written

    def append(self, data: bytes, fsync: bool) -> None:
        """Append in place. Raises FileExistsError if the old file is not exactly what it was.

        If the disk fails, the bytes are taken away again: the client repeats the command.
        """
        self._pinned.append(self._fd, data)
        try:
            if fsync:
                os.fsync(self._fd)
        except OSError:
            if os.fstat(self._fd).st_size == self.size + len(data):  # nobody has appended more
                with suppress(OSError):
                    os.ftruncate(self._fd, self.size)
            raise

    def close(self) -> None:
        """Close what is open. May be called any number of times."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _state(info: os.stat_result) -> tuple[int, ...]:
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns


def stat_name(directory: int, name: str) -> os.stat_result | None:
    """Return the status of a name, or None; that of a link is its own."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _copy(source: int, target: int, position: int, wanted: int) -> int:
    try:
        copied = os.copy_file_range(source, target, wanted, position, position)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            raise
        copied = os.pwrite(target, os.pread(source, min(wanted, 1024 * 1024), position), position)
    if not copied:
        raise FileExistsError(errno.EEXIST, "it became shorter")
    return copied
