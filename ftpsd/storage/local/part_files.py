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
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, suppress
from typing import Any

from ftpsd.protocol.name_rules import folded
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.upload_start import APPENDED

#: Names with this prefix are never shown, and cannot be said by a client.
PRIVATE = ".ftpsd-part-"

#: What is held while a name of an open directory changes.
Changing = Callable[[int, str], AbstractContextManager[Any]]

#: Seconds between two attempts to lock a part file, and how many there are: listings, SIZE, RMD and a sweep hold its
#: lock for a system call or two, but a busy machine may take their thread away meanwhile.
_MOMENT, _ATTEMPTS = 0.005, 100

#: The form of a part file's name that has the name of the file, and the form that has its digest.
_READABLE = re.compile(rf"{re.escape(PRIVATE)}n-([^.]+)%")
_DIGEST = re.compile(rf"{re.escape(PRIVATE)}[0-9a-f]{{32}}")

#: Bytes in the readable form; a longer name is told by its digest. eCryptfs has the shortest names, of 143 bytes.
_LONGEST = 143

#: The extended attribute with the name of the file, for the part files whose own name does not tell it.
_ATTRIBUTE = "user.ftpsd.name"


def is_private(name: str) -> bool:
    """Whether a name is one of ours, or one that some disk takes for one of ours."""
    return (name[:1] == "." or not name.isascii()) and folded(name).startswith(PRIVATE)


def part_name(name: str) -> str:
    """Return the name of the part file that belongs to a file.

    It tells the name of the file, so that listings can show what was cut. Dots are escaped, and the end is marked:
    `find -name '*.csv'` and web servers that run `*.php` must not take a part file for what it is to become.
    """
    readable = f"{PRIVATE}n-{name.replace('%', '%25').replace('.', '%2E')}%"
    return readable if len(os.fsencode(readable)) <= _LONGEST else _digest_name(name)


def _digest_name(name: str) -> str:
    return PRIVATE + hashlib.sha256(os.fsencode(name)).hexdigest()[:32]


def spare_name(name: str) -> str:
    """Return a name for a part file of a file that nothing has, and under which nobody resumes it."""
    return f"{_digest_name(name)}-{secrets.token_hex(8)}"


def _file_name(fd: int, part: str) -> str | None:
    """Return the name of the file that an open part file belongs to, or None if that is not known."""
    name = None
    if readable := _READABLE.fullmatch(part):
        name = readable[1].replace("%2E", ".").replace("%25", "%")
    elif _DIGEST.fullmatch(part):
        with suppress(OSError):
            name = os.fsdecode(os.getxattr(fd, _ATTRIBUTE))
    # Other programs can make such files, too.
    return name if name and "/" not in name and name not in (".", "..") and part_name(name) == part else None


def remember(fd: int, name: str) -> None:
    """Store the name of a file in its part file, if the part file's own name does not tell it and the disk can."""
    if not _READABLE.fullmatch(part_name(name)):
        with suppress(OSError):
            os.setxattr(fd, _ATTRIBUTE, os.fsencode(name))


def resumable(directory: int, part: str) -> tuple[str | None, os.stat_result]:
    """Return the file name, if it is known, and the status of the part file of an upload that was cut.

    Raises FileNotFoundError if there is nothing to resume. An upload that still runs has not been cut.
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
    """Return name and status of what a part file shows in a listing: an upload that was cut, until its name belongs to
    something else. None if it shows nothing."""
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


def remove_of(directory: int, name: str) -> bool:
    """Removes the part that was left of a file, if nobody writes to it; whether there was one."""
    part = part_name(name)
    try:
        return _unlink_unused(directory, part)
    except FileNotFoundError:
        return False


def sweep_directory(directory: int, name: str, changing: Changing) -> Generator[None, None, None]:
    """Remove the part files from a directory that is to be removed and holds nothing else, in short steps.

    With one that is still written to, all of them stay. `changing` is held around each removal.
    """
    try:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return  # the removal itself will tell
    try:
        for obstacle in (_is_no_part, _in_use):
            for each in _names(fd):
                if obstacle(fd, each):
                    return
                yield
        removed = True
        while removed:  # what is removed may keep others from being found by the same scan
            removed = False
            for each in _names(fd):
                with changing(fd, each), suppress(FileNotFoundError):
                    removed |= _unlink_unused(fd, each)
                yield
    finally:
        os.close(fd)


def _names(directory: int) -> Iterator[str]:
    with os.scandir(directory) as found:
        for entry in found:
            yield entry.name


def _is_no_part(_: int, name: str) -> bool:
    return not name.startswith(PRIVATE)


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
        resumable = _READABLE.fullmatch(part) or _DIGEST.fullmatch(part)
        useless = not resumable or found.st_size == 0 or found.st_nlink > 1
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
    try:
        fd = _open_part(directory, part)
    except FileNotFoundError:
        return False
    try:
        return _is_locked(fd)
    finally:
        os.close(fd)


def _is_locked(fd: int) -> bool:
    """Return whether an upload holds the lock of an open part file. Whoever only looks takes a shared lock."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
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


def open_locked(directory: int, name: str) -> tuple[str, int]:
    """Open and lock the part file of a file, or one with a spare name while another upload has that."""
    usual = part_name(name)
    for attempt in range(_ATTEMPTS):
        # It may be published or removed between the opening and the lock.
        if attempt > 1:
            time.sleep(_MOMENT)
        fd, busy = _take(directory, usual)
        if fd >= 0:
            return usual, fd
        if busy and attempt > 1:
            break
    spare = spare_name(name)
    fd, _ = _take(directory, spare)
    if fd < 0:
        raise Refusal(450, "File busy: try again later.")
    return spare, fd


def _take(directory: int, part: str) -> tuple[int, bool]:
    """Try to open and lock a part file: its descriptor or -1, and whether an upload holds the lock."""
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
    """Locks a part that was opened; whether it is ours now, and still has its name."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(fd), os.stat(part, dir_fd=directory, follow_symlinks=False))
    except (BlockingIOError, FileNotFoundError):
        return False
