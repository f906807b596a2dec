"""What file systems do with names: fstatfs(2), of which Python has no kind of file system, through ctypes."""

from __future__ import annotations

import ctypes

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


def may_have_short_names(directory: int) -> bool:
    """Return whether an open directory may accept short names, which it does not list: those of FAT and NTFS (8.3).

    It may if the kernel does not tell: for large disks, fstatfs fails in 32-bit programs (EOVERFLOW).
    """
    buffer = ctypes.create_string_buffer(_SIZE)
    if _libc.fstatfs(directory, buffer):
        return True
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF not in _WITHOUT_SHORT_NAMES
