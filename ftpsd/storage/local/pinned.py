"""What has a name when an upload begins: copied from, and replaced only while it is exactly that.

Every other session, and every program on the machine, may change a file while an upload that continues it runs. What
identifies the content is the inode, its size and its times. Linux stamps changes with the time of its last tick, so a
change shows in the times only if a tick has passed since the last one: see `settle`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from contextlib import suppress

from ftpsd.storage.local import part_files
from ftpsd.storage.local.rename import UNSUPPORTED, exchange
from ftpsd.storage.upload_start import OldFile

#: Pieces of a sparse file that are copied in one step.
_PIECES = 256

#: The request of ioctl() that gives a file the blocks of another one (linux/fs.h).
_FICLONE = 0x40049409

#: Seconds to wait for the next tick; FAT counts 2 seconds, ext3 one, every other file system the kernel's 1 to 10 ms.
_TICK, _COARSE, _WAIT = 0.02, 2.1, 0.002

#: Bytes that the kernel adds to a file at once: nobody sees a part of them, not even after SIGKILL.
_PAGE = 4096


class Pinned:
    """What had the name when the upload began. While it is open no other file gets its inode number."""

    def __init__(self, directory: int, name: str) -> None:
        self._directory, self._name = directory, name
        self.fd = self._source = -1
        #: How it was then, or None if nothing had the name.
        self.info: os.stat_result | None = None
        with suppress(FileNotFoundError):
            self.fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            self.info = os.fstat(self.fd)

    @property
    def old_file(self) -> OldFile | None:
        """What `choose_start` must know of it."""
        return None if self.info is None else OldFile(self.info.st_size, stat.S_ISREG(self.info.st_mode))

    def is_another(self) -> bool:
        """Return whether the name has come to belong to something else."""
        now = self._now()
        return now is not None and (self.info is None or not os.path.samestat(now, self.info))

    def is_unchanged(self) -> bool:
        """Return whether the name still belongs to it, and it is as it was."""
        now = self._now()
        return now is not None and self.info is not None and _state(now) == _state(self.info)

    def _now(self) -> os.stat_result | None:
        return stat_name(self._directory, self._name)

    def settle(self, fd: int) -> None:
        """Wait until a change of it shows in its times. `fd` is a new file, which tells the time of the disk."""
        if self.info is None:
            return
        times = self.info.st_mtime_ns, self.info.st_ctime_ns
        limit = time.monotonic() + (_TICK if any(each % 1_000_000_000 for each in times) else _COARSE)
        while max(times) >= os.fstat(fd).st_mtime_ns and time.monotonic() < limit:
            time.sleep(_WAIT)
            os.utime(fd)

    # --- copying -----------------------------------------------------------------------------------

    def open(self) -> None:
        """Open it for copying: the pinned file, not the name, since a FIFO that has taken that would block here."""
        self._source = os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)

    def clone(self, target: int, size: int) -> bool:
        """Let a file have the first bytes of this one without copying them. Return whether the file system can."""
        try:
            fcntl.ioctl(target, _FICLONE, self._source)
            os.ftruncate(target, size)
        except OSError:
            return False
        return True

    def copy(self, target: int, position: int, end: int, at_most: int) -> tuple[int, int]:
        """Copy one step and leave holes out. Return the position it got to, and how many bytes were written."""
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
        """Return where the next data begin, and where they end."""
        try:
            begin = os.lseek(self._source, position, os.SEEK_DATA)
            return min(begin, end), min(os.lseek(self._source, begin, os.SEEK_HOLE), end)
        except OSError as error:
            return (end if error.errno == errno.ENXIO else position), end

    # --- publishing --------------------------------------------------------------------------------

    def open_to_append(self, size: int) -> int:
        """Open it for `append`, if so many bytes can be added to it in one step that nobody sees half done; else -1.

        A file with a second name may be a snapshot, and one that runs as its owner must not get new content.
        """
        info = self.info
        if info is None or info.st_nlink != 1 or info.st_mode & 0o7000 or size > _PAGE - info.st_size % _PAGE:
            return -1
        try:
            return os.open(f"/proc/self/fd/{self.fd}", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        except OSError:
            return -1

    def append(self, fd: int, data: bytes) -> None:
        """Add bytes to it. Raises FileExistsError if it is not exactly what it was."""
        if not self.is_unchanged():
            raise FileExistsError(errno.EEXIST, "changed")
        if os.write(fd, data) != len(data):
            raise OSError(errno.EIO, "not all was written")

    def replace(self, part: str, fd: int) -> None:
        """Give its name to a part file, which is open. Raises FileExistsError if it is not exactly what it was.

        The two exchange their names in one step, and if what is behind the name of the part file then is something
        else, they change back: whoever took the name between the look and the exchange keeps it.
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
        # The exchange itself has changed the ctime.
        displaced = stat_name(self._directory, part)
        if displaced is not None and self.info is not None and _state(displaced)[:-1] == _state(self.info)[:-1]:
            with suppress(OSError):
                part_files.remove(self._directory, part)
            return
        self._change_back(part, fd)
        raise FileExistsError(errno.EEXIST, "changed")

    def _change_back(self, part: str, fd: int) -> None:
        try:
            exchange(self._directory, part, self._name)
            now = stat_name(self._directory, part)
            if now is None or os.path.samestat(now, os.fstat(fd)):
                return
            exchange(self._directory, part, self._name)  # somebody has replaced ours: that is the newest
        except FileNotFoundError:
            pass  # somebody has removed ours, and what it displaced is to go, too
        part_files.remove(self._directory, part)

    def close(self) -> None:
        """Close what is open; any number of times."""
        fds, self.fd, self._source = (self.fd, self._source), -1, -1
        for each in fds:
            if each >= 0:
                os.close(each)


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
