"""The types of file systems, and what they do with names."""

from __future__ import annotations

import ctypes
import os

#: The kinds of file systems (linux/magic.h) that find a file by the names that they list, and by no other, short one.
_WITHOUT_SHORT_NAMES = {
    0xEF53,  # ext2, ext3, ext4
    0x58465342,  # XFS
    0x9123683E,  # Btrfs
    0x01021994,  # tmpfs
    0x2FC12FC1,  # ZFS
    0xF2F52010,  # F2FS
    0xCA451A4E,  # bcachefs
}

#: Bytes for `struct statfs`, whose size depends on the architecture. It begins with the kind, a long integer.
_SIZE = 512

_libc = ctypes.CDLL(None)


def type_of(device: int) -> str:
    """Return the type of the mounted file system with this device number, such as "ext4", or "" if it is not known.

    proc_pid_mountinfo(5) tells it. Subvolumes of Btrfs are not found: their files have other device numbers.
    Raises OSError.
    """
    number = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        for line in mounts:
            mount, _, source = line.partition(" - ")
            if mount.split()[2] == number:
                return source.split()[0]
    return ""


def may_have_short_names(directory: int) -> bool:
    """Return whether an open directory may accept short names, which it does not list: those of FAT and NTFS (8.3).

    This asks fstatfs(2), which is quick enough to be asked for each name. If that does not tell, the file system may
    have them: for large disks, fstatfs fails in 32-bit programs (EOVERFLOW).
    """
    buffer = ctypes.create_string_buffer(_SIZE)
    if _libc.fstatfs(directory, buffer):
        return True
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF not in _WITHOUT_SHORT_NAMES
