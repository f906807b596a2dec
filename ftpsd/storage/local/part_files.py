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
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress

from ftpsd.protocol.name_rules import folded
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.local.rename import rename_new
from ftpsd.storage.upload_start import APPENDED
from ftpsd.system.jobs.job_lock import LockSteps, repeated

#: The prefix of their names. Listings never show these, and clients cannot use them.
PRIVATE = ".ftpsd-part-"

#: Counts the change of a name in an open directory, which the body of the context makes.
Changing = Callable[[int, str], AbstractContextManager[object]]

#: Seconds between two attempts to lock a part file, and the number of attempts. Listings, SIZE, RMD and the sweeper
#: hold the lock for a system call or two, but a busy machine may suspend their thread meanwhile.
_LOCK_INTERVAL, _LOCK_ATTEMPTS = 0.005, 100

#: The two forms of the name of a part file: with the name of the file, and with its digest.
_READABLE = re.compile(rf"{re.escape(PRIVATE)}n-([^.]+)%")
_DIGEST = re.compile(rf"{re.escape(PRIVATE)}[0-9a-f]{{32}}")

#: The most bytes in the first form. eCryptfs, which has the shortest names of all file systems, permits 143.
_MAX_NAME = 143

#: The extended attribute with the name of the file, for part files with a digest in their names.
_ATTRIBUTE = "user.ftpsd.name"


def is_private(name: str) -> bool:
    """Return whether a name is that of a part file, also on a disk that ignores case."""
    return (name[:1] == "." or not name.isascii()) and folded(name).startswith(PRIVATE)


def part_name(name: str) -> str:
    """Return the name of the part file that belongs to a file.

    It contains the name of the file, so that listings can show uploads that were cut. Dots are escaped and the end is
    marked: `find -name '*.csv'` and web servers that run `*.php` must not take a part file for a complete one.
    """
    readable = f"{PRIVATE}n-{name.replace('%', '%25').replace('.', '%2E')}%"
    return readable if len(os.fsencode(readable)) <= _MAX_NAME else _digest_name(name)


def _digest_name(name: str) -> str:
    return PRIVATE + hashlib.sha256(os.fsencode(name)).hexdigest()[:32]


def spare_name(name: str) -> str:
    """Return a new name for a part file, from which no upload resumes."""
    return f"{_digest_name(name)}-{secrets.token_hex(8)}"


def _file_name(fd: int, part: str) -> str | None:
    """Return the name of the file that an open part file belongs to, or None if that is not known."""
    name = None
    if readable := _READABLE.fullmatch(part):
        name = readable[1].replace("%2E", ".").replace("%25", "%")
    elif _DIGEST.fullmatch(part):
        with suppress(OSError):
            name = os.fsdecode(os.getxattr(fd, _ATTRIBUTE))
    # Other programs may have made the file or its attribute.
    return name if name and "/" not in name and name not in (".", "..") and part_name(name) == part else None


def store_name(fd: int, name: str) -> None:
    """Store the name of a file in its part file, if that has a digest in its name and the disk has attributes."""
    if not _READABLE.fullmatch(part_name(name)):
        with suppress(OSError):
            os.setxattr(fd, _ATTRIBUTE, os.fsencode(name))


def keep(directory: int, part: str, fd: int, name: str, mode: int) -> None:
    """Keep the open part file of a file, with this mode, so that the next upload finds it.

    Another upload may have had the usual name when this one began. The part file of the first one to end is kept.
    """
    os.fchmod(fd, mode)  # it may have the mode of the published file already
    store_name(fd, name)
    usual = part_name(name)
    if part != usual:
        try:
            rename_new(directory, part, directory, usual)
        except FileExistsError:
            unlink_own(directory, part, fd)
        except FileNotFoundError:
            pass  # see `is_own`


def resumable(directory: int, part: str) -> tuple[str | None, os.stat_result]:
    """Return the name of the file, if it is known, and the status of a part file that can be resumed.

    Raises FileNotFoundError if there is nothing to resume, or if an upload is still writing to it.
    """
    fd = _open_part(directory, part, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        found = os.fstat(fd)
        useless = stat.S_IMODE(found.st_mode) == APPENDED or not found.st_size or found.st_nlink != 1
        if useless or not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError(errno.ENOENT, "nothing to resume")
        return _file_name(fd, part), found
    except BlockingIOError:
        raise FileNotFoundError(errno.ENOENT, "still being written") from None
    finally:
        os.close(fd)


def resumable_entry(directory: int, part: str) -> tuple[str, os.stat_result] | None:
    """Return name and status for a listing: of an upload that was cut, if nothing else has its name. Else None."""
    try:
        name, found = resumable(directory, part)
    except OSError:
        return None
    if name is None or is_private(name):
        return None
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return name, found
    except OSError:
        pass
    return None


def remove_unused(directory: int, name: str) -> bool:
    """Remove the part file of a file, unless an upload writes to it. Return whether it was removed."""
    part = part_name(name)
    try:
        return _unlink_unused(directory, part)
    except FileNotFoundError:
        return False


def clear_directory(directory: int, name: str, changing: Changing) -> LockSteps[None]:
    """Remove the part files from a directory, in short steps, if it holds nothing else and no upload writes to one.

    Each removal is the body of `changing`.
    """
    try:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return  # the removal of the directory fails, too
    try:
        for obstacle in (_is_no_part_file, _is_in_use):
            for each in _names(fd):
                if obstacle(fd, each):
                    return
                yield None
        removed = True
        while removed:  # a removal may hide other names from the same scan
            removed = False
            for each in _names(fd):
                removed |= yield from repeated(_unlink_counted, fd, each, changing)
                yield None
    finally:
        os.close(fd)


def _unlink_counted(directory: int, part: str, changing: Changing) -> bool:
    with changing(directory, part):
        try:
            return _unlink_unused(directory, part)
        except FileNotFoundError:
            return False


def _names(directory: int) -> Iterator[str]:
    with os.scandir(directory) as found:
        for entry in found:
            yield entry.name


def _is_no_part_file(_: int, name: str) -> bool:
    return not name.startswith(PRIVATE)


def is_own(directory: int, part: str, fd: int) -> bool:
    """Return whether an upload's open part file still has its name.

    RMDA removes part files that are being written, too. If it does not remove the directory in the end, another upload
    may make a part file of the same name there.
    """
    try:
        return os.path.samestat(os.fstat(fd), os.stat(part, dir_fd=directory, follow_symlinks=False))
    except FileNotFoundError:
        return False


def unlink_own(directory: int, part: str, fd: int) -> None:
    """Remove an upload's open part file, unless that has lost its name (see `is_own`)."""
    if is_own(directory, part, fd):
        with suppress(FileNotFoundError):
            os.unlink(part, dir_fd=directory)


def remove_expired(directory: int, part: str, before: float, started: float) -> list[int]:
    """Remove a part file that was last written to before a POSIX time, unless an upload writes to it.

    Return a list with its size, or an empty one. A part file that cannot be resumed (it has a spare name, is empty, or
    has become the published file) is removed if it is older than the daemon, which `started` at a POSIX time.
    """
    fd = _open_part(directory, part)
    try:
        found = os.fstat(fd)
        resumable = _READABLE.fullmatch(part) or _DIGEST.fullmatch(part)
        useless = not resumable or found.st_size == 0 or found.st_nlink > 1
        # Do not lock one that is to stay: an upload that resumes it now must get the lock.
        if found.st_mtime >= (max(before, started) if useless else before) or not lock(directory, part, fd):
            return []
        os.unlink(part, dir_fd=directory)
        return [found.st_size]
    finally:
        os.close(fd)


def _open_part(directory: int, part: str, flags: int = os.O_RDWR) -> int:
    """Open a part file, whatever its mode is. It gets the mode of the file shortly before it is published."""
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(part, flags, 0o600, dir_fd=directory)
    except PermissionError as refused:
        try:
            found = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        except FileNotFoundError:
            raise refused from None  # the directory is not writable
        try:
            info = os.fstat(found)
            if not stat.S_ISREG(info.st_mode) or info.st_nlink > 1:  # that may be the published file
                raise refused
            os.chmod(f"/proc/self/fd/{found}", 0o600)
        finally:
            os.close(found)
        return os.open(part, flags, 0o600, dir_fd=directory)


def _is_in_use(directory: int, part: str) -> bool:
    """Return whether an upload writes to a part file."""
    try:
        fd = _open_part(directory, part)
    except FileNotFoundError:
        return False
    try:
        return _is_locked(fd)
    finally:
        os.close(fd)


def _is_locked(fd: int) -> bool:
    """Return whether an upload holds the lock of an open part file. Other code takes a shared lock, briefly."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _unlink_unused(directory: int, part: str) -> bool:
    """Remove a part file unless an upload writes to it. Return whether it was removed."""
    fd = _open_part(directory, part)
    try:
        ours = lock(directory, part, fd)
        if ours:
            os.unlink(part, dir_fd=directory)
        return ours
    finally:
        os.close(fd)


def open_locked(directory: int, name: str) -> tuple[str, int]:
    """Open and lock the part file of a file, or one with a spare name if another upload has that.

    Return its name and its descriptor. Raises Refusal if neither can be had.
    """
    usual = part_name(name)
    for attempt in range(_LOCK_ATTEMPTS):
        # Another upload may publish or remove it between the opening and the lock.
        if attempt > 1:
            time.sleep(_LOCK_INTERVAL)
        fd, busy = _try_open_locked(directory, usual)
        if fd >= 0:
            return usual, fd
        if busy and attempt > 1:
            break
    spare = spare_name(name)
    fd, _ = _try_open_locked(directory, spare)
    if fd < 0:
        raise Refusal(450, "File busy: try again later.")
    return spare, fd


def _try_open_locked(directory: int, part: str) -> tuple[int, bool]:
    """Try to open and lock a part file. Return its descriptor or -1, and whether another upload has the lock."""
    fd = _open_part(directory, part, os.O_RDWR | os.O_CREAT)
    try:
        if not lock(directory, part, fd):
            busy = _is_locked(fd)
        elif os.fstat(fd).st_nlink == 1:
            if _DIGEST.fullmatch(part):
                with suppress(OSError):
                    os.removexattr(fd, _ATTRIBUTE)
            taken, fd = fd, -1
            return taken, True
        else:
            # The daemon was killed between link() and unlink(): this is the published file.
            os.unlink(part, dir_fd=directory)
            busy = False
    finally:
        if fd >= 0:
            os.close(fd)
    return -1, busy


def lock(directory: int, part: str, fd: int) -> bool:
    """Lock an open part file. Return whether that was possible, and it still has its name."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return is_own(directory, part, fd)
