"""Rename without replacing, in one step if the file system can; and exchange two names."""

from __future__ import annotations

import ctypes
import errno
import os
import stat

_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2

_libc = ctypes.CDLL(None, use_errno=True)

#: Errors for which the next method is tried: the file system, the kernel or a filter of system calls has not this one.
UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)


def rename_new(source: int, old: str, target: int, new: str) -> None:
    """Rename from one open directory to another.

    Raises FileExistsError if the target exists, even if it appeared after this call began. NFS has link() only, FAT and
    CIFS have renameat2() only, and some FUSE file systems have neither: then an empty placeholder is replaced.
    """
    for method in (_renameat2, _link):
        try:
            method(source, old, target, new)
        except OSError as error:
            if error.errno not in UNSUPPORTED or _must_stay(source, old):
                raise
        else:
            return
    _replace_placeholder(source, old, target, new)


def exchange(directory: int, one: str, other: str) -> None:
    """Exchange two names of a directory in one step. Raises OSError (`UNSUPPORTED`) on NFS, FAT and CIFS."""
    _call_renameat2(directory, one, directory, other, _RENAME_EXCHANGE)


def _must_stay(directory: int, name: str) -> bool:
    """Return whether the name cannot be removed, as in /tmp: link() would work there, and leave the file both names."""
    place, found = os.fstat(directory), os.stat(name, dir_fd=directory, follow_symlinks=False)
    return bool(place.st_mode & stat.S_ISVTX) and os.geteuid() not in (0, place.st_uid, found.st_uid)


def _renameat2(source: int, old: str, target: int, new: str) -> None:
    _call_renameat2(source, old, target, new, _RENAME_NOREPLACE)


def _call_renameat2(source: int, old: str, target: int, new: str, flags: int) -> None:
    call = getattr(_libc, "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(source, os.fsencode(old), target, os.fsencode(new), flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _link(source: int, old: str, target: int, new: str) -> None:
    os.link(old, new, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    try:
        os.unlink(old, dir_fd=source)
    except OSError as error:
        os.unlink(new, dir_fd=target)
        raise OSError(errno.EACCES, os.strerror(errno.EACCES)) from error  # the next method must not be tried


def _replace_placeholder(source: int, old: str, target: int, new: str) -> None:
    """Take the new name with an empty file or directory, and replace that. It is seen for a moment."""
    directory = stat.S_ISDIR(os.stat(old, dir_fd=source, follow_symlinks=False).st_mode)
    if directory:
        os.mkdir(new, 0o700, dir_fd=target)
    else:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(new, flags, 0o600, dir_fd=target))
    try:
        os.rename(old, new, src_dir_fd=source, dst_dir_fd=target)
    except OSError:
        (os.rmdir if directory else os.unlink)(new, dir_fd=target)
        raise
