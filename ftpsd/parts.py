"""Part files: what uploads that are not complete have written, under names that no client may use.

The name of a part file is made from the name of the file, so that REST and STOR, or APPE, find it again, also after
the daemon was restarted or killed. A lock (flock), which the kernel drops with the process, marks a part file that is
being written.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import stat
import time

from ftpsd.names import folded
from ftpsd.replies import Refusal

#: Names with this prefix are never shown, and cannot be said by a client.
PRIVATE = ".ftpsd-part-"

#: Seconds after which a part is asked for again: SIZE, RMD and a sweep hold its lock for a system call or two.
_MOMENT = 0.005


def is_private(name: str) -> bool:
    """Whether a name is one of ours, or one that some disk takes for one of ours."""
    return (name[:1] == "." or not name.isascii()) and folded(name).startswith(PRIVATE)


def part_name(name: str) -> str:
    """The private name of the part that belongs to a file; of a fixed length, whatever the name."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
    return PRIVATE + digest[:32]


def kept(directory: int, name: str) -> int:
    """How many bytes of an upload that was cut are kept. One that still runs has not been cut."""
    fd = _open_part(directory, part_name(name), os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return os.fstat(fd).st_size
    except BlockingIOError:
        raise FileNotFoundError(errno.ENOENT, "still being written") from None
    finally:
        os.close(fd)


def forget(directory: int, name: str) -> bool:
    """Removes the part that was left of a file, if nobody writes to it; whether there was one."""
    part = part_name(name)
    try:
        return _unlink_unused(directory, part)
    except FileNotFoundError:
        return False


def sweep_directory(directory: int, name: str) -> None:
    """Removes parts that were left from a directory that is to be removed and else empty.

    With one that is still written to the directory stays, and so do all of them.
    """
    try:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    except OSError:
        return  # the removal itself will tell
    try:
        names = os.listdir(fd)
        if all(each.startswith(PRIVATE) and not _in_use(fd, each) for each in names):
            for each in names:
                _unlink_unused(fd, each)
    finally:
        os.close(fd)


def remove(directory: int, part: str) -> None:
    """Removes a part, if it is still there: RMDA may have taken the whole directory."""
    try:
        os.unlink(part, dir_fd=directory)
    except FileNotFoundError:
        pass


def discard(directory: int, part: str, before: float, started: float) -> list[int]:
    """Removes a part that nobody writes to and that was last written to before a POSIX time; its size.

    Nobody can go on with one that has a token behind its name, that is empty, or that is the published
    file itself: what is left of such from before the daemon `started` goes at once.
    """
    fd = _open_part(directory, part)
    try:
        found = os.fstat(fd)
        useless = len(part) > len(part_name("")) or found.st_size == 0 or found.st_nlink > 1
        # Nothing is locked that is to stay: whoever goes on with it now must get it.
        if found.st_mtime >= (max(before, started) if useless else before) or not lock(directory, part, fd):
            return []
        os.unlink(part, dir_fd=directory)
        return [found.st_size]
    finally:
        os.close(fd)


def _open_part(directory: int, part: str, flags: int = os.O_RDWR) -> int:
    """Opens a part, whatever its mode: it has that of the file from just before it appears."""
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(part, flags, 0o600, dir_fd=directory)
    except PermissionError as refused:
        try:
            found = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        except FileNotFoundError:
            raise refused from None  # it may not be made
        try:
            info = os.fstat(found)
            if not stat.S_ISREG(info.st_mode) or info.st_nlink > 1:  # that may be the published file
                raise refused
            os.chmod(f"/proc/self/fd/{found}", 0o600)
        finally:
            os.close(found)
        return os.open(part, flags, 0o600, dir_fd=directory)


def _in_use(directory: int, part: str) -> bool:
    """Whether somebody writes to a part."""
    fd = _open_part(directory, part)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _unlink_unused(directory: int, part: str) -> bool:
    """Removes a part, if nobody writes to it; whether it did."""
    fd = _open_part(directory, part)
    try:
        ours = lock(directory, part, fd)
        if ours:
            os.unlink(part, dir_fd=directory)
        return ours
    finally:
        os.close(fd)


def take(directory: int, name: str) -> tuple[str, int]:
    """The part of a file, locked; one with a name of its own while another upload has that."""
    usual = part_name(name)
    # Again the usual one: it may be published or removed between the opening and the lock.
    for part, wait in ((usual, 0), (usual, 0), (usual, _MOMENT), (f"{usual}-{secrets.token_hex(8)}", _MOMENT)):
        if wait:
            time.sleep(wait)
        fd = _open_part(directory, part, os.O_RDWR | os.O_CREAT)
        try:
            if lock(directory, part, fd):
                if os.fstat(fd).st_nlink == 1:
                    return part, fd
                # The daemon was killed between link() and unlink(): this is the published file.
                os.unlink(part, dir_fd=directory)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
    raise Refusal(450, "The file is busy. Try again later.")


def lock(directory: int, part: str, fd: int) -> bool:
    """Locks a part that was opened; whether it is ours now, and still has its name."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(fd), os.stat(part, dir_fd=directory, follow_symlinks=False))
    except (BlockingIOError, FileNotFoundError):
        return False
