"""An upload: all or nothing. Until it is complete the old file is there, and readable.

What arrives is written to a part with a private name in the same directory, and renamed at the end.
See `parts.py` for these names, and for what is left of an upload that was cut.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Literal, Self

from ftpsd import parts
from ftpsd.renaming import rename_new
from ftpsd.replies import Refusal

#: What an upload may take the place of when it is complete.
Replaces = Literal["anything", "the old file", "nothing"]

#: Bytes that are copied in one step.
_COPY = 64 * 1024 * 1024

#: Bytes in a name.
_LONGEST_NAME = 255


class Upload:
    """One file that is being received. The methods block."""

    def __init__(
        self,
        directory: int,
        name: str,
        part: str,
        fd: int,
        append: bool,
        replaces: Replaces,
        umask: int,
        fsync: bool,
        before: int,
        old: tuple[int, int],
    ) -> None:
        self.name = name
        self._directory = directory
        self._part = part
        self._fd = fd
        self._append = append
        self._replaces = replaces
        self._umask = umask
        self._fsync = fsync
        self._before = before
        self._position = self._start = os.lseek(fd, 0, os.SEEK_END)
        self._old, self._old_size = old
        self._worthless = False
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
        """Opens the part of a file; takes over the directory's descriptor.

        `offset` is the restart offset. `append` goes on where the file or the part that was left
        ends. With `fsync` it is on the disk, name and all, before it counts as published.
        """
        part, fd, before, old = "", -1, -1, (-1, 0)
        try:
            part, fd = parts.take(directory, name)
            if (append or offset) and part != parts.part_name(name):
                # What it is to go on with belongs to the other one.
                raise Refusal(450, "Another upload of that name is running. Try again later.")
            before = _pin(directory, name)
            old = _set_start(directory, name, fd, before, offset, append)
            upload = cls(directory, name, part, fd, append, replaces, umask, fsync, before, old)
            if old[0] >= 0:
                upload._start_copy()
            return upload
        except BaseException:
            for each in (before, old[0]):
                if each >= 0:
                    os.close(each)
            if fd >= 0:
                if os.fstat(fd).st_size == 0:
                    parts.remove(directory, part)
                os.close(fd)
            os.close(directory)
            raise

    def _start_copy(self) -> None:
        """A copy of the old file gets a name of its own, and the usual part, empty, is its lock.

        Were the daemon killed, what is left of a copy must not look like the beginning of a new file.
        """
        name = f"{self._part}-{secrets.token_hex(8)}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=self._directory)
        if not parts.lock(self._directory, name, fd):
            os.close(fd)
            raise Refusal(450, "The file is busy. Try again later.")
        self._lock = self._part, self._fd
        self._part, self._fd = name, fd

    # --- going on ----------------------------------------------------------------------------------

    def prepare(self) -> Iterator[None]:
        """Copies what the upload starts from, if that is the old file: step by step, so that it can end."""
        while self._position < self._old_size:
            self._position += _copy(self._old, self._fd, self._position, self._old_size)
            yield

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
            if self._replaces == "nothing":
                rename_new(self._directory, self._part, self._directory, self.name)
            elif self._replaces == "the old file" and self._is_another():
                raise FileExistsError
            else:
                os.rename(self._part, self.name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except FileExistsError:
            self._worthless = True  # there is no going on with it
            raise Refusal(553, f"{self.name} exists already.") from None
        except IsADirectoryError:
            self._worthless = True
            raise
        if self._part != parts.part_name(self.name):
            with suppress(OSError):  # what is kept would be gone on with as if it were of this file
                parts.forget(self._directory, self.name)

    def _is_another(self) -> bool:
        """Whether the name has come to belong to another file since the upload began."""
        now = _stat(self._directory, self.name)
        return now is not None and (self._before < 0 or not os.path.samestat(now, os.fstat(self._before)))

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
            for each in (self._directory, self._before, self._old, held, fd):
                if each >= 0:
                    ending.callback(os.close, each)
            if self._part:
                ending.callback(self._keep, fd)
            if lock:
                ending.callback(parts.remove, self._directory, lock)

    def _keep(self, fd: int) -> None:
        usual = parts.part_name(self.name)
        if self._worthless or os.fstat(fd).st_size == 0 or self._can_begin_again() or self._is_another():
            parts.remove(self._directory, self._part)
            return
        os.fchmod(fd, 0o600)  # it may have been about to appear
        if self._part != usual:
            # Another upload had the usual name when this one began: the first one's part is kept.
            try:
                rename_new(self._directory, self._part, self._directory, usual)
            except FileExistsError:
                parts.remove(self._directory, self._part)
            except FileNotFoundError:
                pass  # see _remove

    def _can_begin_again(self) -> bool:
        """Whether it began with a copy of the old file, and nothing is lost with that."""
        return self._old >= 0 and (self._append or self._position <= self._old_size)


def _set_start(directory: int, name: str, fd: int, before: int, offset: int, append: bool) -> tuple[int, int]:
    """Sets the part to where the upload starts; the old file and how much of it is to be copied first."""
    kept, old = os.fstat(fd).st_size, os.fstat(before) if before >= 0 else None
    if old is not None and kept and (append or offset > kept):
        # SIZE tells the old file's size: a client that goes on from there (curl -C -, lftp put -c) would
        # put the tail of the new file behind the old one.
        raise Refusal(
            550,
            f"An upload of that name was cut at {kept} bytes: go on with REST {kept} and STOR, or begin anew.",
        )
    if append:
        offset = kept if old is None else old.st_size
    if offset <= kept and (old is None or not append):
        _shorten(fd, kept, offset)
        return -1, 0
    if old is None or offset > old.st_size:
        raise Refusal(554, f"There are {max(kept, old.st_size if old else 0)} bytes only to go on from.")
    if not stat.S_ISREG(old.st_mode):
        raise Refusal(450, "The file is busy. Try again later.")
    # The pinned file, not the name: a FIFO that has taken it would block here.
    source = os.open(f"/proc/self/fd/{before}", os.O_RDONLY | os.O_CLOEXEC)
    _shorten(fd, kept, 0)
    return source, offset


def _shorten(fd: int, size: int, wanted: int) -> None:
    """Cuts a part off. One that is as it should be is left alone: ext4 takes a file that was truncated to nothing, even
    one that was empty, for one that is being replaced, and writes all of it to the disk when it is closed."""
    if wanted < size:
        os.ftruncate(fd, wanted)


def _copy(source: int, target: int, position: int, end: int) -> int:
    """One step of a copy: how many bytes it has moved."""
    wanted = min(_COPY, end - position)
    try:
        copied = os.copy_file_range(source, target, wanted, position, position)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            raise
        copied = os.pwrite(target, os.pread(source, min(wanted, 1024 * 1024), position), position)
    if not copied:
        raise OSError(errno.EIO, "the file became shorter")
    return copied


def _stat(directory: int, name: str) -> os.stat_result | None:
    """What has that name, if anything has it; a link is itself."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _pin(directory: int, name: str) -> int:
    """A descriptor of what has that name, or -1: as long as it is open no other file gets the same inode number."""
    try:
        return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return -1


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
