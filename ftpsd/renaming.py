"""A name for a file only if nothing has that name yet, in one step of the file system where it can."""

from __future__ import annotations

import ctypes
import errno
import os

_RENAME_NOREPLACE = 1

_libc = ctypes.CDLL(None, use_errno=True)

#: What tells that a file system (or the kernel, or a filter of system calls) has not got one of the ways.
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)


def rename_new(directory: int, old: str, new: str) -> None:
    """Renames within a directory; FileExistsError when the new name is taken, since whenever that is.

    NFS has link() only, FAT and CIFS have renameat2() only, and some of FUSE have neither.
    """
    for way in (_renameat2, _link):
        try:
            way(directory, old, new)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
        else:
            return
    _replace_placeholder(directory, old, new)


def _renameat2(directory: int, old: str, new: str) -> None:
    call = getattr(_libc, "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(directory, os.fsencode(old), directory, os.fsencode(new), _RENAME_NOREPLACE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _link(directory: int, old: str, new: str) -> None:
    os.link(old, new, src_dir_fd=directory, dst_dir_fd=directory)
    os.unlink(old, dir_fd=directory)


def _replace_placeholder(directory: int, old: str, new: str) -> None:
    """An empty file takes the name first: it is seen for a moment, but nothing of anybody is replaced."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    os.close(os.open(new, flags, 0o600, dir_fd=directory))
    try:
        os.rename(old, new, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        os.unlink(new, dir_fd=directory)
        raise
